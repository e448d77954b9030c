"""How far a figure is on the way from the floor to the ceiling of its metric."""

from __future__ import annotations

import math

from dubmill.metrics.table import METRICS

FLOOR, CEILING = "floor", "ceiling"
"""Names of the reference methods: mismatched clips, and the true dub after the autoencoders and the vocoder."""
LEAST_SPAN = 0.02  # between floor and ceiling, as a share of the larger of both; a smaller span is noise


def share_of_way(metric: str, value: float, floor: float, ceiling: float) -> float | None:
    """Returns how far `value` is from floor (0) to ceiling (1), in either direction of the metric.

    None for neutral metrics, where a value is NaN, and where floor and ceiling are nearly equal or in the wrong order.
    """
    if METRICS[metric].better == "truth" or not math.isfinite(value + floor + ceiling):
        return None
    sign = 1 if METRICS[metric].better == "higher" else -1
    span = sign * (ceiling - floor)
    return sign * (value - floor) / span if span > LEAST_SPAN * max(abs(floor), abs(ceiling)) else None
