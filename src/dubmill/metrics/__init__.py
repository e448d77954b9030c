"""What is measured of a dub, one file per question; METRICS is the table of all of it.

`observe` asks the scorers once per clip; `compare` and `measure_pair` only calculate. Where a figure cannot be had (no
truth, no mouth) it is NaN, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dubmill.artifacts.rows import Line, PairRow
from dubmill.media.clips import Clip
from dubmill.metrics import lipsync, picture, speech
from dubmill.metrics.identity import identity_cosine
from dubmill.metrics.scorers import Scorers
from dubmill.metrics.stats import Better
from dubmill.metrics.voice import voice_cosine


@dataclass(frozen=True)
class Metric:
    """One figure: its name, unit, and which way is better; a proxy stands in for what has no published formula."""

    name: str
    unit: str
    better: Better
    description: str
    is_proxy: bool


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("words_right", "share", "higher", "1 - word error rate, floored at 0; silence has 0", False),
        Metric("language_right", "share", "higher", "heard words that are in the asked language", False),
        Metric("sync_correlation", "correlation", "higher", "mouth opening seen against heard in the sound", True),
        Metric("lse_c", "distance", "higher", "median minus least distance over offsets (SyncNet's definition)", False),
        Metric("lse_d", "distance", "lower", "least mean distance over offsets (SyncNet's definition)", False),
        Metric("sync_offset_frames", "frames", "lower", "how far from 0 the best-fitting offset is", False),
        Metric("identity_cosine", "cosine", "higher", "face of the dub against the source's", False),
        Metric("voice_cosine", "cosine", "higher", "voice of the dub against the source's", False),
        Metric("outside_psnr_db", "dB", "higher", "likeness to the source outside the widened mouth box", False),
        Metric(
            "outside_trip_psnr_db",
            "dB",
            "higher",
            "the same against the source as the video VAE gives it back: what no dub can keep is not held against it",
            False,
        ),
        Metric("duration_gap_ms", "ms", "lower", "picture against sound, and dub against source", False),
        Metric("lip_diversity", "opening", "higher", "std of the mouth opening; the paper's LMD has no formula", True),
        Metric("mouth_change", "share", "higher", "mean difference inside the mouth box; 0 is a copied mouth", True),
        Metric(
            "old_motion_correlation", "correlation", "lower", "mouth of the dub against the source's: leakage", True
        ),
        Metric("truth_mouth_correlation", "correlation", "higher", "mouth of the dub against the true dub's", True),
        Metric("loudness_dbfs", "dBFS", "higher", "root mean square of the sound; -120 is silence", False),
        Metric("clipped_share", "share", "lower", "samples at full scale", False),
    )
}


@dataclass(frozen=True)
class Observation:
    """What the scorers heard and saw in one clip."""

    clip: Clip
    words: list[tuple[str, str]]  # language, word
    voice: np.ndarray  # unit vector
    identity: np.ndarray  # unit vector
    opening_F: np.ndarray  # of the mouth as seen
    speech_opening_F: np.ndarray  # of a mouth that would say the sound
    sync: lipsync.LipSync

    @property
    def heard(self) -> str:
        """The words for a person to read: `uno tres seis (es)`; languages in the order they come."""
        languages = dict.fromkeys(language for language, _ in self.words)
        return f"{' '.join(word for _, word in self.words)} ({', '.join(languages)})" if self.words else "nothing"


def observe(clip: Clip, scorers: Scorers) -> Observation:
    """Everything the scorers have to say of one clip: ask once, compare often."""
    audio_N, frames_FHWC = speech.hearing(clip), clip.frames_FHWC
    return Observation(
        clip=clip,
        words=scorers.words(audio_N),
        voice=scorers.voice(audio_N),
        identity=scorers.identity(frames_FHWC),
        opening_F=scorers.mouth(frames_FHWC)[:, 0],
        speech_opening_F=scorers.speech_opening(audio_N, clip.num_frames),
        sync=lipsync.lip_sync(scorers.sync_distances(frames_FHWC, audio_N)),
    )


def measure(
    dub: Clip,
    *,
    source: Clip,
    truth: Clip | None,
    trip_FHWC: np.ndarray | None,
    line: Line,
    mouth_boxes_F4: np.ndarray,
    scorers: Scorers,
) -> dict[str, float]:
    """One figure per metric of METRICS for a dub of `source` that should say `line`; see `compare`.

    Raises:
        UsageError: the pictures differ in size.
    """
    return compare(
        observe(dub, scorers),
        source=observe(source, scorers),
        truth=observe(truth, scorers) if truth is not None else None,
        trip_FHWC=trip_FHWC,
        line=line,
        mouth_boxes_F4=mouth_boxes_F4,
    )


def compare(
    dub: Observation,
    *,
    source: Observation,
    truth: Observation | None,
    trip_FHWC: np.ndarray | None,
    line: Line,
    mouth_boxes_F4: np.ndarray,
) -> dict[str, float]:
    """One figure per metric of METRICS, from observations; `mouth_boxes_F4` are the source's, in pixels.

    Without a true dub `truth_mouth_correlation` is NaN; without the source's frames after a round trip through the
    video VAE, `outside_trip_psnr_db` is.

    Raises:
        UsageError: the pictures differ in size.
    """
    return {
        **_alone(dub, line),
        **_together(dub, source, mouth_boxes_F4),
        "truth_mouth_correlation": (
            lipsync.correlation(dub.opening_F, truth.opening_F) if truth is not None else float("nan")
        ),
        "outside_trip_psnr_db": (
            picture.outside_psnr_db(dub.clip.frames_FHWC, trip_FHWC, mouth_boxes_F4)
            if trip_FHWC is not None
            else float("nan")
        ),
    }


def _alone(seen: Observation, line: Line) -> dict[str, float]:
    """The figures of one clip that need no other."""
    return {
        "words_right": speech.words_right(line.text, seen.words),
        "language_right": speech.language_right(line.language, seen.words),
        "sync_correlation": lipsync.correlation(seen.opening_F, seen.speech_opening_F),
        "lse_c": seen.sync.confidence,
        "lse_d": seen.sync.distance,
        "sync_offset_frames": abs(seen.sync.offset_frames),
        "lip_diversity": lipsync.lip_diversity(seen.opening_F),
        "loudness_dbfs": speech.loudness_dbfs(seen.clip),
        "clipped_share": speech.clipped_share(seen.clip),
    }


def _together(dub: Observation, source: Observation, boxes_F4: np.ndarray) -> dict[str, float]:
    """The figures of one clip against another."""
    frames, others = dub.clip.frames_FHWC, source.clip.frames_FHWC
    return {
        "identity_cosine": identity_cosine(dub.identity, source.identity),
        "voice_cosine": voice_cosine(dub.voice, source.voice),
        "outside_psnr_db": picture.outside_psnr_db(frames, others, boxes_F4),
        "mouth_change": picture.mouth_change(frames, others, boxes_F4),
        "old_motion_correlation": lipsync.correlation(dub.opening_F, source.opening_F),
        "duration_gap_ms": speech.duration_gap_ms(dub.clip, source.clip),
    }


def measure_pair(original: Clip, counterpart: Clip, *, row: PairRow, scorers: Scorers) -> dict[str, float | str]:
    """One measurement row of a pair: who it is, what was heard, and every figure, the worse of the two clips' each.

    A column `x` is held against `min_x` or `max_x` of `params.Thresholds`; the rest is for people.

    Raises:
        UsageError: the pictures differ in size.
    """
    first, second = observe(original, scorers), observe(counterpart, scorers)
    alone = _alone(first, row.original), _alone(second, row.counterpart)
    worse = {name: _worse(name, *(figures[name] for figures in alone)) for name in alone[0]}
    boxes_F4 = np.asarray(row.mouth_boxes, dtype=np.float64).reshape(-1, 4)
    return {
        "id": row.id,
        "split": row.split,
        "source": row.source,
        "asked_original": f"{row.original.text} ({row.original.language})",
        "heard_original": first.heard,
        "asked_counterpart": f"{row.counterpart.text} ({row.counterpart.language})",
        "heard_counterpart": second.heard,
        **worse,
        **_together(second, first, boxes_F4),
    }


def _worse(name: str, a: float, b: float) -> float:
    """The worse of two figures; NaN, which says that one could not be had, is the worst."""
    return float(np.minimum(a, b) if METRICS[name].better == "higher" else np.maximum(a, b))
