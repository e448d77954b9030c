"""Dubs held-out clips with a canary, as a user would, and compares their figures with those that were measured before."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from dubmill import media, metrics
from dubmill.artifacts.rows import PairRow
from dubmill.artifacts.store import PairSet
from dubmill.client import DubClient
from dubmill.config.params import PromoteParams
from dubmill.errors import DubmillError
from dubmill.metrics import METRICS
from dubmill.metrics.scorers import Scorers
from dubmill.tracking.rules import Rows, means

CONSENT = "a held-out clip of the release's own report"
TIMEOUT_SECONDS = 3600.0  # of one dub


class CanaryError(DubmillError):
    """What the canary dubs is worse than what was measured."""


def check_dubs(address: str, *, pairs: PairSet, measured: Rows, scorers: Scorers, params: PromoteParams) -> None:
    """Dubs the first `canary_clips` held-out pairs at `address` and compares them with the rows of the report.

    A dub has another seed than the measured one, so the means may differ by `canary_max_regression`.

    Raises:
        CanaryError: the mean of a metric is too far below that of the report for the same clips, or could not be measured; or no
            held-out pair is in the report.
        DubmillError: the canary refuses a clip, or does not answer.
    """
    rows = [row for row in pairs.split("heldout") if row.id in measured][: params.canary_clips]
    if not rows:
        raise CanaryError("no held-out pair is in the report", where=str(pairs.path), cure="evaluate these pairs again")
    client = DubClient(address, timeout_seconds=TIMEOUT_SECONDS)
    dubs = {row.id: _figures(client, row, pairs, scorers) for row in rows}
    names = list(params.canary_max_regression)
    found, expected = means(dubs, names), means({row.id: measured[row.id] for row in rows}, names)
    reasons = []
    for name, value in expected.items():
        sign = 1.0 if METRICS[name].better == "higher" else -1.0
        if name not in found:
            reasons.append(f"{name} could not be measured")
        elif sign * (value - found[name]) > params.canary_max_regression[name]:
            reasons.append(f"{name} is {found[name]:.4g}, and was {value:.4g} in the report")
    if reasons:
        raise CanaryError(f"of {len(rows)} dubs: {'; '.join(reasons)}", where=address, cure="see the log of its pods")


def _figures(client: DubClient, row: PairRow, pairs: PairSet, scorers: Scorers) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path, line = Path(folder) / "clip.mp4", row.counterpart
        dub, source = Path(folder) / "dub.mp4", pairs.clip(row.id, "original")
        path.write_bytes(media.mp4_bytes(source))
        dub.write_bytes(client.dub(path, to=line.language, text=line.text, consent=CONSENT))
        return metrics.measure(
            media.read(dub, frame_rate=source.frame_rate, sample_rate_hz=source.sample_rate_hz, needs_sound=False),
            source=source,
            truth=None,
            trip_FHWC=None,
            line=line,
            mouth_boxes_F4=np.asarray(row.mouth_boxes, dtype=np.float64).reshape(-1, 4),
            scorers=scorers,
        )
