"""Figures of clips, measured by the scorers against what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dubmill.nano.scorers import MAX_OFFSET_FRAMES, Scorers
from dubmill.nano.world import Phrase


def spoken(phrases: Sequence[Phrase]) -> list[tuple[str, str]]:
    """`(language, word)` in order."""
    return [(phrase.language, word) for phrase in phrases for word in phrase.words]


def words_right(heard: list[tuple[str, str]], asked: list[tuple[str, str]]) -> float:
    """Share of asked words heard in their place, by the fewest edits."""
    row = list(range(len(heard) + 1))
    for i, wanted in enumerate(asked, 1):
        above, row[0] = row[0], i
        for j, word in enumerate(heard, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (wanted != word))
    return max(0.0, 1 - row[-1] / len(asked))


def language_right(heard: list[tuple[str, str]], asked: list[tuple[str, str]]) -> float:
    """Share of asked words in whose place a word of the right language was heard."""
    return words_right([(language, "") for language, _ in heard], [(language, "") for language, _ in asked])


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r; zero if either does not vary."""
    first, second = first - first.mean(), second - second.mean()
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    return float((first * second).sum() / scale) if scale > 1e-9 else 0.0


def clip_figures(
    scorers: Scorers, frames_FHWC: np.ndarray, audio_N: np.ndarray, phrases: Sequence[Phrase]
) -> dict[str, float]:
    """What can be said of one clip without its truth: words, language, lips against its own sound, offset."""
    heard, asked = scorers.words(audio_N), spoken(phrases)
    implied = scorers.speech_opening(audio_N, len(frames_FHWC))
    distances = scorers.sync_distances(frames_FHWC, audio_N)
    offset = int(distances.argmin()) - MAX_OFFSET_FRAMES
    return {
        "words": words_right(heard, asked),
        "language": language_right(heard, asked),
        "lips_r": correlation(scorers.mouth(frames_FHWC)[:, 0], implied),
        "lse_d": float(distances.min()),
        "lse_c": float(np.median(distances) - distances.min()),
        "offset_within_one": float(abs(offset) <= 1),
    }


def truth_figures(
    scorers: Scorers, frames_FHWC: np.ndarray, audio_N: np.ndarray, opening_F: np.ndarray, box_F4: np.ndarray
) -> dict[str, float]:
    """How well the scorers read the known mouth."""
    seen_F5 = scorers.mouth(frames_FHWC)
    return {
        "mouth_seen_r": correlation(seen_F5[:, 0], opening_F),
        "mouth_heard_r": correlation(scorers.speech_opening(audio_N, len(opening_F)), opening_F),
        "mouth_box_px": float(np.abs(seen_F5[:, 1:] - box_F4).mean()),
    }


def same_and_other(vectors: list[np.ndarray], owners: list[object]) -> tuple[float, float]:
    """Mean cosine between neighbours of one owner, and between neighbours of two."""
    pairs = [(float(a @ b), x == y) for (a, x), (b, y) in pairwise(zip(vectors, owners, strict=True))]
    same, other = ([cosine for cosine, is_same in pairs if is_same is wanted] for wanted in (True, False))
    return float(np.mean(same or [0.0])), float(np.mean(other or [0.0]))


def mean_figures(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
