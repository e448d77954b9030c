"""Figures of a report: means with intervals by puppet, shares between floor and ceiling, and tests against baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dubmill.artifacts.rows import Line
from dubmill.config.params import EvaluateParams
from dubmill.metrics import METRICS
from dubmill.metrics.shares import CEILING, FLOOR, share_of_way
from dubmill.metrics.stats import PairedTest, bootstrap_interval, effect_size, holm, paired_test

SUBJECT = "adapter"
ORACLE = "oracle"
REFERENCES = (FLOOR, CEILING, ORACLE)
"""Methods that show the range of a metric: mismatched clips, the true dub after the autoencoders, and the true dub."""
DECISIVE = ("words_right", "sync_correlation", "voice_cosine")  # in the headline, and the order of the showcase

ROUNDING = 1e-6  # a smaller difference is not one

Verdict = Literal["better", "worse", "no difference shown", "equal"]


@dataclass(frozen=True)
class Measured:
    """All figures of one clip; a figure that could not be measured is NaN."""

    pair_id: str
    cluster: str  # the puppet or person; clips of one cluster are not independent
    method: str  # of the DubSet, or one of REFERENCES
    line: Line
    values: dict[str, float]


@dataclass(frozen=True)
class Figure:
    """A mean over `n` clips of `num_clusters` puppets with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    num_clusters: int
    share: float | None  # of the way from the floor's mean to the ceiling's; None where that is not defined


@dataclass(frozen=True)
class Test:
    """A two-sided paired test of the adapter against one baseline on the same clips.

    `gain` is positive where the adapter is better. For a neutral metric it is how much nearer the adapter is to the true
    dub. `p_holm` is NaN where all gains are zero: such a test is not part of the family.
    """

    gain: float
    low: float
    high: float
    effect_size: float
    p: float
    p_holm: float
    is_at_resolution: bool
    n: int
    num_clusters: int
    verdict: Verdict


@dataclass(frozen=True)
class Scores:
    """`figures[method][metric]` and `tests[baseline][metric]`; entries without any value are missing."""

    figures: dict[str, dict[str, Figure]]
    tests: dict[str, dict[str, Test]]
    num_pairs: int
    num_clusters: int
    confidence: float

    @property
    def methods(self) -> list[str]:
        """Returns the methods in the order of the page."""
        return list(self.figures)

    def mean(self, method: str, metric: str) -> float:
        """Returns the mean, or NaN where nothing was measured."""
        figure = self.figures.get(method, {}).get(metric)
        return figure.mean if figure else math.nan


Columns = dict[str, dict[str, dict[str, float]]]
"""method -> metric -> pair id -> value."""


def score(rows: Sequence[Measured], params: EvaluateParams) -> Scores:
    """Returns figures and tests of all rows: the adapter and its baselines in the order of the rows, then references."""
    methods = dict.fromkeys(row.method for row in rows)
    own = [method for method in methods if method not in REFERENCES]
    columns = {method: _columns(rows, method) for method in (*own, *(ref for ref in REFERENCES if ref in methods))}
    clusters = {row.pair_id: row.cluster for row in rows}
    figures = {
        method: {
            metric: _figure(columns, method, metric, clusters, params)
            for metric, values in by_metric.items()
            if any(map(math.isfinite, values.values()))
        }
        for method, by_metric in columns.items()
    }
    return Scores(
        figures,
        _tests(columns, clusters, params),
        num_pairs=len(clusters),
        num_clusters=len(set(clusters.values())),
        confidence=params.confidence,
    )


def _columns(rows: Sequence[Measured], method: str) -> dict[str, dict[str, float]]:
    own = [row for row in rows if row.method == method]
    return {name: {row.pair_id: row.values.get(name, math.nan) for row in own} for name in METRICS}


def _figure(columns: Columns, method: str, metric: str, clusters: dict[str, str], params: EvaluateParams) -> Figure:
    values = {pair: value for pair, value in columns[method][metric].items() if math.isfinite(value)}
    owners = [clusters[pair] for pair in values]
    interval = bootstrap_interval(
        list(values.values()),
        clusters=owners,
        num_bootstrap=params.num_bootstrap,
        confidence=params.confidence,
        seed=params.seed,
    )
    means = {name: _mean(columns.get(name, {}).get(metric, {})) for name in (FLOOR, CEILING)}
    share = share_of_way(metric, interval.mean, means[FLOOR], means[CEILING])
    return Figure(interval.mean, interval.low, interval.high, len(values), len(set(owners)), share)


