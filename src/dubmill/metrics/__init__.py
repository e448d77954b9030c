"""Measures dubs and pairs: every figure is one entry of METRICS, with one definition for all pages.

table    the metrics by name, with unit, direction and meaning
measure  observations of clips by the scorers, and figures calculated from them
speech, lipsync, picture, likeness  the formulas
stats    confidence intervals, permutation tests, correction for multiple tests
scorers  the Protocol of the models that hear and see

A figure that cannot be measured (no true dub, no visible mouth) is NaN.
"""

from dubmill.metrics.measure import (
    Observation,
    compare,
    measure,
    measure_pair,
    observe,
    own_figures,
    pair_figures,
    paired_figures,
)
from dubmill.metrics.table import METRICS, Metric

__all__ = [
    "METRICS",
    "Metric",
    "Observation",
    "compare",
    "measure",
    "measure_pair",
    "observe",
    "own_figures",
    "pair_figures",
    "paired_figures",
]
