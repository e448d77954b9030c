"""LTX-2: pipeline, attention, conditioning, sampling steps and loading; imports nothing of dubmill but its errors."""
