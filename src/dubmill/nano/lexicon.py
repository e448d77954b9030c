"""All words of nano's world in every voice, synthesized once: waveforms, phoneme times and mouth shapes.

Rendering reads the shipped file; espeak-ng is needed only to make that file again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from dubmill.nano.speech import Synthesizer

LANGUAGES: dict[str, tuple[str, ...]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
}
LANGUAGE_NAMES: dict[str, str] = {"en": "English", "es": "Spanish", "fr": "French", "de": "German"}
VOICES = (("m3", 35), ("m3", 60), ("m7", 45), ("f2", 50), ("f2", 75), ("f4", 60), ("m1", 25), ("f5", 85))
"""espeak-ng variant and pitch of each voice."""

SAMPLE_RATE_HZ = 16000
TRACK_RATE_HZ = 200
MAX_WORD_SECONDS = 0.375
WORD_RMS = 0.12
_MU = 255
LEXICON_PATH = Path(__file__).parent / "weights" / "lexicon.safetensors"

# Mouth opening, width and rounding (each 0..1) of a phoneme, by the first letter of its IPA name.
_VISEMES: dict[str, tuple[float, float, float]] = {
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
    **dict.fromkeys("szθðtdnɾ", (0.18, 0.75, 0.0)),
    **dict.fromkeys("lrɹʁ", (0.3, 0.5, 0.2)),
    **dict.fromkeys("kɡxg", (0.28, 0.6, 0.0)),
    **dict.fromkeys("ʃʒ", (0.2, 0.25, 0.7)),
}
_VOWELS = frozenset("aæɑɒɐʌəɜeɛiɪoɔœøyʏuʊ")
_GLIDE = 0.55
"""Share of a diphthong after which the mouth is at its second vowel."""
_REST = (0.0, 0.5, 0.0)
_UNKNOWN = (0.3, 0.5, 0.0)


@dataclass(frozen=True)
class Word:
    """One word in one voice: `wave_N` float32 at 16 kHz, `visemes` = `(start_seconds, (open, width, round))`."""

    wave_N: np.ndarray
    visemes: tuple[tuple[float, tuple[float, float, float]], ...]

    @property
    def seconds(self) -> float:
        return len(self.wave_N) / SAMPLE_RATE_HZ


def visemes(phonemes: list[tuple[float, str]], seconds: float) -> tuple[tuple[float, tuple[float, float, float]], ...]:
    """Returns `(start_seconds, (open, width, round))` of a word of `seconds`; a diphthong has two."""
    shapes = []
    ends = [start for start, _ in phonemes[1:]] + [seconds]
    for (start, ipa), end in zip(phonemes, ends, strict=True):
        letters = ipa.translate(str.maketrans("", "", "ˈˌː"))
        shapes.append((start, _viseme(letters[:1])))
        if _VOWELS.issuperset(letters[:2]) and len(letters) > 1:
            shapes.append((start + _GLIDE * (end - start), _viseme(letters[1])))
    return tuple(shapes)


def _viseme(letter: str) -> tuple[float, float, float]:
    return _REST if letter in ("", "_", " ") else _VISEMES.get(letter, _UNKNOWN)


@cache
def lexicon(path: Path = LEXICON_PATH) -> dict[tuple[str, int, str], Word]:
    """Returns the stored words by `(language, voice, word)`."""
    words = {}
    with safe_open(path, framework="numpy") as stored:
        tracks = json.loads(stored.metadata()["phonemes"])
        for key in stored.keys():  # noqa: SIM118 - not a dict
            language, voice, word = key.split("/")
            wave_N = _expanded(stored.get_tensor(key))
            shapes = visemes(tracks[key], len(wave_N) / SAMPLE_RATE_HZ)
            words[language, int(voice), word] = Word(wave_N, shapes)
    return words


def build_lexicon(path: Path) -> None:
    """Synthesize every word in every voice and write them to `path`."""
    from dubmill.nano.speech import Synthesizer

    synthesizer = Synthesizer()
    waves, tracks = {}, {}
    for language, words in LANGUAGES.items():
        for voice in range(len(VOICES)):
            for word in words:
                key = f"{language}/{voice}/{word}"
                waves[key], tracks[key] = _spoken(synthesizer, language, voice, word)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(waves, path, metadata={"phonemes": json.dumps(tracks, ensure_ascii=False)})


def _spoken(
    synthesizer: Synthesizer, language: str, voice: int, word: str
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Returns the stored wave at 16 kHz and phoneme starts, spoken as fast as a half clip needs."""
    from scipy.signal import resample_poly

    variant, pitch = VOICES[voice]
    words_per_minute = 200
    while True:
        utterance = synthesizer.say(word, voice=f"{language}+{variant}", pitch=pitch, words_per_minute=words_per_minute)
        loud = np.flatnonzero(np.abs(utterance.wave_N) > 0.01)
        first, last = loud[0], loud[-1] + 1
        if last - first <= MAX_WORD_SECONDS * utterance.sample_rate_hz:
            break
        words_per_minute += 15
        assert words_per_minute < 450, f"{word} cannot be said fast enough"
    wave_N = resample_poly(utterance.wave_N[first:last], SAMPLE_RATE_HZ, utterance.sample_rate_hz).astype(np.float32)
    wave_N = np.clip(wave_N * WORD_RMS / np.sqrt((wave_N**2).mean()), -0.95, 0.95)
    fade = int(0.004 * SAMPLE_RATE_HZ)
    wave_N[:fade] *= np.linspace(0, 1, fade)
    wave_N[-fade:] *= np.linspace(1, 0, fade)
    starts = [(round(float(at - first / utterance.sample_rate_hz), 4), ipa) for at, ipa in utterance.phonemes if ipa]
    return _compressed(wave_N), starts


def _compressed(wave_N: np.ndarray) -> np.ndarray:
    """Returns the wave as uint8 by the mu-law of ITU-T G.711: half the size, with noise 38 dB below the speech."""
    companded = np.sign(wave_N) * np.log1p(_MU * np.abs(wave_N)) / np.log1p(_MU)
    return np.round(companded * 127 + 128).astype(np.uint8)


def _expanded(stored_N: np.ndarray) -> np.ndarray:
    companded = (stored_N.astype(np.float32) - 128) / 127
    return np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(np.float32(_MU))) / np.float32(_MU)
