"""Writes gate.html: how many pairs passed, which gates rejected the others, and players of examples; works offline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from dubmill.config.params import GateParams
from dubmill.quality.suite import LEVELS, Gate, GateResult, Verdict, gates

NUM_BINS = 24
MAX_LISTED = 200  # rejected pairs in the table; all of them are in rejects.parquet
WIDTH, HEIGHT = 260, 84  # pixels of a histogram

STYLE = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#dde3ea;--card:#fff;--page:#f5f7fa;--good:#2b7a4b;--bad:#b3261e;--warn:#b7791f}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#2c3542;--card:#1a2029;--page:#12161c;
--good:#58b67e;--bad:#ef7a72;--warn:#e0ac55}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0}
main{max-width:76rem;margin:auto;padding:1.2rem}h1{font-size:1.4rem;margin:.2rem 0}h2{font-size:1.05rem;margin:1.6rem 0 .5rem}
p,small{color:var(--soft)}.grid{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fill,minmax(17.5rem,1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7rem .8rem}
.big{font-size:1.9rem;font-weight:650}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
table{border-collapse:collapse;width:100%;background:var(--card);font-size:.9rem}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
video{width:48%;border-radius:6px;background:#000;image-rendering:pixelated}.wide{overflow-x:auto}code{font-size:.88em}
svg{width:100%;height:auto;display:block}
"""


@dataclass(frozen=True)
class PairPlayer:
    """One pair to play: title, note and the MP4s of both clips; an MP4 too large for the page is empty."""

    title: str
    note: str
    original: bytes
    counterpart: bytes


def gate_page(
    rows: Sequence[Mapping[str, Any]],
    result: GateResult,
    params: GateParams,
    *,
    pair_source: str,
    heldout: Sequence[Mapping[str, Any]],
    left_out: Mapping[str, str],
    worst: Sequence[PairPlayer],
    rejected: Sequence[PairPlayer],
) -> str:
    """Returns the page for the measured `rows` and the gate's result, with the held-out rows' figures.

    `left_out` gives, by clip id, the reason why a clip gave no pair.
    """
    verdicts = {verdict.id: verdict for verdict in result.verdicts}
    share = result.accepted_share
    passed = bool(rows) and share >= params.min_accepted_share
    parts = [
        f"<h1>Gate: {len(rows)} {escape(pair_source)} training pairs</h1>",
        "<p>Gates and thresholds are this project's own; the paper publishes none. Each figure is the worse one of the "
        "pair's two clips. All figures: <code>measurements.parquet</code>; the pages of Great Expectations: "
        '<a href="docs/index.html">docs/</a>.</p>',
        _cards(result, share, params.min_accepted_share, passed),
        "<h2>Rejected pairs by gate</h2>",
        _gate_table(result, params),
        "<h2>Figures and thresholds</h2>",
        "<p>Solid line: the strict bound; pairs outside it are rejected. Dashed line: the warning bound; pairs outside it "
        "are kept and reported. Red bars: rejected pairs, by any gate.</p>",
        f'<div class="grid">{"".join(_histograms(rows, verdicts, params))}</div>',
        _players("Accepted pairs with the most warnings", worst),
        _players("Rejected pairs", rejected),
        _rejects_table(rows, verdicts),
        _left_out(left_out),
        _heldout(heldout, params),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>Gate</title><style>{STYLE}</style></head><body><main>'
        f"{''.join(parts)}</main></body></html>"
    )


def _cards(result: GateResult, share: float, floor: float, passed: bool) -> str:
    num_warned = sum(bool(verdict.warnings) for verdict in result.verdicts if verdict.is_accepted)
    num_rejected = len(result.verdicts) - result.num_accepted
    cards = (
        (f"{result.num_accepted}", "accepted", "good"),
        (f"{num_rejected}", "rejected", "bad" if num_rejected else "good"),
        (f"{num_warned}", "accepted with a warning", "warn" if num_warned else "good"),
        (f"{share:.0%}", f"accepted share; the minimum is {floor:.0%}", "good" if passed else "bad"),
    )
    inner = "".join(f'<div class="card"><div class="big {tone}">{n}</div>{what}</div>' for n, what, tone in cards)
    return f'<div class="grid">{inner}</div>'


def _gate_table(result: GateResult, params: GateParams) -> str:
    counts = {level: result.by_gate(level) for level in LEVELS}
    lines = "".join(
        f"<tr><td><code>{name}</code></td>{''.join(f'<td>{_bound(gates_by_level, level)}</td>' for level in LEVELS)}"
        f'<td class="{"bad" if counts["strict"][name] else ""}">{counts["strict"][name]}</td>'
        f"<td>{counts['warning'][name]}</td></tr>"
        for name, gates_by_level in _by_name(params).items()
    )
    return (
        '<div class="wide"><table><tr><th>gate</th><th>strict bound</th><th>warning bound</th><th>rejected'
        f"</th><th>with a warning</th></tr>{lines}</table></div><p>A pair may violate several gates.</p>"
    )


def _histograms(rows: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Verdict], params: GateParams) -> list[str]:
    accepted = np.array([verdicts[row["id"]].is_accepted for row in rows], dtype=bool)
    return [
        _histogram(np.array([row[first.column] for row in rows], dtype=float), accepted, first, last.bound)
        for first, *_, last in (
            (*gates_by_level.values(), *gates_by_level.values()) for gates_by_level in _by_name(params).values()
        )
    ]


def _by_name(params: GateParams) -> dict[str, dict[str, Gate]]:
    """Returns each gate that holds anything, by the levels it has a bound in, strict first."""
    found: dict[str, dict[str, Gate]] = {}
    for gate in gates(params):
        found.setdefault(gate.name, {})[gate.level] = gate
    return found


