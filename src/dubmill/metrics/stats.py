"""How sure are we? Intervals by bootstrap, paired tests by sign flips, Holm's correction for asking often.

All draws are seeded: equal input gives equal figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from dubmill.errors import UsageError

Better = Literal["higher", "lower"]
MAX_EXACT = 14  # pairs of which all 2^n sign patterns are tried; above it they are drawn
NUM_FLIPS = 20_000
BLOCK = 4_000_000  # numbers held at once


def _blocks(num_rows: int, width: int) -> Iterator[int]:
    height = max(1, BLOCK // max(1, width))
    for start in range(0, num_rows, height):
        yield min(height, num_rows - start)


def interval(
    values: Sequence[float] | np.ndarray, *, num_bootstrap: int, confidence: float, seed: int
) -> tuple[float, float, float]:
    """(mean, low, high): the mean and its percentile bootstrap interval; values without a number are left out.

    One value is its own interval, which says nothing about spread: show n beside it. None at all give NaN.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not known.size:
        return float("nan"), float("nan"), float("nan")
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            known[random.integers(0, known.size, (rows, known.size))].mean(axis=1)
            for rows in _blocks(num_bootstrap, known.size)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(known.mean()), float(low), float(high)


def paired_test(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, better: Better, seed: int
) -> float:
    """p of "a is no better than b", one-sided in the direction of `better`: a sign-flip permutation test.

    Pairs in which either side has no number are left out. Ties stay in: they weigh for neither side, and a test of
    nothing but ties has p = 1, as has one of no pairs at all. Up to 14 pairs that differ every flip is tried, so p is
    exact; above, 20,000 are drawn and the observed one is counted with them, so p is never 0.

    Raises:
        UsageError: the sides differ in length, so they are not pairs.
    """
    first, second = (np.asarray(one, dtype=np.float64) for one in (a, b))
    if first.shape != second.shape:
        raise UsageError(
            f"{first.size} and {second.size} figures are not pairs", cure="compare both methods on the same clips"
        )
    gains = first - second if better == "higher" else second - first
    gains = gains[np.isfinite(gains) & (gains != 0)]
    if not gains.size:
        return 1.0
    observed = gains.sum() - 1e-12 * np.abs(gains).sum()  # sums equal but for rounding count as equal
    if gains.size <= MAX_EXACT:
        return float(np.mean(_all_signs(gains.size) @ gains >= observed))
    random = np.random.default_rng(seed)
    drawn = sum(
        int(np.sum((random.integers(0, 2, (rows, gains.size)) * 2 - 1) @ gains >= observed))
        for rows in _blocks(NUM_FLIPS, gains.size)
    )
    return (1 + drawn) / (1 + NUM_FLIPS)


def _all_signs(num: int) -> np.ndarray:
    """(2^num, num) of -1 and 1: every pattern once."""
    return (np.arange(2**num)[:, None] >> np.arange(num) & 1) * 2 - 1


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down, in the given order; NaN stays and is not counted."""
    given = np.asarray(ps, dtype=np.float64)
    asked = np.flatnonzero(np.isfinite(given))
    order = asked[np.argsort(given[asked], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    corrected = given.copy()
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return [float(p) for p in corrected]
