"""Training of the dubbing LoRA: batches and noise levels, optimizer, loop, and validation dubs."""
