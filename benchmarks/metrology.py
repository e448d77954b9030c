"""Measures the metrics themselves on nano, where the truth is exact: floor, ceiling, spread, growing damage, and ranking.

    python -m benchmarks.metrology --backbone data/backbone --pairs data/gate --dubs data/dub --out docs/metrology.md

The three folders are those of a run on nano whose `dub.methods` are adapter, base, cascade and ceiling. Every metric is asked:
is it perfect where a true dub is measured against itself, does it never improve where damage grows, and does it rank eight methods as the
exact truth ranks them (Kendall's tau, its interval by a bootstrap over puppets)?

Axes: F frames, H rows, W columns, C colours or channels, N samples, M methods, P puppets.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.rows import PairRow
from dubmill.artifacts.store import Backbone, DubSet, PairSet
from dubmill.config.params import load
from dubmill.errors import UsageError
from dubmill.media.clips import Clip
from dubmill.metrics import METRICS, compare, observe
from dubmill.metrics.picture import psnr_db, union_box
from dubmill.metrics.scorers import Scorers
from dubmill.metrics.shares import CEILING, FLOOR
from dubmill.metrics.speech import scorer_audio
from dubmill.quality.damage import blurred_mouth, frozen_mouth, shifted_sound
from dubmill.report.figures import ORACLE
from dubmill.report.measuring import HeldOutMeasurer, cluster_of
from dubmill.scorers.spectra import WINDOW, mel_power
from dubmill.worlds import world_of

NO_DUB, FROZEN, BLURRED = "no dub", "truth, mouth frozen", "truth, mouth blurred"
METHODS = (ORACLE, CEILING, "adapter", "base", "cascade", NO_DUB, FROZEN, BLURRED)
NUM_BOOTSTRAP, CONFIDENCE = 1000, 0.95
LEAST_LOG = 1e-6
LEAST_RANGE = 1e-3  # of the badness over a ladder: below it the metric does not see the damage
SLACK = 0.02  # of a ladder's range by which a figure may improve: noise of the scorers

MOUTH, SOUND, WHOLE = "mouth", "sound", "clip"
TRUTHS = {
    MOUTH: "PSNR of the mouth's pixels against the true dub's",
    SOUND: "distance of log mel spectra to the true dub's",
}
ASPECTS = {
    **dict.fromkeys(
        ("sync_correlation", "lse_c", "lse_d", "sync_offset_frames", "opening_offset_frames", "lip_diversity",
         "mouth_change", "mouth_sharpness", "old_motion_correlation", "truth_mouth_correlation"), MOUTH),
    **dict.fromkeys(("words_right", "characters_right", "language_right", "voice_cosine", "loudness_dbfs"), SOUND),
}  # fmt: skip
"""Metric -> the exact truth that it is compared with; the others say something else than how good a dub is."""


@dataclass(frozen=True)
class Ladder:
    """A damage at growing strengths, the first of which changes nothing, and the metrics that have to see it."""

    name: str
    strengths: tuple[float, ...]
    damage: Callable[[Clip, PairRow, float], Clip]
    metrics: tuple[str, ...]


def _late(clip: Clip, row: PairRow, num_frames: float) -> Clip:
    return shifted_sound(num_frames / float(clip.frame_rate))(clip, _boxes_F4(row)) if num_frames else clip


def _noisy(clip: Clip, _: PairRow, rms: float) -> Clip:
    noise_CN = np.random.default_rng(0).normal(0, 1, clip.audio_CN.shape) * rms
    return replace(clip, audio_CN=np.clip(clip.audio_CN + noise_CN, -1, 1).astype(np.float32))


def _louder(clip: Clip, _: PairRow, decibels: float) -> Clip:
    return replace(clip, audio_CN=np.clip(clip.audio_CN * np.float32(10 ** (decibels / 20)), -1, 1))


def _shorter(clip: Clip, _: PairRow, share: float) -> Clip:
    return replace(clip, audio_CN=clip.audio_CN[:, : round((1 - share) * clip.audio_CN.shape[1])])


def _grainy(clip: Clip, _: PairRow, levels: float) -> Clip:
    noise_FHWC = np.random.default_rng(0).normal(0, 1, clip.frames_FHWC.shape) * levels
    return replace(clip, frames_FHWC=np.clip(clip.frames_FHWC + noise_FHWC, 0, 255).astype(np.uint8))


def _mixed_mouth(change: Callable[[Clip, np.ndarray], Clip]) -> Callable[[Clip, PairRow, float], Clip]:
    """Returns a damage that mixes a share of what `change` makes of a clip into it."""

    def damage(clip: Clip, row: PairRow, share: float) -> Clip:
        changed_FHWC = change(clip, _boxes_F4(row)).frames_FHWC
        mixed_FHWC = (1 - share) * clip.frames_FHWC + share * changed_FHWC
        return replace(clip, frames_FHWC=mixed_FHWC.round().astype(np.uint8))

    return damage


SHARES = (0, 0.25, 0.5, 0.75, 1)
LADDERS = (
    Ladder("sound late by frames", (0, 1, 2, 3, 5), _late,
           ("sync_correlation", "lse_c", "lse_d", "sync_offset_frames", "opening_offset_frames")),
    Ladder("noise in the sound, rms", (0, 0.02, 0.05, 0.1, 0.2), _noisy,
           ("words_right", "characters_right", "language_right", "voice_cosine")),
    Ladder("sound quieter, dB", (0, -6, -12, -20, -40), _louder, ("loudness_dbfs",)),
    Ladder("sound louder, dB", (0, 12, 18, 24, 30), _louder, ("clipped_share",)),
    Ladder("end of the sound missing, share", (0, 0.05, 0.1, 0.2, 0.3), _shorter, ("duration_gap_ms",)),
    Ladder("grain in the picture, levels", (0, 5, 10, 20, 40), _grainy,
           ("outside_psnr_db", "outside_trip_psnr_db", "identity_cosine")),
    Ladder("mouth blurred, share", SHARES, _mixed_mouth(blurred_mouth), ("mouth_sharpness",)),
    Ladder("mouth frozen, share", SHARES, _mixed_mouth(frozen_mouth), ("truth_mouth_correlation", "lip_diversity")),
)  # fmt: skip
SOURCE_LADDER = Ladder("mouth of the source, share", SHARES, lambda clip, row, share: clip,
                       ("mouth_change", "old_motion_correlation"))  # fmt: skip


@dataclass
class Findings:
    """What was measured, by pair.

    Attributes:
        figures: metric -> method -> one figure per pair.
        truths: exact truth -> method -> one figure per pair, higher is better.
        ladders: ladder -> metric -> strength -> one badness per pair; see `badness`.
        puppets: the puppet of each pair.
    """

    figures: dict[str, dict[str, list[float]]]
    truths: dict[str, dict[str, list[float]]]
    ladders: dict[str, dict[str, dict[float, list[float]]]]
    puppets: list[str]


def badness(metric: str, value: float, truth: float) -> float:
    """Returns a figure of which more is worse; where the truth is best, its distance to the true dub's figure."""
    return {"higher": -value, "lower": value, "truth": abs(value - truth)}[METRICS[metric].better]


