"""Held-out figures of nano's training: clips measured by the scorers against what the world knows of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

from dubmill.metrics.likeness import cosine
from dubmill.metrics.lipsync import correlation, lip_sync
from dubmill.metrics.speech import language_right, words_right
from dubmill.nano.scorers import NanoScorers
from dubmill.nano.world import Phrase


def text_of(phrases: Sequence[Phrase]) -> str:
    """Returns the words of all phrases in order, as one text."""
    return " ".join(word for phrase in phrases for word in phrase.words)


def clip_figures(
    scorers: NanoScorers, frames_FHWC: np.ndarray, audio_N: np.ndarray, phrases: Sequence[Phrase]
) -> dict[str, float]:
    """Returns the figures of one clip that need no other clip; the definitions are those of `dubmill.metrics`."""
    recognised = scorers.words(audio_N)
    sync = lip_sync(scorers.sync_distances(frames_FHWC, audio_N))
    implied_F = scorers.speech_opening(audio_N, len(frames_FHWC))
    return {
        "words": words_right(text_of(phrases).split(), recognised),
        "language": language_right([phrase.language for phrase in phrases], recognised),
        "lips_r": correlation(scorers.mouth(frames_FHWC)[:, 0], implied_F),
        "lse_d": sync.distance,
        "lse_c": sync.confidence,
        "offset_within_one": float(abs(sync.offset_frames) <= 1),
    }


def truth_figures(
    scorers: NanoScorers, frames_FHWC: np.ndarray, audio_N: np.ndarray, opening_F: np.ndarray, box_F4: np.ndarray
) -> dict[str, float]:
    """Returns how well the scorers read the true mouth from picture and from sound."""
    seen_F5 = scorers.mouth(frames_FHWC)
    return {
        "mouth_seen_r": correlation(seen_F5[:, 0], opening_F),
        "mouth_heard_r": correlation(scorers.speech_opening(audio_N, len(opening_F)), opening_F),
        "mouth_box_px": float(np.abs(seen_F5[:, 1:] - box_F4).mean()),
    }


def same_and_other(vectors: Sequence[np.ndarray], owners: Sequence[Hashable]) -> tuple[float, float]:
    """Returns the mean cosine of neighbours in the list with the same owner, and of those with different owners."""
    pairs = [(cosine(a, b), x == y) for (a, x), (b, y) in pairwise(zip(vectors, owners, strict=True))]
    same, other = ([value for value, is_same in pairs if is_same is is_wanted] for is_wanted in (True, False))
    return float(np.mean(same or [0.0])), float(np.mean(other or [0.0]))


def mean_figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each figure over the rows."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
