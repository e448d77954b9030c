"""Observes clips with the scorers and calculates figures from the observations.

`observe` runs the scorers once per clip; everything else only calculates, so that one clip can be compared often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dubmill.artifacts.rows import Line, PairRow
from dubmill.media.clips import Clip
from dubmill.metrics import lipsync, picture, speech
from dubmill.metrics.likeness import likeness
from dubmill.metrics.scorers import Scorers
from dubmill.metrics.table import METRICS
from dubmill.text.spelling import words_of


@dataclass(frozen=True)
class Observation:
    """What the scorers heard and saw in one clip."""

    clip: Clip
    words: list[tuple[str, str]] | None  # language, word; None where not measured
    voice: np.ndarray  # unit vector
    identity: np.ndarray  # unit vector
    opening_F: np.ndarray  # of the mouth in the picture
    speech_opening_F: np.ndarray  # of a mouth that would speak the sound
    sync: lipsync.LipSync
    troubles: tuple[str, ...]  # why something of it could not be measured

    @property
    def has_mouth(self) -> bool:
        """Returns whether a mouth is seen in any frame."""
        return bool(np.isfinite(self.opening_F).any())

    @property
    def transcript(self) -> str:
        """Returns the recognised words and their languages in order of appearance, such as `uno tres seis (es)`."""
        if self.words is None:
            return "not measured"
        languages = dict.fromkeys(language for language, _ in self.words)
        return f"{' '.join(word for _, word in self.words)} ({', '.join(languages)})" if self.words else "nothing"


def observe(clip: Clip, scorers: Scorers) -> Observation:
    """Runs every scorer on one clip."""
    audio_N, frames_FHWC, rate = speech.scorer_audio(clip), clip.frames_FHWC, float(clip.frame_rate)
    scorers.prepare(frames_FHWC, audio_N)
    return Observation(
        clip=clip,
        words=scorers.words(audio_N),
        voice=scorers.voice(audio_N),
        identity=scorers.identity(frames_FHWC),
        opening_F=scorers.mouth(frames_FHWC)[:, 0],
        speech_opening_F=scorers.speech_opening(audio_N, clip.num_frames, rate),
        sync=lipsync.lip_sync(scorers.sync_distances(frames_FHWC, audio_N, rate)),
        troubles=tuple(scorers.troubles(frames_FHWC, audio_N)),
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
    """Returns every figure of METRICS for a dub of `source` that should say `line`; see `compare`.

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
    """Returns every figure of METRICS for a dub, from observations; `mouth_boxes_F4` are the source's, in pixels.

    What cannot be compared with the source, because it shows no face or nobody speaks in it, is NaN; a face or a voice
    that the source has and the dub has lost is measured, with the worst figure.

    Without a true dub `truth_mouth_correlation` is NaN. `trip_FHWC` are the source's frames after a round trip through
    the video VAE; without them `outside_trip_psnr_db` is NaN.

    Raises:
        UsageError: the pictures differ in size.
    """
    unknown = float("nan")
    frames_FHWC = dub.clip.frames_FHWC
    return {
        **own_figures(dub, line),
        **paired_figures(dub, source, mouth_boxes_F4),
        "truth_mouth_correlation": unknown if truth is None else lipsync.correlation(dub.opening_F, truth.opening_F),
        "outside_trip_psnr_db": (
            unknown if trip_FHWC is None else picture.outside_psnr_db(frames_FHWC, trip_FHWC, mouth_boxes_F4)
        ),
        **_lost_mouth(dub, source),
    }


def _lost_mouth(dub: Observation, source: Observation) -> dict[str, float]:
    """Returns the figures of a mouth that the source shows and the dub does not."""
    if dub.has_mouth or not source.has_mouth:
        return {}
    return dict.fromkeys(("sync_correlation", "truth_mouth_correlation", "lip_diversity"), 0.0)


def own_figures(observation: Observation, *lines: Line) -> dict[str, float]:
    """Returns the figures of a clip that need no other clip; it should say `lines` one after the other."""
    reference = [word for line in lines for word in words_of(line.text, line.language)]
    return {
        "words_right": speech.words_right(reference, observation.words),
        "characters_right": speech.characters_right(reference, observation.words),
        "language_right": speech.language_right([line.language for line in lines], observation.words),
        "sync_correlation": lipsync.correlation(observation.opening_F, observation.speech_opening_F),
        "lse_c": observation.sync.confidence,
        "lse_d": observation.sync.distance,
        "sync_offset_frames": abs(observation.sync.offset_frames),
        "opening_offset_frames": lipsync.best_shift(observation.opening_F, observation.speech_opening_F),
        "lip_diversity": lipsync.lip_diversity(observation.opening_F),
        "loudness_dbfs": speech.loudness_dbfs(observation.clip),
        "clipped_share": speech.clipped_share(observation.clip),
    }


def paired_figures(dub: Observation, source: Observation, mouth_boxes_F4: np.ndarray) -> dict[str, float]:
    """Returns the figures of a clip against its source; `mouth_boxes_F4` are the source's, in pixels.

    Raises:
        UsageError: the pictures differ in size.
    """
    dub_FHWC, source_FHWC = dub.clip.frames_FHWC, source.clip.frames_FHWC
    return {
        "identity_cosine": likeness(dub.identity, source.identity),
        "voice_cosine": likeness(dub.voice, source.voice),
        "outside_psnr_db": picture.outside_psnr_db(dub_FHWC, source_FHWC, mouth_boxes_F4),
        "mouth_change": picture.mouth_change(dub_FHWC, source_FHWC, mouth_boxes_F4),
        "mouth_sharpness": picture.mouth_sharpness(dub_FHWC, source_FHWC, mouth_boxes_F4),
        "old_motion_correlation": lipsync.correlation(dub.opening_F, source.opening_F),
        "duration_gap_ms": speech.duration_gap_ms(dub.clip, source.clip),
    }


def measure_pair(original: Clip, counterpart: Clip, *, row: PairRow, scorers: Scorers) -> dict[str, float | str]:
    """Returns the measurement row of a pair: its id, what was recognised, and its figures; see `pair_figures`.

    The gate compares a column `x` with `min_x` or `max_x` of `params.Thresholds`; the other columns are for people.

    Raises:
        UsageError: the pictures differ in size.
    """
    first, second = observe(original, scorers), observe(counterpart, scorers)
    return {
        "id": row.id,
        "split": row.split,
        "source": row.source,
        "requested_original": f"{row.original.text} ({row.original.language})",
        "recognised_original": first.transcript,
        "requested_counterpart": f"{row.counterpart.text} ({row.counterpart.language})",
        "recognised_counterpart": second.transcript,
        "not_measured": "; ".join(dict.fromkeys((*first.troubles, *second.troubles))),
        **pair_figures(first, second, row),
    }


def pair_figures(original: Observation, counterpart: Observation, row: PairRow) -> dict[str, float]:
    """Returns the figures of a pair: the worse of both clips' own figures, and those of one clip against the other.

    Raises:
        UsageError: the pictures differ in size.
    """
    own = own_figures(original, row.original), own_figures(counterpart, row.counterpart)
    boxes_F4 = np.asarray(row.mouth_boxes, dtype=np.float64).reshape(-1, 4)
    worse = {name: _worse(name, own[0][name], own[1][name]) for name in own[0]}
    return worse | paired_figures(counterpart, original, boxes_F4)


def _worse(name: str, a: float, b: float) -> float:
    """Returns the worse of two figures, the smaller one of a neutral metric; NaN is the worst."""
    return float(np.maximum(a, b) if METRICS[name].better == "lower" else np.minimum(a, b))
