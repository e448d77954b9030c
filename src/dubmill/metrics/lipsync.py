"""Does the mouth move with the sound, and with this sound rather than the old one?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_SPREAD = 1e-6  # of a mouth opening in 0..1: less is rounding, not movement


@dataclass(frozen=True)
class LipSync:
    """LSE-D, LSE-C and the offset in frames at which picture and sound fit best (0: in sync)."""

    distance: float
    confidence: float
    offset_frames: float


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation of two series over their common length, frames without a number left out.

    Fewer than two frames, or a series that does not move, correlate with nothing: 0 by definition.
    """
    length = min(len(first), len(second))
    a, b = (np.asarray(one[:length], dtype=np.float64) for one in (first, second))
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 2 or min(a.std(), b.std()) < LEAST_SPREAD:
        return 0.0
    return float(np.clip(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()), -1.0, 1.0))


def lip_sync(distances: np.ndarray) -> LipSync:
    """LSE by its published definition, from mean distances at offsets -K ... K frames (SyncNet, as Wav2Lip uses it).

    LSE-D is the least distance, LSE-C the median minus the least, the offset where the least is. Offsets without a
    number are left out; where none has one, all three are NaN.
    """
    distances = np.asarray(distances, dtype=np.float64)
    known = np.isfinite(distances)
    if not known.any():
        return LipSync(float("nan"), float("nan"), float("nan"))
    best = int(np.argmin(np.where(known, distances, np.inf)))
    least = float(distances[best])
    return LipSync(least, float(np.median(distances[known])) - least, float(best - len(distances) // 2))


def lip_diversity(opening_F: np.ndarray) -> float:
    """Standard deviation of the mouth opening over frames, NaN frames left out; a mouth never seen has 0.

    The paper's LMD ("lip movement diversity") has no published formula: this stands in for it and is not it.
    """
    seen = np.asarray(opening_F, dtype=np.float64)
    seen = seen[np.isfinite(seen)]
    return float(seen.std()) if seen.size else 0.0
