"""Trains every part of nano from random weights: one loop, one module per part."""
