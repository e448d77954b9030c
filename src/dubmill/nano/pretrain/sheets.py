"""Pictures to look at: contact sheets of clips and spectrograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image


def save_rows(clips: list[torch.Tensor], path: Path, zoom: int = 2) -> None:
    """One row per clip (C, F, H, W) in [-1, 1]; frames side by side."""
    rows = [clip.permute(2, 1, 3, 0).flatten(1, 2) for clip in clips]
    pixels = ((torch.cat(rows).numpy() + 1) * 127.5).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize((pixels.shape[1] * zoom, pixels.shape[0] * zoom), Image.Resampling.NEAREST).save(
        path
    )


def save_mels(mels: list[torch.Tensor], path: Path, zoom: int = 3) -> None:
    """One band of rows per log-mel (T, 64), low notes at the bottom."""
    rows = [((mel.T.flip(0) + 11.5) / 12).clamp(0, 1) for mel in mels]
    pixels = (torch.cat(rows).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).resize((pixels.shape[1] * zoom, pixels.shape[0] * zoom)).save(path)
