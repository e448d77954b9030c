"""Lip sync: correlation of mouth openings, LSE by SyncNet's definition, and the spread of the opening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_SHIFT_FRAMES = 12
LEAST_SPREAD = 1e-6  # of a mouth opening in 0..1: less is rounding, not movement


@dataclass(frozen=True)
class LipSync:
    """LSE-D, LSE-C and the offset in frames at which picture and sound fit best (0: in sync)."""

    distance: float
    confidence: float
    offset_frames: float


def correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Returns the Pearson correlation of two series over their common length, without frames that are NaN in either.

    It is 0 by definition for fewer than two frames and for a series that does not move; NaN where a series has no number
    at all, because it was not measured.
    """
    length = min(len(first), len(second))
    a, b = (np.asarray(series[:length], dtype=np.float64) for series in (first, second))
    if length and not (np.isfinite(a).any() and np.isfinite(b).any()):
        return float("nan")
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 2 or min(a.std(), b.std()) < LEAST_SPREAD:
        return 0.0
    return float(np.clip(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()), -1.0, 1.0))


def best_shift(seen_F: np.ndarray, heard_F: np.ndarray) -> float:
    """Returns the size in frames of the shift at which two series correlate best; NaN where they never do.

    The second series is taken up to 12 frames earlier or later, as long as two thirds of the shorter one remain.
    """
    length = min(len(seen_F), len(heard_F))
    reach = min(MAX_SHIFT_FRAMES, length // 3)

    def at(shift: int) -> float:
        seen, heard = seen_F[max(0, -shift) : length - max(0, shift)], heard_F[max(0, shift) : length + min(0, shift)]
        return float(np.nan_to_num(correlation(seen, heard), nan=-1.0))

    best = max(sorted(range(-reach, reach + 1), key=abs), key=at)
    return float(abs(best)) if at(best) > 0 else float("nan")


def lip_sync(distances: np.ndarray) -> LipSync:
    """Returns LSE and offset from the mean distances (2K+1,) at offsets -K ... K frames (SyncNet, as Wav2Lip uses it).

    LSE-D is the least distance, LSE-C the median minus the least; the offset is where the least is. NaN distances are
    left out; where all are NaN, so are the results.
    """
    distances = np.asarray(distances, dtype=np.float64)
    known = np.isfinite(distances)
    if not known.any():
        return LipSync(float("nan"), float("nan"), float("nan"))
    best = int(np.argmin(np.where(known, distances, np.inf)))
    least = float(distances[best])
    return LipSync(least, float(np.median(distances[known])) - least, float(best - len(distances) // 2))


def lip_diversity(opening_F: np.ndarray) -> float:
    """Returns the standard deviation of the mouth opening over frames, NaN frames left out; NaN without any frame.

    A stand-in for the paper's LMD ("lip movement diversity"), whose formula is not published.
    """
    opening_F = np.asarray(opening_F, dtype=np.float64)
    opening_F = opening_F[np.isfinite(opening_F)]
    return float(opening_F.std()) if opening_F.size else float("nan")