def _bound(gates_by_level: Mapping[str, Gate], level: str) -> str:
    return f"{gates_by_level[level].bound:g}" if level in gates_by_level else "none"


def _histogram(values: np.ndarray, accepted: np.ndarray, gate: Gate, warning: float) -> str:
    known = np.isfinite(values)
    span = np.concatenate([values[known], [gate.bound, warning]])
    low, high = float(span.min()), float(span.max())
    pad = 0.04 * (high - low) or 0.5
    edges = np.linspace(low - pad, high + pad, NUM_BINS + 1)
    stacks = [np.histogram(values[known & group], edges)[0] for group in (accepted, ~accepted)]
    tallest = max(1, int(np.sum(stacks, axis=0).max()))
    lines = _line(gate.bound, edges, "var(--ink)", 0) + _line(warning, edges, "var(--warn)", 3)
    missing = f" · {int((~known).sum())} could not be measured" if not known.all() else ""
    middle = f"median {np.median(values[known]):.3g}" if known.any() else "no figures"
    return (
        f'<div class="card"><b>{gate.column}</b><svg viewBox="0 0 {WIDTH} {HEIGHT + 14}" role="img" '
        f'aria-label="histogram of {gate.column}">{_bars(stacks, tallest)}{lines}'
        f'<text x="0" y="{HEIGHT + 12}" font-size="10" fill="var(--soft)">{low:.3g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 12}" font-size="10" text-anchor="end" fill="var(--soft)">{high:.3g}</text>'
        f"</svg><small>{middle}{missing}</small></div>"
    )


def _bars(stacks: Sequence[np.ndarray], tallest: int) -> str:
    width, base, bars = WIDTH / NUM_BINS, np.zeros(NUM_BINS), []
    for counts, tone in zip(stacks, ("var(--good)", "var(--bad)"), strict=True):
        for index in np.flatnonzero(counts):
            height = counts[index] / tallest * HEIGHT
            top = HEIGHT - base[index] - height
            bars.append(
                f'<rect x="{index * width:.1f}" y="{top:.1f}" width="{width - 1:.1f}" height="{height:.1f}" '
                f'fill="{tone}"/>'
            )
            base[index] += height
    return "".join(bars)


def _line(bound: float, edges: np.ndarray, tone: str, dash: int) -> str:
    x = (bound - edges[0]) / (edges[-1] - edges[0]) * WIDTH
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}" stroke="{tone}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/>'
    )


def _players(title: str, players: Sequence[PairPlayer]) -> str:
    if not players:
        return ""
    cards = "".join(
        f'<div class="card"><b>{escape(player.title)}</b><div>{_video(player.original)} {_video(player.counterpart)}</div>'
        f"<small>{escape(player.note)}</small></div>"
        for player in players
    )
    return f'<h2>{title}</h2><p>Left: original. Right: counterpart.</p><div class="grid">{cards}</div>'


def _video(mp4: bytes) -> str:
    if not mp4:
        return "<small>(too large to show here)</small>"
    return f'<video controls preload="metadata" src="data:video/mp4;base64,{base64.b64encode(mp4).decode()}"></video>'


def _rejects_table(rows: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Verdict]) -> str:
    rejects = [row for row in rows if not verdicts[row["id"]].is_accepted]
    if not rejects:
        return "<h2>Reasons for rejection</h2><p>No pair was rejected.</p>"
    lines = "".join(
        f"<tr><td><code>{escape(row['id'])}</code></td><td>{escape(verdicts[row['id']].reasons)}</td>"
        f"<td>{_words(row, 'original')}<br>{_words(row, 'counterpart')}</td></tr>"
        for row in rejects[:MAX_LISTED]
    )
    more = f"<p>And {len(rejects) - MAX_LISTED} more.</p>" if len(rejects) > MAX_LISTED else ""
    return (
        '<h2>Reasons for rejection</h2><div class="wide"><table><tr><th>pair</th><th>reasons</th><th>requested → recognised</th>'
        f"</tr>{lines}</table></div>{more}"
    )


def _words(row: Mapping[str, Any], side: str) -> str:
    return f"{escape(str(row[f'requested_{side}']))} → {escape(str(row[f'recognised_{side}']))}"


def _left_out(clips: Mapping[str, str]) -> str:
    if not clips:
        return ""
    lines = "".join(
        f"<tr><td><code>{escape(row_id)}</code></td><td>{escape(reason)}</td></tr>"
        for row_id, reason in list(clips.items())[:MAX_LISTED]
    )
    more = f"<p>And {len(clips) - MAX_LISTED} more.</p>" if len(clips) > MAX_LISTED else ""
    return (
        f"<h2>Clips without a pair ({len(clips)})</h2><p>They do not show one clear speaker throughout, so no mouth could "
        f'be inpainted. They are not part of any other count.</p><div class="wide"><table><tr><th>clip</th><th>reason</th></tr>'
        f"{lines}</table></div>{more}"
    )


def _heldout(rows: Sequence[Mapping[str, Any]], params: GateParams) -> str:
    if not rows:
        return ""
    true = all(row["source"] in ("world", "footage") for row in rows)
    what = "They are true pairs, so their figures are those of the oracle." if true else "They are self-made."
    columns = [gate.column for gate in gates(params) if gate.level == "strict"]
    lines = "".join(f"<tr><td>{name}</td><td>{_mean([row[name] for row in rows])}</td></tr>" for name in columns)
    return (
        f"<h2>Held-out pairs ({len(rows)})</h2><p>Measured, but not gated: filtering the test set by the scorers would "
        f"bias it. {what}</p><table><tr><th>figure</th><th>mean</th></tr>{lines}</table>"
    )


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    return f"{np.mean(known):.3g}" if known else "not measured"
