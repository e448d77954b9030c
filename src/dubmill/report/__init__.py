"""A report one would rather look at than read: figures with their doubts, players side by side, strips of one take."""

from dubmill.report.figures import Measured, Scores, metrics_json, score
from dubmill.report.page import About, render, write
from dubmill.report.showcase import Take

__all__ = ["About", "Measured", "Scores", "Take", "metrics_json", "render", "score", "write"]
