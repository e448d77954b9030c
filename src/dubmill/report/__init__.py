"""Reports: figures with intervals and tests, players side by side, frame strips, model cards."""

from dubmill.report.figures import Measured, Scores, metrics_json, score
from dubmill.report.page import ReportSubject, render, write_report
from dubmill.report.showcase import ShowcaseClip, ShowcasePair

__all__ = [
    "ReportSubject",
    "Measured",
    "Scores",
    "ShowcaseClip",
    "ShowcasePair",
    "metrics_json",
    "render",
    "score",
    "write_report",
]
