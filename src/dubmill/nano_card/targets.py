"""What nano is to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dubmill.metrics.stats import interval
from dubmill.nano_card.figures import Row

Rows = Mapping[str, Sequence[Row]]

NUM_BOOTSTRAP, CONFIDENCE, SEED = 2000, 0.95, 0


@dataclass(frozen=True)
class Target:
    """The mean of `figure` over the clips of `row`, at least `least`; as a share of the mean of `of`, or beyond it.

    `relation`: plain, share (divided by the mean of `of`), or gap (less the mean of `of`).
    """

    told: str
    row: str
    figure: str
    least: float
    relation: str = "plain"
    of: str = ""


TARGETS = (
    Target("VAE round trip, PSNR in dB", "round_trip", "psnr_db", 33.0),
    Target("VAE round trip, PSNR of the mouth in dB", "round_trip", "mouth_psnr_db", 31.0),
    Target("VAE round trip, colour of the iris that is left", "round_trip", "iris_chroma", 0.90),
    Target("VAE round trip, blink against the source's, r", "round_trip", "blink_r", 0.95),
    Target("mouth opening read from the round trip, r", "round_trip", "mouth_seen_r", 0.95),
    Target("words heard from the vocoder's resynthesis", "vocoder", "words", 0.99),
    Target("base from prompt: words right, in order", "from_caption", "words", 0.97),
    Target("base from prompt: language right", "from_caption", "language", 0.98),
    Target("base from prompt: lips, share of the oracle's r", "from_caption", "lips_r", 0.90, "share", "world"),
    Target("base from prompt: LSE offset within one frame", "from_caption", "offset_within_one", 0.90),
    Target("inpainted half: words right, in order", "inpainted", "words", 0.85),
    Target("inpainted half: language right", "inpainted", "language", 0.97),
    Target("inpainted half: lips, share of the oracle's r", "inpainted", "lips_r", 0.75, "share", "true_dub"),
    Target("inpainted half: LSE offset within one frame", "inpainted", "offset_within_one", 0.85),
    Target("inpainted half: identity, share of the round trip's", "inpainted", "identity", 0.97, "share", "source_round_trip"),
    Target("inpainted half: voice, share of the round trip's", "inpainted", "voice", 0.95, "share", "source_round_trip"),
    Target("inpainted half: outside the mask, dB beyond the round trip", "inpainted", "unmasked_psnr_db", 0.0, "gap", "source_round_trip"),
    Target("dub: words right, in order", "adapter", "words", 0.90),
    Target("dub: language right", "adapter", "language", 0.98),
    Target("dub: lips, share of the oracle's r", "adapter", "lips_r", 0.80, "share", "true_dub"),
    Target("dub: LSE offset within one frame", "adapter", "offset_within_one", 0.90),
    Target("dub: identity, share of the round trip's", "adapter", "identity", 0.95, "share", "source_round_trip"),
    Target("dub: voice, share of the round trip's", "adapter", "voice", 0.90, "share", "source_round_trip"),
    Target("dub: outside the mask, dB beyond the round trip", "adapter", "outside_psnr_db", -2.0, "gap", "source_round_trip"),
)  # fmt: skip


def reached(target: Target, rows: Rows) -> float:
    """The figure that is held against `target.least`."""
    mean = _mean(rows[target.row], target.figure)
    if target.relation == "share":
        return mean / _mean(rows[target.of], target.figure)
    return mean - _mean(rows[target.of], target.figure) if target.relation == "gap" else mean


def summary(rows: Rows) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and 95 % bootstrap interval of every figure of every kind of clip."""
    return {name: {figure: _interval(some, figure) for figure in some[0]} for name, some in rows.items()}


def ahead(rows: Rows, of: str) -> dict[str, dict[str, float]]:
    """The adapter's figures less those of the method `of` on the same clips: mean difference and its interval."""
    pairs = list(zip(rows["adapter"], rows[of], strict=True))
    return {name: _interval([{name: one[name] - other[name]} for one, other in pairs], name) for name in pairs[0][0]}


def _interval(rows: Sequence[Row], figure: str) -> dict[str, float]:
    values = [row[figure] for row in rows]
    mean, low, high = interval(values, num_bootstrap=NUM_BOOTSTRAP, confidence=CONFIDENCE, seed=SEED)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "num_clips": len(values)}


def _mean(rows: Sequence[Row], figure: str) -> float:
    return sum(row[figure] for row in rows) / len(rows)
