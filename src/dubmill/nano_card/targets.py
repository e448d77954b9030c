"""Targets of nano's figures, and whether they are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dubmill.metrics.stats import bootstrap_interval
from dubmill.nano_card.figures import PUPPET, Row

Rows = Mapping[str, Sequence[Row]]
Relation = Literal["plain", "share", "gap"]

NUM_BOOTSTRAP, CONFIDENCE, SEED = 2000, 0.95, 0


@dataclass(frozen=True)
class Target:
    """A minimum for the mean of `figure` over the clips of one kind.

    `relation`: plain; share, the mean divided by that of the kind `of`; or gap, the mean minus that of the kind `of`.
    """

    description: str
    kind: str
    figure: str
    least: float
    relation: Relation = "plain"
    of: str = ""


TARGETS = (
    Target("VAE round trip, PSNR in dB", "round_trip", "psnr_db", 33.0),
    Target("VAE round trip, PSNR of the mouth in dB", "round_trip", "mouth_psnr_db", 31.0),
    Target("VAE round trip, colour of the eyes, share of the source's", "round_trip", "iris_chroma", 0.90),
    Target("VAE round trip, brightness of the eyes over time, r", "round_trip", "blink_r", 0.95),
    Target("mouth opening read from the round trip, r", "round_trip", "mouth_seen_r", 0.95),
    Target("words recognised in the vocoder's resynthesis", "vocoder", "words_right", 0.99),
    Target("true dub through nano's codecs: voice, share of its own", "true_dub_round_trip", "voice_cosine", 0.92, "share", "true_dub"),
    Target("base from prompt: words right", "from_caption", "words_right", 0.97),
    Target("base from prompt: language right", "from_caption", "language_right", 0.98),
    Target("base from prompt: lip sync, share of the oracle's r", "from_caption", "sync_correlation", 0.90, "share", "world"),
    Target("base from prompt: LSE offset within one frame", "from_caption", "offset_within_one", 0.90),
    Target("inpainted half: words right", "inpainted", "words_right", 0.85),
    Target("inpainted half: language right", "inpainted", "language_right", 0.97),
    Target("inpainted half: lip sync, share of the oracle's r", "inpainted", "sync_correlation", 0.75, "share", "true_dub"),
    Target("inpainted half: LSE offset within one frame", "inpainted", "offset_within_one", 0.85),
    Target("inpainted half: identity, share of the round trip's", "inpainted", "identity_cosine", 0.97, "share", "source_round_trip"),
    Target("inpainted half: voice, share of the round trip's", "inpainted", "voice_cosine", 0.95, "share", "source_round_trip"),
    Target("inpainted half: outside the mask, dB above the round trip's", "inpainted", "unmasked_psnr_db", 0.0, "gap", "source_round_trip"),
    Target("dub: words right", "adapter", "words_right", 0.90),
    Target("dub: language right", "adapter", "language_right", 0.98),
    Target("dub: lip sync, share of the oracle's r", "adapter", "sync_correlation", 0.80, "share", "true_dub"),
    Target("dub: LSE offset within one frame", "adapter", "offset_within_one", 0.90),
    Target("dub: identity, share of the round trip's", "adapter", "identity_cosine", 0.95, "share", "source_round_trip"),
    Target("dub: voice, share of the round trip's", "adapter", "voice_cosine", 0.90, "share", "source_round_trip"),
    Target("dub: outside the mask, dB above the round trip's", "adapter", "outside_psnr_db", -2.0, "gap", "source_round_trip"),
)  # fmt: skip


def reached(target: Target, rows: Rows) -> float:
    """Returns the figure that is compared with `target.least`."""
    mean = _mean(rows[target.kind], target.figure)
    if target.relation == "share":
        return mean / _mean(rows[target.of], target.figure)
    return mean - _mean(rows[target.of], target.figure) if target.relation == "gap" else mean


def summary(rows: Rows) -> dict[str, dict[str, dict[str, float]]]:
    """Returns mean and 95 % bootstrap interval of every figure of every kind of clip."""
    return {
        kind: {figure: _interval(some, figure) for figure in some[0] if figure != PUPPET} for kind, some in rows.items()
    }


def differences(rows: Rows, baseline: str) -> dict[str, dict[str, float]]:
    """Returns the adapter's figures minus the baseline's on the same clips: mean difference and its interval."""
    pairs = list(zip(rows["adapter"], rows[baseline], strict=True))
    assert all(ours[PUPPET] == theirs[PUPPET] for ours, theirs in pairs), "both methods have the same clips in order"
    gains = [{name: ours[name] - theirs[name] for name in ours} | {PUPPET: ours[PUPPET]} for ours, theirs in pairs]
    return {name: _interval(gains, name) for name in gains[0] if name != PUPPET}


def _interval(rows: Sequence[Row], figure: str) -> dict[str, float]:
    puppets = [row[PUPPET] for row in rows]
    interval = bootstrap_interval(
        [row[figure] for row in rows], clusters=puppets, num_bootstrap=NUM_BOOTSTRAP, confidence=CONFIDENCE, seed=SEED
    )
    counts = {"num_clips": len(rows), "num_puppets": len(set(puppets))}
    return {"mean": round(interval.mean, 4), "low": round(interval.low, 4), "high": round(interval.high, 4), **counts}


def _mean(rows: Sequence[Row], figure: str) -> float:
    return sum(row[figure] for row in rows) / len(rows)
