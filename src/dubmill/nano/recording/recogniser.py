"""Which recordings are understood: Whisper base hears every speaker's words, a handful at a time, in each language.

One word alone is too little for a recogniser of sentences, so words are heard in lists, as they are spoken in films.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dubmill.nano.recording.kokoro import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

_REST_SECONDS = 0.16
_SILENCE_SAMPLES = 12000
_ORDER = (0, 3, 6, 9, 2, 5, 8, 1, 4, 7)
_LIST_LENGTH = 5


class Recogniser:
    """Whisper from `folder` (CTranslate2 format)."""

    def __init__(self, folder: Path) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)

    def transcribe(self, wave_N: np.ndarray, language: str) -> str:
        """What is said in a wave at 24 kHz."""
        from scipy.signal import resample_poly

        heard_N = resample_poly(wave_N, 2, 3).astype(np.float32)
        segments, _ = self._model.transcribe(
            np.pad(heard_N, (0, _SILENCE_SAMPLES)),
            language=language,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            max_new_tokens=48,
            no_repeat_ngram_size=3,  # else it counts "8, 8, 8" into the silence after a list
        )
        return " ".join(segment.text for segment in segments)

    def words_missed(self, waves: Sequence[np.ndarray], words: Sequence[str], language: str) -> int:
        """How many of ten words are not understood, by the fewest edits, in two lists of five."""
        missed = 0
        rest = np.zeros(round(_REST_SECONDS * SAMPLE_RATE_HZ), np.float32)
        for first in range(0, len(words), _LIST_LENGTH):
            order = _ORDER[first : first + _LIST_LENGTH]
            wave_N = np.concatenate([part for place in order for part in (waves[place], rest)])
            heard = spelled(self.transcribe(wave_N, language), words)
            missed += min(_LIST_LENGTH, edits(heard, [_bare(words[place]) for place in order]))
        return missed


def spelled(text: str, digits: Sequence[str]) -> list[str]:
    """Bare words of a transcript, its numerals written out."""
    words = []
    for token in re.findall(r"\w+", text):
        words += [_bare(digits[int(sign)]) for sign in token] if token.isdecimal() else [_bare(token)]
    return words


def edits(heard: Sequence[str], said: Sequence[str]) -> int:
    """Fewest insertions, deletions and changes from one to the other."""
    row = list(range(len(heard) + 1))
    for i, wanted in enumerate(said, 1):
        above, row[0] = row[0], i
        for j, word in enumerate(heard, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (wanted != word))
    return row[-1]


def _bare(word: str) -> str:
    parts = unicodedata.normalize("NFKD", word.casefold())
    return "".join(letter for letter in parts if not unicodedata.combining(letter))
