"""The file of a training's losses and noise levels, one line per step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dubmill.artifacts.files import LOSSES_FILE

NUM_BINS = 10  # of the histogram of sampled sigmas


class LossLog:
    """The file of losses: a line per step, cut back to the checkpoint when a run resumes."""

    def __init__(self, folder: Path, num_done: int) -> None:
        self.path = folder / LOSSES_FILE
        kept = self.path.read_text().splitlines()[:num_done] if self.path.exists() else []
        self.path.write_text("".join(line + "\n" for line in kept))

    def add(self, row: dict[str, Any]) -> None:
        """Appends one step."""
        kept = ("step", "video", "audio", "total", "lr", "sigmas")
        with self.path.open("a") as stream:
            stream.write(json.dumps({name: row[name] for name in kept}) + "\n")

    def sigma_histogram(self) -> list[int]:
        """Returns counts of all sampled sigmas in ten bins from 0 to 1; it shows a collapse to the last bins."""
        rows = (json.loads(line) for line in self.path.read_text().splitlines())
        sigmas = torch.tensor([sigma for row in rows for sigma in row["sigmas"]])
        return torch.histc(sigmas, NUM_BINS, 0, 1).long().tolist()
