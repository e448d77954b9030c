"""The LoRA training loop."""
