"""What every parameter means, the presets, and overlays."""
