"""Captions and clips to clips: text-to-video, inpainting, and the masks it needs."""
