"""nano's model card: figures and pictures of the shipped weights, measured by one command."""
