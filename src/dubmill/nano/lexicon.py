"""Every word of the world in every voice, recorded once: waves, phoneme times, and the mouth shapes they ask for.

The shipped file is what rendering reads; `python -m dubmill.nano record` makes it (see `dubmill.nano.recording`). The
recordings are Kokoro-82M's, whose weights and voices are Apache-2.0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

LANGUAGES: dict[str, tuple[str, ...]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
}
LANGUAGE_NAMES: dict[str, str] = {"en": "English", "es": "Spanish", "fr": "French", "de": "German"}
NUM_DIGITS = 10
COLOURS: dict[str, tuple[str, ...]] = {
    "en": ("red", "blue", "green", "white", "black", "pink", "brown", "grey", "gold", "silver"),
    "es": ("rojo", "azul", "verde", "blanco", "negro", "rosa", "marrón", "gris", "oro", "plata"),
    "fr": ("rouge", "bleu", "vert", "blanc", "noir", "rose", "brun", "gris", "or", "argent"),
    "de": ("rot", "blau", "grün", "weiß", "schwarz", "rosa", "braun", "grau", "gold", "silber"),
}
"""A second class of words, recorded by the same command; not in the shipped lexicon yet."""

SAMPLE_RATE_HZ = 24000
TRACK_RATE_HZ = 200
WORD_RMS = 0.12
_MU = 255
LEXICON_PATH = Path(__file__).parent / "weights" / "lexicon.safetensors"

# Mouth opening, width and rounding (each 0..1) of a phoneme, by the first letter of its IPA name.
VISEMES: dict[str, tuple[float, float, float]] = {
    **dict.fromkeys("mbpβ", (0.0, 0.5, 0.0)),
    **dict.fromkeys("fv", (0.08, 0.6, 0.0)),
    **dict.fromkeys("aæ", (1.0, 0.7, 0.0)),
    **dict.fromkeys("ɑɒ", (1.0, 0.5, 0.2)),
    **dict.fromkeys("ɐʌ", (0.85, 0.6, 0.0)),
    **dict.fromkeys("əɜ", (0.5, 0.5, 0.1)),
    **dict.fromkeys("eɛ", (0.65, 0.9, 0.0)),
    **dict.fromkeys("iɪj", (0.35, 1.0, 0.0)),
    **dict.fromkeys("oɔ", (0.7, 0.3, 0.8)),
    **dict.fromkeys("œ", (0.6, 0.35, 0.7)),
    **dict.fromkeys("ø", (0.45, 0.2, 0.9)),
    **dict.fromkeys("yʏ", (0.28, 0.15, 1.0)),
    **dict.fromkeys("uʊw", (0.28, 0.1, 1.0)),
    **dict.fromkeys("szʦθðtdnɾ", (0.18, 0.75, 0.0)),
    **dict.fromkeys("lrɹʁ", (0.3, 0.5, 0.2)),
    **dict.fromkeys("kɡxçɣg", (0.28, 0.6, 0.0)),
    **dict.fromkeys("ʃʒʧʤ", (0.2, 0.25, 0.7)),
}
_VOWELS = frozenset("aæɑɒɐʌəɜeɛiɪoɔœøyʏuʊ")
_GLIDE = 0.55
"""Share of a diphthong after which the mouth is at its second vowel."""
_REST = (0.0, 0.5, 0.0)
_UNKNOWN = (0.3, 0.5, 0.0)


@dataclass(frozen=True)
class Word:
    """One word in one voice: `wave_N` float32 at 24 kHz, `visemes` = `(start_seconds, (open, width, round))`."""

    wave_N: np.ndarray
    visemes: tuple[tuple[float, tuple[float, float, float]], ...]

    @property
    def seconds(self) -> float:
        return len(self.wave_N) / SAMPLE_RATE_HZ


def visemes(phonemes: list[tuple[float, str]], seconds: float) -> tuple[tuple[float, tuple[float, float, float]], ...]:
    """`(start_seconds, (open, width, round))` of a word of `seconds`; a diphthong has two."""
    shapes = []
    ends = [start for start, _ in phonemes[1:]] + [seconds]
    for (start, ipa), end in zip(phonemes, ends, strict=True):
        letters = ipa.translate(str.maketrans("", "", "ˈˌː"))
        shapes.append((start, _viseme(letters[:1])))
        if _VOWELS.issuperset(letters[:2]) and len(letters) > 1:
            shapes.append((start + _GLIDE * (end - start), _viseme(letters[1])))
    return tuple(shapes)


def _viseme(letter: str) -> tuple[float, float, float]:
    return _REST if letter in ("", "_", " ") else VISEMES.get(letter, _UNKNOWN)


@cache
def lexicon(path: Path = LEXICON_PATH) -> dict[tuple[str, int, str], Word]:
    """The baked words by `(language, voice, word)`."""
    words = {}
    with safe_open(path, framework="numpy") as stored:
        tracks = json.loads(stored.metadata()["phonemes"])
        for key in stored.keys():  # noqa: SIM118 - not a dict
            language, voice, word = key.split("/")
            wave_N = _expanded(stored.get_tensor(key))
            shapes = visemes(tracks[key], len(wave_N) / SAMPLE_RATE_HZ)
            words[language, int(voice), word] = Word(wave_N, shapes)
    return words


@cache
def recorded_voices(path: Path = LEXICON_PATH) -> tuple[int, ...]:
    """The voices that the lexicon holds; captions know `splits.NUM_VOICES` of them."""
    with safe_open(path, framework="numpy") as stored:
        return tuple(sorted({int(key.split("/")[1]) for key in stored.keys()}))  # noqa: SIM118 - not a dict


def seal(takes: dict[str, tuple[np.ndarray, list[tuple[float, str]]]], path: Path) -> None:
    """Write recorded words, waves and phonemes by `language/voice/word`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tracks = {key: phonemes for key, (_, phonemes) in takes.items()}
    metadata = {"phonemes": json.dumps(tracks, ensure_ascii=False), "licence": "Apache-2.0 (Kokoro-82M)"}
    save_file({key: _compressed(wave_N) for key, (wave_N, _) in takes.items()}, path, metadata=metadata)


def _compressed(wave_N: np.ndarray) -> np.ndarray:
    """uint8 by the mu-law of ITU-T G.711, each sample's error taken off the next ones, so that noise hides under speech."""
    codes_N = np.empty(len(wave_N), np.uint8)
    levels = _expanded(np.arange(256, dtype=np.uint8))
    first = second = 0.0  # errors of the two samples before
    for place, sample in enumerate(wave_N.tolist()):
        wanted = sample + 1.1 * first + 0.4 * second
        code = round(float(np.sign(wanted) * np.log1p(_MU * min(abs(wanted), 1.0)) / np.log1p(_MU)) * 127 + 128)
        codes_N[place] = code
        first, second = float(levels[code]) - wanted, first
    return codes_N


def _expanded(stored_N: np.ndarray) -> np.ndarray:
    companded = (stored_N.astype(np.float32) - 128) / 127
    return np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(np.float32(_MU))) / np.float32(_MU)
