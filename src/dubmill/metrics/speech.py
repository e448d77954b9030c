"""Speech metrics: word error rate, language, loudness, clipping and duration."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from dubmill.media.clips import Clip
from dubmill.metrics.scorers import SAMPLE_RATE_HZ

FULL_SCALE = 0.999  # a sample at or above this magnitude counts as clipped: a decoder's limiter stops just below 1
SILENCE_DBFS = -120.0  # level of digital silence, instead of minus infinity; below the noise of 16 bits


def scorer_audio(clip: Clip) -> np.ndarray:
    """Returns the clip's sound as the scorers take it: mono (N,) float32 at 16 kHz."""
    mono_N = clip.mono_N.astype(np.float32) if clip.audio_CN.size else np.zeros(0, np.float32)
    if clip.sample_rate_hz == SAMPLE_RATE_HZ or not mono_N.size:
        return mono_N
    from scipy.signal import resample_poly

    return resample_poly(mono_N, SAMPLE_RATE_HZ, clip.sample_rate_hz).astype(np.float32)


def normalised(word: str) -> str:
    """Returns `word` in Unicode NFC, without case and punctuation, as words are compared."""
    folded = unicodedata.normalize("NFC", word).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter)[0] in "LMN")


def words_of(text: str) -> list[str]:
    """Returns the normalised words of a text; a text in a script without spaces is one word."""
    return [word for word in map(normalised, text.split()) if word]


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Returns the least number of words inserted, dropped or replaced between the two (Levenshtein distance)."""
    costs = list(range(len(hypothesis) + 1))
    for row, word in enumerate(reference, start=1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(hypothesis, start=1):
            best = min(costs[column] + 1, costs[column - 1] + 1, diagonal + (word != other))
            diagonal, costs[column] = costs[column], best
    return costs[-1]


def word_error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Returns word errors per reference word, above 1 where many are inserted.

    For an empty reference it is 0 where nothing was recognised, else 1.
    """
    reference, hypothesis = list(map(normalised, reference)), list(map(normalised, hypothesis))
    return edit_distance(reference, hypothesis) / len(reference) if reference else float(bool(hypothesis))


def words_right(text: str, recognised: Sequence[tuple[str, str]]) -> float:
    """Returns 1 - word error rate, at least 0, of recognised (language, word)s against `text`; silence has 0."""
    if not recognised:
        return 0.0
    return max(0.0, 1.0 - word_error_rate(words_of(text), [word for _, word in recognised]))


def language_right(languages: Sequence[str], recognised: Sequence[tuple[str, str]]) -> float:
    """Returns the share of recognised words in the requested language, regions aside (es-MX is es); silence has 0.

    A clip of several lines has one entry of `languages` per line, in order. Its recognised words are divided into as
    many parts, at the places that give the largest share.
    """
    if not recognised:
        return 0.0
    counts = [0] * len(languages)  # right words so far, where the current word belongs to this line
    for tag, _ in recognised:
        best = list(accumulate(counts, max))
        counts = [best[at] + (_primary(tag) == _primary(language)) for at, language in enumerate(languages)]
    return max(counts) / len(recognised)


def _primary(tag: str) -> str:
    return tag.split("-")[0].casefold()


def loudness_dbfs(clip: Clip) -> float:
    """Returns the root mean square of all samples in dBFS; -120 for digital silence and for a clip without sound."""
    power = float(np.mean(np.square(clip.audio_CN, dtype=np.float64))) if clip.audio_CN.size else 0.0
    return max(SILENCE_DBFS, 10 * np.log10(power)) if power > 0 else SILENCE_DBFS


def clipped_share(clip: Clip) -> float:
    """Returns the share of samples at full scale; 0 for a clip without sound."""
    return float(np.mean(np.abs(clip.audio_CN) >= FULL_SCALE)) if clip.audio_CN.size else 0.0


def duration_gap_ms(clip: Clip, other: Clip) -> float:
    """Returns the largest gap in milliseconds: picture to sound of either clip, and picture to picture."""
    gaps = [abs(each.seconds - each.audio_CN.shape[1] / each.sample_rate_hz) for each in (clip, other)]
    return 1000 * max(*gaps, abs(clip.seconds - other.seconds))
