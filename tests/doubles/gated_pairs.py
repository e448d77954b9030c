"""A tiny sealed PairSet with two held-out pairs of noise."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import Line, PairRow
from dubmill.artifacts.store import PairSet
from dubmill.media.clips import Clip


def make_pairs(out: Path, *, seed: int = 0, noise: int = 0) -> PairSet:
    """Two held-out pairs whose clips follow `seed`; `noise` changes the set without changing the held-out clips."""
    draft = PairSet.draft(out, Lineage(step="gate", params={"seed": seed, "noise": noise}))
    rng, rows, files = np.random.default_rng(seed), [], {}
    for index in range(2):
        frames = rng.integers(0, 255, (5, 8, 8, 3)).astype(np.uint8)
        clip = Clip(frames, Fraction(25, 2), np.zeros((1, 6400), np.float32), 16000)
        row = PairRow(
            id=f"held-{index}",
            split="heldout",
            source="world",
            half="first",
            seed=seed,
            speaker="a puppet",
            original=Line(language="en", text="one"),
            counterpart=Line(language="es", text="uno"),
            mouth_boxes=[[0, 0, 4, 4]] * 5,
            accepted=False,
        )
        rows.append(row)
        files[f"{row.id}/original.clip"] = clip.to_bytes()
    draft.add_shard(0, rows, files)
    return draft.seal({"gated": True})
