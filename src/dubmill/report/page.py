"""Renders the report: a self-contained page, a light page if that is large, a summary, and data for `dvc plots`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dubmill.metrics import METRICS, Metric
from dubmill.report.charts import dot_plot, loss_curves
from dubmill.report.figures import REFERENCES, SUBJECT, Figure, Measured, Scores, Test, headline, shown, shown_p
from dubmill.report.showcase import ShowcasePair

MAX_BYTES, MAX_LIGHT_BYTES = 6_000_000, 1_500_000
FULL, LIGHT, SUMMARY = "report.html", "report_light.html", "summary.md"
COLOURS = ("adapter", "base", "cascade", "floor", "ceiling", "oracle")  # methods with a CSS colour of their own
ARROWS = {"higher": "↑", "lower": "↓", "truth": "≈"}
SHOWN_FIRST = ("words_right", "sync_correlation", "voice_cosine", "identity_cosine")


@dataclass(frozen=True)
class ReportSubject:
    """The adapter and the backbone that the figures belong to."""

    pair_source: str  # self-made | world | footage: what trained the adapter
    is_toy: bool
    backbone: str  # digest
    adapter: str  # digest
    licence: str

    @property
    def first_line(self) -> str:
        """Returns what a reader must know before the figures."""
        pairs = {
            "self-made": "self-made pairs (inpainted clips of the backbone)",
            "footage": "recordings of the same people in two languages",
            "world": "true pairs of the rendered world, not self-made ones",
        }.get(self.pair_source, "pairs of unknown source")
        scope = " All figures were measured on nano, the small embedded model, and say nothing about LTX-2."
        return f"The adapter was trained on {pairs}.{scope if self.is_toy else ''}"


@dataclass(frozen=True)
class Cell:
    """One figure of the table; `low`, `middle` and `width` place its bar on the row's scale, in percent."""

    method: str
    figure: Figure | None
    text: str
    interval: str
    share: str  # of the way from floor to ceiling
    low: float
    middle: float
    width: float


@dataclass(frozen=True)
class TableRow:
    """One metric: a cell per method, a test per baseline."""

    metric: Metric
    cells: list[Cell]
    tests: list[Test | None]
    n: int


@dataclass(frozen=True)
class View:
    """The data of the templates."""

    about: ReportSubject
    headline: str
    scores: Scores
    baselines: list[str]
    table: list[TableRow]
    first_dots: list[tuple[Metric, str]]
    other_dots: list[tuple[Metric, str]]
    losses: str
    shows: list[ShowcasePair]
    num_requested_shows: int
    has_videos: bool


def render(
    about: ReportSubject,
    *,
    scores: Scores,
    rows: Sequence[Measured],
    shows: Sequence[ShowcasePair],
    losses: Sequence[Mapping[str, float]],
) -> dict[str, bytes]:
    """Returns name -> bytes of report.html, summary.md and plots/*.json, and of report_light.html where needed.

    report.html has at most about 6 MB: clips are left out from the end. report_light.html has no players; it is written
    where report.html is over 1.5 MB.
    """
    view = _view(about, scores, rows, shows, losses)
    full = _fitting(view, MAX_BYTES)
    light = {LIGHT: _fitting(replace(view, has_videos=False), MAX_LIGHT_BYTES)} if len(full) > MAX_LIGHT_BYTES else {}
    return {FULL: full, **light, SUMMARY: _template("summary.md.j2", view), **_plots(scores, losses)}


def write_report(files: Mapping[str, bytes], put: Callable[[str, bytes], object]) -> str:
    """Hands every file to `put(name, data)`; returns the name of the page that suits a pipeline's UI."""
    for name, data in files.items():
        put(name, data)
    return LIGHT if LIGHT in files else FULL


def _fitting(view: View, max_bytes: int) -> bytes:
    """Returns the page with as many of its clips as fit into `max_bytes`."""
    page = _template("report.html.j2", view)
    while len(page) > max_bytes and view.shows:
        view = replace(view, shows=view.shows[:-1])
        page = _template("report.html.j2", view)
    return page


def _view(
    about: ReportSubject,
    scores: Scores,
    rows: Sequence[Measured],
    shows: Sequence[ShowcasePair],
    losses: Sequence[Mapping[str, float]],
) -> View:
    dots = [
        (metric, _dots(metric, scores, rows))
        for metric in METRICS.values()
        if any(metric.name in own for own in scores.figures.values())
    ]
    first = [entry for name in SHOWN_FIRST for entry in dots if entry[0].name == name]
    return View(
        about=about,
        headline=headline(scores),
        scores=scores,
        baselines=list(scores.tests),
        table=[_table_row(metric, scores) for metric, _ in dots],
        first_dots=first,
        other_dots=[entry for entry in dots if entry not in first],
        losses=loss_curves(losses) if losses else "",
        shows=list(shows),
        num_requested_shows=len(shows),
        has_videos=True,
    )


def _dots(metric: Metric, scores: Scores, rows: Sequence[Measured]) -> str:
    values = {
        method: [row.values.get(metric.name, math.nan) for row in rows if row.method == method]
        for method in scores.methods
    }
    intervals = {method: own[metric.name] for method, own in scores.figures.items() if metric.name in own}
    return dot_plot(metric.name, metric.unit, values, intervals)


def _table_row(metric: Metric, scores: Scores) -> TableRow:
    figures = {method: own.get(metric.name) for method, own in scores.figures.items()}
    known = [figure for figure in figures.values() if figure]
    least, most = min(one.low for one in known), max(one.high for one in known)
    return TableRow(
        metric=metric,
        cells=[_cell(method, figure, metric.unit, least, most) for method, figure in figures.items()],
        tests=[own.get(metric.name) for own in scores.tests.values()],
        n=max(figure.n for figure in known),
    )


def _cell(method: str, figure: Figure | None, unit: str, least: float, most: float) -> Cell:
    if figure is None:
        return Cell(method, None, "–", "not measured", "", 0, 0, 0)
    low, middle, high = (_percent(value, least, most) for value in (figure.low, figure.mean, figure.high))
    interval = f"{shown(figure.low, unit)} to {shown(figure.high, unit)}"
    share = "" if figure.share is None or method in REFERENCES else _shown_share(figure.share)
    return Cell(method, figure, shown(figure.mean, unit), interval, share, low, middle, round(high - low, 1))


def _shown_share(share: float) -> str:
    return "beyond the ceiling" if share > 1.1 else f"{share:.0%} of the way".replace("-", "−")


def _percent(value: float, least: float, most: float) -> float:
    return round(100 * (value - least) / (most - least), 1) if most > least else 50.0


def rendered(template: str, **values: object) -> str:
    """Returns a page from one of this package's templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dubmill.report", "templates"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _template(name: str, view: View) -> bytes:
    names = {"shown": shown, "shown_p": shown_p, "subject": SUBJECT, "colours": COLOURS, "arrows": ARROWS}
    return rendered(name, view=view, **names).encode()


def _plots(scores: Scores, losses: Sequence[Mapping[str, float]]) -> dict[str, bytes]:
    """Returns rows for `dvc plots`: one per optimizer step, and one per metric and method."""
    methods = [
        {"metric": name, "method": method, "mean": figure.mean, "low": figure.low, "high": figure.high}
        for method, own in scores.figures.items()
        for name, figure in own.items()
    ]
    kept = [{name: row[name] for name in ("step", "video", "audio", "total")} for row in losses]
    return {
        f"plots/{name}.json": json.dumps(rows, indent=1).encode() + b"\n"
        for name, rows in (("losses", kept), ("methods", methods))
    }
