"""From measured rows to figures: means with intervals, paired tests against the baselines, verdicts in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dubmill.artifacts.rows import Line
from dubmill.config.params import EvaluateParams
from dubmill.metrics import METRICS
from dubmill.metrics.stats import holm, interval, paired_test

SUBJECT, ORACLE = "adapter", "oracle"
DECISIVE = (("words_right", "base"), ("sync_correlation", "cascade"))  # what the adapter must win, and against whom


@dataclass(frozen=True)
class Measured:
    """All figures of one clip; a figure that could not be had is NaN."""

    pair_id: str
    method: str  # a method of the DubSet, or oracle
    line: Line
    values: dict[str, float]


@dataclass(frozen=True)
class Figure:
    """A mean over `n` clips with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Test:
    """The adapter against one baseline on the same clips; `p` is one-sided: of "no better" and of "no worse"."""

    difference: float  # adapter minus baseline, in the metric's unit
    p: float
    p_holm: float
    p_worse: float
    p_worse_holm: float
    n: int
    verdict: str  # better | worse | no difference shown


@dataclass(frozen=True)
class Scores:
    """`figures[method][metric]` and `tests[baseline][metric]`, both only where there is something to say."""

    figures: dict[str, dict[str, Figure]]
    tests: dict[str, dict[str, Test]]
    num_pairs: int
    confidence: float

    @property
    def methods(self) -> list[str]:
        """The methods, in the order they are shown."""
        return list(self.figures)

    def mean(self, method: str, metric: str) -> float:
        """The mean, or NaN where nothing was measured."""
        figure = self.figures.get(method, {}).get(metric)
        return figure.mean if figure else math.nan


def score(rows: Sequence[Measured], params: EvaluateParams) -> Scores:
    """Figures and tests of all rows; methods keep the order in which they first come."""
    columns = {method: _columns(rows, method) for method in dict.fromkeys(row.method for row in rows)}
    figures = {
        method: {
            metric: _figure(list(values.values()), params)
            for metric, values in by_metric.items()
            if any(map(math.isfinite, values.values()))
        }
        for method, by_metric in columns.items()
    }
    return Scores(figures, _tests(columns, params), len({row.pair_id for row in rows}), params.confidence)


def _columns(rows: Sequence[Measured], method: str) -> dict[str, dict[str, float]]:
    """metric -> pair -> value."""
    own = [row for row in rows if row.method == method]
    return {name: {row.pair_id: row.values.get(name, math.nan) for row in own} for name in METRICS}


def _figure(values: list[float], params: EvaluateParams) -> Figure:
    mean, low, high = interval(
        values, num_bootstrap=params.num_bootstrap, confidence=params.confidence, seed=params.seed
    )
    return Figure(mean, low, high, sum(map(math.isfinite, values)))


def _tests(columns: dict[str, dict[str, dict[str, float]]], params: EvaluateParams) -> dict[str, dict[str, Test]]:
    """Every metric against every baseline; Holm's correction counts all of them as one family."""
    baselines = [method for method in columns if method not in (SUBJECT, ORACLE)]
    if SUBJECT not in columns:
        return {}
    asked = []
    for baseline in baselines:
        for metric in METRICS:
            a, b = _paired(columns[SUBJECT][metric], columns[baseline][metric])
            if a:
                asked.append((baseline, metric, a, b))
    ps = [paired_test(a, b, better=METRICS[metric].better, seed=params.seed) for _, metric, a, b in asked]
    worse = [paired_test(b, a, better=METRICS[metric].better, seed=params.seed) for _, metric, a, b in asked]
    tests: dict[str, dict[str, Test]] = {baseline: {} for baseline in baselines}
    for (baseline, metric, a, b), *four in zip(asked, ps, holm(ps), worse, holm(worse), strict=True):
        difference = (sum(a) - sum(b)) / len(a)
        tests[baseline][metric] = Test(difference, *four, n=len(a), verdict=_verdict(four[1], four[3], params))
    return tests


def _paired(first: dict[str, float], second: dict[str, float]) -> tuple[list[float], list[float]]:
    """The values of pairs that both have, side by side."""
    both = [
        (value, second[pair])
        for pair, value in first.items()
        if math.isfinite(value) and math.isfinite(second.get(pair, math.nan))
    ]
    return [a for a, _ in both], [b for _, b in both]


def _verdict(p_holm: float, p_worse_holm: float, params: EvaluateParams) -> str:
    alpha = 1 - params.confidence
    if p_holm < alpha:
        return "better"
    return "worse" if p_worse_holm < alpha else "no difference shown"


def metrics_json(scores: Scores, about: dict[str, Any]) -> dict[str, Any]:
    """The nested form for `dvc metrics`; `summary` is flat: the adapter's means. Nothing without a number is in it."""
    return {
        **{method: {name: asdict(figure) for name, figure in own.items()} for method, own in scores.figures.items()},
        "tests": {
            baseline: {name: asdict(test) for name, test in own.items()} for baseline, own in scores.tests.items()
        },
        "summary": {name: figure.mean for name, figure in scores.figures.get(SUBJECT, {}).items()},
        "about": about,
    }


def shown(value: float, unit: str) -> str:
    """`value` with as many digits as its unit bears: 0.76, 28.4, 12."""
    if not math.isfinite(value):
        return "–"
    if 0 < abs(value) < 0.001:
        return f"{value:.0e}".replace("-", "−")
    digits = {"dB": 1, "dBFS": 1, "ms": 1, "frames": 1}.get(unit, 3 if 0 < abs(value) < 0.01 else 2)
    return f"{value:.{digits}f}".replace("-", "−")


def shown_p(p: float) -> str:
    """`p < 0.001`, or `p = 0.031`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 1 else "p = 1"


def headline(scores: Scores) -> str:
    """The decisive figures in one sentence, only those that were measured."""
    parts = [part for metric, baseline in DECISIVE if (part := _decisive(scores, metric, baseline))]
    many = f"On {scores.num_pairs} held-out clip{'' if scores.num_pairs == 1 else 's'}"
    if not parts:
        return f"{many} nothing decisive could be measured."
    return f"{many} the adapter " + " and ".join(parts) + "."


_SAID = {
    "words_right": "gets {value} of the asked words right",
    "sync_correlation": "moves its mouth with the sound at r\u00a0=\u00a0{value}",
}


def _decisive(scores: Scores, metric: str, baseline: str) -> str:
    value = scores.mean(SUBJECT, metric)
    if not math.isfinite(value):
        return ""
    said = _SAID[metric].format(value=_plain(value, metric))
    test = scores.tests.get(baseline, {}).get(metric)
    if test is None:
        return said
    other = _plain(scores.mean(baseline, metric), metric)
    p = shown_p(test.p_worse_holm if test.verdict == "worse" else test.p_holm).replace(" ", "\u00a0")
    return f"{said} ({baseline} {other}: {test.verdict}, {p})"


def _plain(value: float, metric: str) -> str:
    return f"{value:.0%}" if METRICS[metric].unit == "share" else shown(value, METRICS[metric].unit)
