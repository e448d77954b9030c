"""Pictures to look at: contact sheets of clips, spectrograms, and curves."""

from __future__ import annotations

import json
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


def save_curve(log: Path, path: Path) -> None:
    """Every held-out figure of a `curve.jsonl` over the steps."""
    from matplotlib.figure import Figure

    rows = [row for row in map(json.loads, log.read_text().splitlines()) if row["kind"] == "held_out"]
    names = [name for name in rows[-1] if name not in ("kind", "step", "clock")]
    figure = Figure(figsize=(3 * len(names), 2.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], marker=".")
        axis.set_title(name)
    figure.savefig(path)
