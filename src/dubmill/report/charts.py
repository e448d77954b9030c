"""Draws charts as inline SVG with the page's colours and font, readable in light and dark mode.

matplotlib draws in sentinel colours, which are replaced by CSS variables. Ids are hashed with a fixed salt and prefixed
with the chart's name, and no date is written, so equal figures give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT = "#010101", "#020202"
_METHODS = {
    name: f"#03030{number}"
    for number, name in enumerate(("adapter", "base", "cascade", "floor", "ceiling", "oracle", "other"), 1)
}
_SENTINELS = {_INK: "var(--ink-2)", _FAINT: "var(--line)"} | {
    colour: f"var(--{method})" for method, colour in _METHODS.items()
}
_SETTINGS: dict[Any, Any] = {  # keys are matplotlib's names of settings
    "svg.hashsalt": "dubmill",
    "svg.fonttype": "none",
    "path.simplify": False,
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}
MAX_POINTS = 400  # of a loss curve
MAX_DOTS = 100  # per method; more dots cannot be told apart


def loss_curves(losses: Sequence[Mapping[str, float]]) -> str:
    """Returns a chart of the video and audio training loss: every step faint, with a running median."""
    from matplotlib import rc_context

    with rc_context(_SETTINGS):
        figure = _figure(7.6, 2.5)
        for axes, name in zip(figure.subplots(1, 2), ("video", "audio"), strict=True):
            steps, values = (np.array([row[key] for row in losses]) for key in ("step", name))
            shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_POINTS)).round().astype(int))
            axes.plot(steps[shown], values[shown], color=_METHODS["adapter"], alpha=0.25, linewidth=1)
            axes.plot(steps[shown], _running_median(values)[shown], color=_METHODS["adapter"], linewidth=2)
            axes.set(title=f"{name} loss", xlabel="optimizer step")
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", linewidth=0.6)
        return _svg(figure, "loss", "Training loss of video and audio against the optimizer step")


def dot_plot(name: str, unit: str, values: Mapping[str, Sequence[float]], intervals: Mapping[str, Any]) -> str:
    """Returns a chart with a row per method: a dot per clip, a tick at the mean, a bar over its interval."""
    from matplotlib import rc_context

    with rc_context(_SETTINGS):
        figure = _figure(2.9, 0.5 + 0.36 * len(values))
        axes = figure.subplots()
        for row, (method, per_clip) in enumerate(values.items()):
            _dots(axes, row, np.asarray(per_clip, dtype=float), _METHODS.get(method, _METHODS["other"]))
            if method in intervals:
                _mean_mark(axes, row, intervals[method])
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        _widen(axes)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(unit)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", linewidth=0.6)
        axes.set_axisbelow(True)
        return _svg(figure, f"dots-{name}", f"Distribution of {name} over clips, by method")


def _widen(axes: Axes) -> None:
    """Widens the axis to at least 2 % of the values' size, so that rounding noise does not fill the chart."""
    low, high = axes.get_xlim()
    missing = 0.02 * max(abs(low), abs(high), 0.5) - (high - low)
    if missing > 0:
        axes.set_xlim(low - missing / 2, high + missing / 2)


def _dots(axes: Axes, row: int, values: np.ndarray, colour: str) -> None:
    values = np.sort(values[np.isfinite(values)])
    if len(values) > MAX_DOTS:
        values = values[np.linspace(0, len(values) - 1, MAX_DOTS).round().astype(int)]
    spread = 0.3 * ((np.arange(len(values)) * 0.618034) % 1 - 0.5) * 2  # the golden ratio spreads ties evenly
    points = np.column_stack([values, row + spread]) if len(values) else np.zeros((0, 2))
    strokes = np.repeat(
        points, 3, axis=0
    )  # a dot is a line of no length with round ends: a tenth of the bytes of a marker
    strokes[2::3] = np.nan
    axes.plot(*strokes.T, color=colour, linewidth=4.2, alpha=0.5, solid_capstyle="round")


def _mean_mark(axes: Axes, row: int, figure: Any) -> None:
    axes.plot([figure.low, figure.high], [row, row], color=_INK, linewidth=1.6, solid_capstyle="butt")
    axes.plot([figure.mean, figure.mean], [row - 0.3, row + 0.3], color=_INK, linewidth=2.4, solid_capstyle="butt")


def _running_median(values: np.ndarray) -> np.ndarray:
    reach = max(1, len(values) // 40)
    return np.array([np.median(values[max(0, at - reach) : at + reach + 1]) for at in range(len(values))])


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, name: str, title: str) -> str:
    """Returns the figure as an `<svg>` element with a title, in the page's colours and with unique ids."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for sentinel, colour in _SENTINELS.items():
        svg = svg.replace(sentinel, colour)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    return re.sub(r"<svg ([^>]*)>", rf'<svg class="chart" role="img" \1><title>{title}</title>', svg, count=1)
