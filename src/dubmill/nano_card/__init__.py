"""nano's card: what the shipped weights reach, measured anew by one command, with pictures to look at."""
