"""nano's model card: what the shipped weights reach, measured by one command, with pictures."""