def measure(pairs: PairSet, dubs: DubSet, scorers: Scorers) -> Findings:
    """Measures every method and every damage on the held-out pairs.

    Raises:
        UsageError: the dubs lack a method.
    """
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    truths: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    ladders: dict[str, dict[str, dict[float, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    measurer = HeldOutMeasurer(dubs, pairs, scorers)
    for row in measurer.measured():
        for metric, value in row.values.items():
            figures[metric][row.method].append(value)
    if lacking := {*METHODS[:5], FLOOR} - set(figures["words_right"]):
        raise UsageError(f"no dubs by {', '.join(sorted(lacking))}", cure="see the head of benchmarks/metrology.py")
    for row in measurer.rows:
        source, truth = (pairs.clip(row.id, name) for name in ("original", "counterpart"))
        made = {
            NO_DUB: source,
            FROZEN: frozen_mouth(truth, _boxes_F4(row)),
            BLURRED: blurred_mouth(truth, _boxes_F4(row)),
        }
        compared = _comparer(row, source, truth, scorers, measurer)
        for method, clip in made.items():
            for metric, value in compared(clip).items():
                figures[metric][method].append(value)
        made |= {ORACLE: truth} | {dub.method: dubs.clip(dub.id, "dub") for dub in measurer.dubs_of[row.id]}
        for method, clip in made.items():
            truths[MOUTH][method].append(_mouth_psnr_db(clip, truth, row))
            truths[SOUND][method].append(-_mel_distance(clip, truth))
        own = compared(truth)
        for ladder, strength, clip in _damaged(row, source, truth):
            values = compared(clip)
            for metric in ladder.metrics:
                ladders[ladder.name][metric][strength].append(badness(metric, values[metric], own[metric]))
    return Findings(figures, truths, ladders, [cluster_of(row) for row in measurer.rows])


def _comparer(
    row: PairRow, source: Clip, truth: Clip, scorers: Scorers, measurer: HeldOutMeasurer
) -> Callable[[Clip], dict[str, float]]:
    """Returns a function that gives the figures of a clip as a dub of this pair."""
    seen_source, seen_truth = observe(source, scorers), observe(truth, scorers)

    def compared(clip: Clip) -> dict[str, float]:
        return compare(
            observe(clip, scorers), source=seen_source, truth=seen_truth, trip_FHWC=measurer.trip(row),
            line=row.counterpart, mouth_boxes_F4=_boxes_F4(row),
        )  # fmt: skip

    return compared


def _damaged(row: PairRow, source: Clip, truth: Clip) -> Iterator[tuple[Ladder, float, Clip]]:
    """Yields the true dub with every damage at every strength."""
    for ladder in LADDERS:
        for strength in ladder.strengths:
            yield ladder, strength, ladder.damage(truth, row, strength)
    of_source = _mixed_mouth(lambda clip, _: source)
    for share in SHARES:
        yield SOURCE_LADDER, share, of_source(truth, row, share)


def _boxes_F4(row: PairRow) -> np.ndarray:
    return np.asarray(row.mouth_boxes, dtype=np.float64).reshape(-1, 4)


def _mouth_psnr_db(clip: Clip, truth: Clip, row: PairRow) -> float:
    """Returns the PSNR of the pixels around the mouth against the true dub's."""
    x0, y0, x1, y1 = union_box(_boxes_F4(row), 0.0).round().astype(int)
    where_HW = np.zeros(truth.frames_FHWC.shape[1:3], bool)
    where_HW[y0:y1, x0:x1] = True
    return psnr_db(clip.frames_FHWC, truth.frames_FHWC, where_HW)


def _mel_distance(clip: Clip, truth: Clip) -> float:
    """Returns the mean absolute difference of log10 mel spectra over the frames that both have."""
    first_TM, second_TM = (
        np.log10(mel_power(scorer_audio(one), num_bands=40, window=np.hamming(WINDOW)) + LEAST_LOG) for one in (clip, truth)
    )  # fmt: skip
    length = min(len(first_TM), len(second_TM))
    return float(np.abs(first_TM[:length] - second_TM[:length]).mean())


def ranking(findings: Findings, metric: str) -> tuple[float, float, float] | None:
    """Returns Kendall's tau of the methods' means by a metric against the exact truth, and its interval over puppets.

    None where the metric has no exact truth, or is NaN for a method.
    """
    if metric not in ASPECTS:
        return None
    by_oracle = findings.figures[metric][ORACLE]
    bad_MP = np.array(
        [
            [
                badness(metric, value, true)
                for value, true in zip(findings.figures[metric][method], by_oracle, strict=True)
            ]
            for method in METHODS
        ]
    )
    good_MP = np.array([findings.truths[ASPECTS[metric]][method] for method in METHODS])
    if not np.isfinite(bad_MP).all():
        return None
    puppets = {name: np.flatnonzero(np.array(findings.puppets) == name) for name in dict.fromkeys(findings.puppets)}
    random, taus = np.random.default_rng(0), []
    for _ in range(NUM_BOOTSTRAP):
        drawn = random.choice(list(puppets), len(puppets))
        at = np.concatenate([puppets[name] for name in drawn])
        taus.append(_tau(bad_MP[:, at], good_MP[:, at]))
    low, high = np.quantile(taus, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return _tau(bad_MP, good_MP), float(low), float(high)


def _tau(bad_MP: np.ndarray, good_MP: np.ndarray) -> float:
    """Returns Kendall's tau-b of the methods' means; 0 where the metric gives all methods the same."""
    tau, _ = kendalltau(-bad_MP.mean(axis=1), good_MP.mean(axis=1))
    return 0.0 if math.isnan(tau) else tau


def growth(by_strength: Mapping[float, Sequence[float]]) -> tuple[float, float]:
    """Returns the range of the mean badness over a ladder, and by which share of it a stronger damage was rated better."""
    means = [float(np.nanmean(values)) for values in by_strength.values()]
    reach = max(means) - means[0]
    falls = [before - after for before, after in zip(means, means[1:], strict=False)]
    return reach, max(0.0, *falls) / reach if reach > LEAST_RANGE else math.nan


def page(findings: Findings, dubs_digest: str) -> Iterator[str]:
    """Yields the lines of the page."""
    puppets = len(set(findings.puppets))
    yield "# What the metrics measure, on nano\n"
    yield (
        f"Made by `python -m benchmarks.metrology` (its head has the options) from the dubs {dubs_digest} of {len(findings.puppets)} held-out pairs\n"
        f"of {puppets} puppets of nano's world, where the true dub is known exactly. It says which metrics can be trusted there, and nothing\n"
        "about real clips: for those see [scorers.md](scorers.md).\n"
    )
    yield "## Floor, ceiling, spread\n"
    yield (
        "Floor: picture and sound of two other puppets. Ceiling: the true dub through both autoencoders and the vocoder. Perfect: the true\n"
        "dub itself. Spread: standard deviation over the ceiling's pairs.\n"
    )
    yield "| metric | floor | ceiling | perfect | spread |\n|---|---|---|---|---|"
    for metric, by_method in findings.figures.items():
        cells = [f"{np.nanmean(by_method[method]):.3f}" for method in (FLOOR, CEILING, ORACLE)]
        yield f"| `{metric}` | {' | '.join(cells)} | {np.nanstd(by_method[CEILING]):.3f} |"
    yield "\n## Growing damage\n"
    yield (
        "Every damage is applied to the true dub at five strengths. A metric passes where no stronger damage is rated better by more than\n"
        f"{SLACK:.0%} of the range; one whose figure hardly changes does not see the damage.\n"
    )
    yield "| damage | metric | mean at each strength (distance to the truth where the truth is best) | |\n|---|---|---|---|"
    for ladder in (*LADDERS, SOURCE_LADDER):
        for metric in ladder.metrics:
            by_strength = findings.ladders[ladder.name][metric]
            sign = -1 if METRICS[metric].better == "higher" else 1
            steps = ", ".join(f"{sign * np.nanmean(values):.3f} at {at:g}" for at, values in by_strength.items())
            _, fall = growth(by_strength)
            verdict = "not seen" if math.isnan(fall) else "passes" if fall <= SLACK else f"improves by {fall:.0%}"
            yield f"| {ladder.name} | `{metric}` | {steps} | {verdict} |"
    yield "\n## Ranking of eight methods\n"
    yield (
        f"Methods: {', '.join(METHODS)}. Exact truth: for lips the {TRUTHS[MOUTH]}, for sound the {TRUTHS[SOUND]}.\n"
        "Kendall's tau of the means, 1 where both rank alike, with the 95 % interval of a bootstrap over puppets. A metric of sync does not\n"
        "know which words should be said: it rates a clip that was not dubbed as well as a true dub, and must not be read alone.\n"
    )
    yield "| method | mouth, dB | sound, distance |\n|---|---|---|"
    for method in METHODS:
        mouth, sound = (np.mean(findings.truths[aspect][method]) for aspect in (MOUTH, SOUND))
        yield f"| {method} | {mouth:.1f} | {abs(sound):.3f} |"
    yield "\n| metric | exact truth | tau | 95 % interval |\n|---|---|---|---|"
    ranked = {metric: found for metric in METRICS if (found := ranking(findings, metric)) is not None}
    for metric, (tau, low, high) in sorted(ranked.items(), key=lambda item: -item[1][0]):
        yield f"| `{metric}` | {ASPECTS[metric]} | {tau:.2f} | {low:.2f} to {high:.2f} |"


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("backbone", "pairs", "dubs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    scorers = world_of(backbone := Backbone.open(given.backbone)).scorers(
        load(Path(__file__).parents[1] / "params.yaml").scorers
    )
    if not world_of(backbone).is_toy:
        raise UsageError("only nano's world knows the truth", where=str(given.backbone), cure="give a run on nano")
    dubs = DubSet.open(given.dubs)
    lines = page(measure(PairSet.open(given.pairs), dubs, scorers), dubs.digest[:12])
    write_atomically(given.out, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
