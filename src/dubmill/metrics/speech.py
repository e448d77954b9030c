"""Speech metrics: word error rate, language, loudness, clipping and duration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dubmill.media.clips import Clip
from dubmill.metrics.scorers import SAMPLE_RATE_HZ
from dubmill.text.spelling import primary, words_of

FULL_SCALE = 0.999  # a sample at or above this magnitude counts as clipped: a decoder's limiter stops just below 1
SILENCE_DBFS = -120.0  # level of digital silence, instead of minus infinity; below the noise of 16 bits


def scorer_audio(clip: Clip) -> np.ndarray:
    """Returns the clip's sound as the scorers take it: mono (N,) float32 at 16 kHz."""
    mono_N = clip.mono_N.astype(np.float32) if clip.audio_CN.size else np.zeros(0, np.float32)
    if clip.sample_rate_hz == SAMPLE_RATE_HZ or not mono_N.size:
        return mono_N
    from scipy.signal import resample_poly

    return resample_poly(mono_N, SAMPLE_RATE_HZ, clip.sample_rate_hz).astype(np.float32)


def words_right(reference: Sequence[str], recognised: Sequence[tuple[str, str]] | None) -> float:
    """Returns 1 - word error rate, at least 0, of recognised (language, word)s; silence has 0, None is NaN.

    `reference` are words as `text.spelling.words_of` gives them; in scripts without spaces a word is a character.
    """
    return _right(list(reference), recognised, error_rate)


def characters_right(reference: Sequence[str], recognised: Sequence[tuple[str, str]] | None) -> float:
    """Returns 1 - character error rate, at least 0, without spaces; silence has 0, None is NaN."""
    return _right(list(reference), recognised, lambda first, second: error_rate("".join(first), "".join(second)))


def _right(
    reference: list[str],
    recognised: Sequence[tuple[str, str]] | None,
    rate: Callable[[list[str], list[str]], float],
) -> float:
    if recognised is None:
        return float("nan")
    words = [word for tag, text in recognised for word in words_of(text, tag)]
    return max(0.0, 1.0 - rate(reference, words)) if words else 0.0


def error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Returns words or characters inserted, dropped or replaced per one of the reference, above 1 where many are inserted.

    For an empty reference it is 0 where nothing was recognised, else 1.
    """
    from jiwer import wer

    if not reference:
        return float(bool(hypothesis))
    return float(wer(" ".join(reference), " ".join(hypothesis)))


def language_right(languages: Sequence[str], recognised: Sequence[tuple[str, str]] | None) -> float:
    """Returns the share of recognised words in the requested language, regions aside (es-MX is es); silence has 0, None is NaN.

    A clip of several lines has one entry of `languages` per line, in order. Its recognised words are divided into as
    many parts, at the places that give the largest share.
    """
    if recognised is None:
        return float("nan")
    if not recognised:
        return 0.0
    counts = [0] * len(languages)  # right words so far, where the current word belongs to this line
    for tag, _ in recognised:
        counts = [max(counts[: at + 1]) + (primary(tag) == primary(line)) for at, line in enumerate(languages)]
    return max(counts) / len(recognised)


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
