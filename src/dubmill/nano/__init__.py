"""The embedded backbone: a rendered world of puppets that say digits, and an LTX-2 small enough to learn it on two CPU cores."""
