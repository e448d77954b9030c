"""Clips from captions and clips: encoding and decoding, sampling, inpainting and its masks, seeds."""
