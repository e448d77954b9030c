"""The embedded backbone: a closed world of puppets that count, and an LTX-2 small enough to learn it on two cores."""
