"""Are the asked words said, in order, in the asked language, loud and unclipped, for as long as the picture?"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from dubmill.media.clips import Clip
from dubmill.metrics.scorers import SAMPLE_RATE_HZ

FULL_SCALE = 0.999  # a sample at or above this magnitude counts as clipped: a decoder's limiter stops just below 1
SILENCE_DBFS = -120.0  # stands for the minus infinity of digital silence, below what 16 bits can hold


def hearing(clip: Clip) -> np.ndarray:
    """The clip's sound as scorers hear it: mono (N,) float32 at 16 kHz."""
    mono_N = clip.mono_N.astype(np.float32) if clip.audio_CN.size else np.zeros(0, np.float32)
    if clip.sample_rate_hz == SAMPLE_RATE_HZ or not mono_N.size:
        return mono_N
    from scipy.signal import resample_poly

    return resample_poly(mono_N, SAMPLE_RATE_HZ, clip.sample_rate_hz).astype(np.float32)


def spelling(word: str) -> str:
    """`word` as it is compared: composed, without case or punctuation."""
    folded = unicodedata.normalize("NFC", word).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter)[0] in "LMN")


def words_of(text: str) -> list[str]:
    """The words of a line as they are compared; scripts without spaces are one word."""
    return [word for word in map(spelling, text.split()) if word]


def edit_distance(asked: Sequence[str], heard: Sequence[str]) -> int:
    """The least number of words inserted, dropped or replaced between the two (Levenshtein)."""
    costs = list(range(len(heard) + 1))
    for row, word in enumerate(asked, start=1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(heard, start=1):
            best = min(costs[column] + 1, costs[column - 1] + 1, diagonal + (word != other))
            diagonal, costs[column] = costs[column], best
    return costs[-1]


def word_error_rate(asked: Sequence[str], heard: Sequence[str]) -> float:
    """Word errors per asked word, above 1 where many are inserted; with nothing asked: 0 for silence, else 1."""
    asked, heard = list(map(spelling, asked)), list(map(spelling, heard))
    return edit_distance(asked, heard) / len(asked) if asked else float(bool(heard))


def words_right(text: str, heard: Sequence[tuple[str, str]]) -> float:
    """1 - word error rate, floored at 0: the share of asked words heard in their place; silence has 0."""
    return max(0.0, 1.0 - word_error_rate(words_of(text), [word for _, word in heard])) if heard else 0.0


def language_right(language: str, heard: Sequence[tuple[str, str]]) -> float:
    """Share of heard words in `language`, regions aside (es-MX is es); silence has 0."""
    if not heard:
        return 0.0
    return sum(_primary(tag) == _primary(language) for tag, _ in heard) / len(heard)


def _primary(tag: str) -> str:
    return tag.split("-")[0].casefold()


def loudness_dbfs(clip: Clip) -> float:
    """Root mean square of all samples in dB under full scale; digital silence and no sound have -120."""
    power = float(np.mean(np.square(clip.audio_CN, dtype=np.float64))) if clip.audio_CN.size else 0.0
    return max(SILENCE_DBFS, 10 * np.log10(power)) if power > 0 else SILENCE_DBFS


def clipped_share(clip: Clip) -> float:
    """Share of samples at full scale; no sound has none."""
    return float(np.mean(np.abs(clip.audio_CN) >= FULL_SCALE)) if clip.audio_CN.size else 0.0


def duration_gap_ms(clip: Clip, other: Clip) -> float:
    """The largest of: picture against sound of either clip, picture against picture; in milliseconds."""
    sounds = [abs(one.seconds - one.audio_CN.shape[1] / one.sample_rate_hz) for one in (clip, other)]
    return 1000 * max(*sounds, abs(clip.seconds - other.seconds))
