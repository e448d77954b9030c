"""The gate: decides which pairs may train, by Great Expectations, and writes pages that show the decisions.

Thresholds and gates are this project's own: the paper publishes no filter, no threshold and no rejection rate.
"""

from dubmill.quality.docs import offline_pages
from dubmill.quality.page import PairPlayer, gate_page
from dubmill.quality.suite import Gate, GateResult, Verdict, Violation, apply_gates, gates

__all__ = [
    "Gate",
    "GateResult",
    "PairPlayer",
    "Verdict",
    "Violation",
    "apply_gates",
    "gate_page",
    "gates",
    "offline_pages",
]
