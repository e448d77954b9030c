"""Confidence intervals, paired permutation tests and Holm's correction; the clips of one person are one cluster.

Clips of the same person are not independent, so intervals resample whole clusters of clips, and tests flip the signs of
whole clusters. Where every clip is its own cluster, both are the ordinary methods. All random draws are seeded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dubmill.errors import UsageError

Better = Literal["higher", "lower", "truth"]
"""The better direction of a metric; `truth`: the value nearer to the true dub's is better."""
MAX_EXACT = 14  # clusters up to which all 2^n sign patterns are evaluated; above it patterns are drawn
NUM_FLIPS = 20_000
BLOCK = 4_000_000  # numbers in memory at once


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval; all are NaN without values."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of "the mean difference is zero"."""

    p: float
    smallest_p: float  # that this number of clusters or of drawn patterns can give

    @property
    def is_at_resolution(self) -> bool:
        """Returns whether the true p may be smaller than `p`, which is the smallest that the test can give."""
        return self.p <= self.smallest_p


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    clusters: Sequence[Hashable],
    num_bootstrap: int,
    confidence: float,
    seed: int,
) -> Interval:
    """Returns the mean of `values` and its percentile bootstrap interval over clusters; NaN values are left out.

    The interval of a single cluster has no width: show the number of clusters beside it.

    Raises:
        UsageError: `clusters` has not one entry per value.
    """
    sums_C, counts_C = _cluster_sums(values, clusters)
    if not len(sums_C):
        return Interval(float("nan"), float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    means = []
    for num_rows in _blocks(num_bootstrap, len(sums_C)):
        chosen_RC = random.integers(0, len(sums_C), (num_rows, len(sums_C)))
        means.append(sums_C[chosen_RC].sum(axis=1) / counts_C[chosen_RC].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(sums_C.sum() / counts_C.sum()), float(low), float(high))


def paired_test(differences: Sequence[float] | np.ndarray, *, clusters: Sequence[Hashable], seed: int) -> PairedTest:
    """Returns the two-sided sign-flip permutation test of paired `differences`; NaN differences are left out.

    The sign of a whole cluster flips at once. Clusters whose differences sum to zero weigh for neither side; a test of
    nothing else has p = 1. Up to 14 clusters all patterns are evaluated, so p is exact; above, 20,000 patterns are drawn
    and the observed one is counted with them, so p is never 0.

    Raises:
        UsageError: `clusters` has not one entry per difference.
    """
    sums_C, _ = _cluster_sums(differences, clusters)
    sums_C = sums_C[sums_C != 0]
    if not len(sums_C):
        return PairedTest(1.0, 1.0)
    observed = abs(sums_C.sum()) - 1e-12 * np.abs(sums_C).sum()  # sums equal but for rounding count as equal
    if len(sums_C) <= MAX_EXACT:
        p = float(np.mean(np.abs(_all_signs(len(sums_C)) @ sums_C) >= observed))
        return PairedTest(p, 2 / 2 ** len(sums_C))
    random = np.random.default_rng(seed)
    num_extreme = sum(
        int(np.sum(np.abs((random.integers(0, 2, (num_rows, len(sums_C))) * 2 - 1) @ sums_C) >= observed))
        for num_rows in _blocks(NUM_FLIPS, len(sums_C))
    )
    return PairedTest((1 + num_extreme) / (1 + NUM_FLIPS), 1 / (1 + NUM_FLIPS))


def effect_size(differences: Sequence[float] | np.ndarray, *, clusters: Sequence[Hashable]) -> float:
    """Returns Cohen's d of paired differences: mean over standard deviation of the clusters' mean differences.

    NaN for fewer than two clusters and where all clusters differ equally.
    """
    sums_C, counts_C = _cluster_sums(differences, clusters)
    means_C = sums_C / np.maximum(counts_C, 1)
    deviation = float(np.std(means_C, ddof=1)) if len(means_C) > 1 else 0.0
    return float(means_C.mean()) / deviation if deviation > 1e-12 else float("nan")


def holm(ps: Sequence[float]) -> list[float]:
    """Returns the p-values corrected by Holm's step-down method, in the given order; NaN stays and is not counted."""
    given = np.asarray(ps, dtype=np.float64)
    family = np.flatnonzero(np.isfinite(given))
    order = family[np.argsort(given[family], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    corrected = given.copy()
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return [float(p) for p in corrected]


def _cluster_sums(values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Returns sum and number of the finite values of each cluster, in order of first appearance."""
    given = np.asarray(values, dtype=np.float64)
    if len(given) != len(clusters):
        raise UsageError(f"{len(given)} values have {len(clusters)} clusters", cure="give one cluster per value")
    known = [(cluster, value) for cluster, value in zip(clusters, given, strict=True) if np.isfinite(value)]
    index = {cluster: place for place, cluster in enumerate(dict.fromkeys(cluster for cluster, _ in known))}
    sums_C, counts_C = np.zeros(len(index)), np.zeros(len(index))
    for cluster, value in known:
        sums_C[index[cluster]] += value
        counts_C[index[cluster]] += 1
    return sums_C, counts_C


def _blocks(num_rows: int, width: int) -> Iterator[int]:
    """Yields row counts that add up to `num_rows`, each of at most BLOCK numbers."""
    height = max(1, BLOCK // max(1, width))
    for start in range(0, num_rows, height):
        yield min(height, num_rows - start)


def _all_signs(num: int) -> np.ndarray:
    """Returns (2^num, num) of -1 and 1: every sign pattern once."""
    return (np.arange(2**num)[:, None] >> np.arange(num) & 1) * 2 - 1