def _mean(values: dict[str, float]) -> float:
    known = [value for value in values.values() if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _tests(columns: Columns, clusters: dict[str, str], params: EvaluateParams) -> dict[str, dict[str, Test]]:
    """Tests every metric against every baseline; Holm's correction counts all tests with any difference."""
    baselines = [method for method in columns if method not in (SUBJECT, *REFERENCES)]
    if SUBJECT not in columns:
        return {}
    gains = {(baseline, metric): _gains(columns, baseline, metric) for baseline in baselines for metric in METRICS}
    gains = {key: by_pair for key, by_pair in gains.items() if by_pair}
    results = {
        key: paired_test(list(by_pair.values()), clusters=[clusters[pair] for pair in by_pair], seed=params.seed)
        for key, by_pair in gains.items()
    }
    family = [results[key].p if any(by_pair.values()) else math.nan for key, by_pair in gains.items()]
    tests: dict[str, dict[str, Test]] = {baseline: {} for baseline in baselines}
    for (baseline, metric), p_holm in zip(gains, holm(family), strict=True):
        key = baseline, metric
        tests[baseline][metric] = _test(gains[key], results[key], p_holm, clusters, params)
    return tests


def _gains(columns: Columns, baseline: str, metric: str) -> dict[str, float]:
    """Returns by pair how much better the adapter is than the baseline, where both have the figure."""
    ours, theirs = columns[SUBJECT][metric], columns[baseline][metric]
    better, truth = METRICS[metric].better, columns.get(ORACLE, {}).get(metric, {})
    gains = {}
    for pair in ours:
        first, second = ours[pair], theirs.get(pair, math.nan)
        if better == "truth":
            gain = abs(second - truth.get(pair, math.nan)) - abs(first - truth.get(pair, math.nan))
        else:
            gain = first - second if better == "higher" else second - first
        if math.isfinite(gain):
            gains[pair] = gain if abs(gain) > ROUNDING else 0.0
    return gains


def _test(
    gains: dict[str, float], result: PairedTest, p_holm: float, clusters: dict[str, str], params: EvaluateParams
) -> Test:
    values, owners = list(gains.values()), [clusters[pair] for pair in gains]
    interval = bootstrap_interval(
        values, clusters=owners, num_bootstrap=params.num_bootstrap, confidence=params.confidence, seed=params.seed
    )
    return Test(
        gain=interval.mean,
        low=interval.low,
        high=interval.high,
        effect_size=effect_size(values, clusters=owners),
        p=result.p,
        p_holm=p_holm,
        is_at_resolution=result.is_at_resolution,
        n=len(values),
        num_clusters=len(set(owners)),
        verdict=_verdict(interval.mean, p_holm, params),
    )


def _verdict(gain: float, p_holm: float, params: EvaluateParams) -> Verdict:
    if math.isnan(p_holm):
        return "equal"
    if p_holm >= 1 - params.confidence:
        return "no difference shown"
    return "better" if gain > 0 else "worse"


def metrics_json(scores: Scores, about: dict[str, Any]) -> dict[str, Any]:
    """Returns the nested form for `dvc metrics`, without NaN; `summary` is flat and holds the adapter's means."""
    return {
        **{method: {name: _finite(figure) for name, figure in own.items()} for method, own in scores.figures.items()},
        "tests": {
            baseline: {name: _finite(test) for name, test in own.items()} for baseline, own in scores.tests.items()
        },
        "summary": {name: figure.mean for name, figure in scores.figures.get(SUBJECT, {}).items()},
        "about": about,
    }


def _finite(entry: Figure | Test) -> dict[str, Any]:
    """Returns the fields of a figure or test that have a value."""
    fields = asdict(entry).items()
    return {name: value for name, value in fields if value is not None and value == value}  # noqa: PLR0124 (NaN)


def shown(value: float, unit: str) -> str:
    """Returns `value` with as many digits as its unit supports: 0.76, 28.4, 12."""
    if not math.isfinite(value):
        return "–"
    if 0 < abs(value) < 0.001:
        return f"{value:.0e}".replace("-", "−")
    digits = {"dB": 1, "dBFS": 1, "ms": 1, "frames": 1}.get(unit, 3 if 0 < abs(value) < 0.01 else 2)
    return f"{value:.{digits}f}".replace("-", "−")


def shown_p(test: Test) -> str:
    """Returns the corrected p, such as `p = 0.031`, `p < 0.001` or `p ≤ 0.016, the smallest that this test can give`."""
    if math.isnan(test.p_holm):
        return "no difference at all"
    if test.is_at_resolution and test.p_holm >= 1:
        return f"p = 1: {test.num_clusters} speakers are too few for this test"
    if test.is_at_resolution and test.verdict == "no difference shown":
        return f"p = {test.p_holm:.2g}: too few speakers differ for this test"
    if test.is_at_resolution:
        return f"p ≤ {test.p_holm:.2g}, the smallest that this test can give"
    return "p < 0.001" if test.p_holm < 0.001 else f"p = {test.p_holm:.3f}" if test.p_holm < 1 else "p = 1"


def headline(scores: Scores) -> str:
    """Returns the decisive figures in one sentence, each against its hardest baseline."""
    parts = list(_headline_parts(scores))
    clips = f"{scores.num_pairs} held-out clip{'' if scores.num_pairs == 1 else 's'}"
    puppets = f"{scores.num_clusters} speaker{'' if scores.num_clusters == 1 else 's'}"
    if not parts:
        return f"No decisive figure could be measured on {clips} of {puppets}."
    return f"On {clips} of {puppets}, the adapter {'; '.join(parts)}."


_HEADLINE = {
    "words_right": "gets {value} of the requested words right",
    "sync_correlation": "moves the mouth with the sound at r\u00a0=\u00a0{value}",
    "voice_cosine": "keeps the voice at cosine {value}",
}


def _headline_parts(scores: Scores) -> Iterator[str]:
    for metric in DECISIVE:
        value = scores.mean(SUBJECT, metric)
        if not math.isfinite(value):
            continue
        text = _HEADLINE[metric].format(value=_plain(value, metric))
        baseline = hardest_baseline(scores, metric)
        if baseline is None:
            yield text
            continue
        test, other = scores.tests[baseline][metric], _plain(scores.mean(baseline, metric), metric)
        yield f"{text} ({baseline} {other}: {test.verdict}, {shown_p(test)})".replace("p = ", "p\u00a0=\u00a0")


def hardest_baseline(scores: Scores, metric: str) -> str | None:
    """Returns the tested baseline with the best mean, or None where there is none."""
    sign = -1 if METRICS[metric].better == "lower" else 1
    tested = [baseline for baseline, own in scores.tests.items() if metric in own]
    return max(tested, key=lambda baseline: sign * scores.mean(baseline, metric), default=None)


def _plain(value: float, metric: str) -> str:
    return f"{value:.0%}" if METRICS[metric].unit == "share" else shown(value, METRICS[metric].unit)
