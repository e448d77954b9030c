"""Trains, measures and serves dubbing models: makes bilingual clip pairs with a joint audio-video model, and fits a LoRA on them."""

__version__ = "0.2.0"
