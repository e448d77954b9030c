"""Which pairs may train: the gates, Great Expectations' verdicts on them, and the page that shows both.

Thresholds and gates are our own design: the paper publishes no filter, no threshold and no rejection rate.
"""

from dubmill.quality.docs import offline_pages
from dubmill.quality.page import Player, gate_page
from dubmill.quality.suite import Broken, Gate, Judgement, Verdict, gates, judge

__all__ = ["Broken", "Gate", "Judgement", "Player", "Verdict", "gate_page", "gates", "judge", "offline_pages"]
