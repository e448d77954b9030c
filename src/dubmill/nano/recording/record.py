"""Recording: every word by every speaker, at the pace of somebody who counts.

Axes: N samples at 24 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dubmill.nano.recording.kokoro import SAMPLE_RATE_HZ, Kokoro, Speech
from dubmill.nano.recording.phonemes import symbols
from dubmill.nano.recording.voices import BRIDGE, Speaker

MAX_WORD_SECONDS = 0.41
WORD_RMS = 0.12
_FIRST_SPEED, _FASTEST = 1.1, 2.4
_REST = ", ... "
"""Says nothing for a tenth of a second; a comma or a full stop alone is passed over at this speed."""
_LAG_SECONDS = 0.05
"""How far the decoder's sound runs ahead of the predictor's frames: measured at the onsets of z, t, th and f."""
_LEAD_SECONDS, _TAIL_SECONDS, _FADE_SAMPLES = 0.02, 0.03, 240
_STRESS, _LENGTHENING = "ˈˌ", "ː̃"
_LETTERS = {"I": "aɪ", "W": "aʊ", "A": "eɪ", "Y": "ɔɪ", "Q": "əʊ", "O": "oʊ"}
"""Kokoro's one-letter diphthongs as the two vowels that lips go through."""


@dataclass(frozen=True)
class Take:
    """One word: float32 wave, and `(seconds, IPA)` where each phoneme starts."""

    wave_N: np.ndarray
    phonemes: tuple[tuple[float, str], ...]


class Booth:
    """Records words as lists with rests between them, which one voice says in one breath."""

    def __init__(self, kokoro: Kokoro) -> None:
        self._kokoro = kokoro
        self._scales: dict[Speaker, float] = {}

    def record(self, speaker: Speaker, language: str, words: tuple[str, ...]) -> dict[str, Take]:
        """Every word at the usual speed, the long ones again and faster until they are short enough."""
        said = {word: symbols(language, word) for word in words}
        takes: dict[str, Take] = {}
        speed = _FIRST_SPEED
        if speaker not in self._scales:
            few = dict(list(said.items())[:3])
            own_hz = self._say(speaker, few, speed, 1.0).pitch_hz
            self._scales[speaker] = speaker.pitch_hz / (own_hz * speaker.formants)
        while said:
            speech = self._say(speaker, said, speed, self._scales[speaker])
            takes |= _cut(speech, said, speaker.formants)
            lengths = {word: len(takes[word].wave_N) / SAMPLE_RATE_HZ for word in said}
            said = {word: said[word] for word, seconds in lengths.items() if seconds > MAX_WORD_SECONDS}
            if speed >= _FASTEST:
                break
            speed = min(_FASTEST, speed * max(1.08, max(lengths.values()) / (MAX_WORD_SECONDS - 0.01)))
        return {word: takes[word] for word in words}

    def _say(self, speaker: Speaker, said: dict[str, str], speed: float, pitch_scale: float) -> Speech:
        spoken = _REST.join(said.values()) + "."
        own, bridge = (self._kokoro.voices[name][len(spoken)] for name in (speaker.own, BRIDGE))
        style = speaker.share * own + (1 - speaker.share) * bridge
        return self._kokoro.say(spoken, style, speed=speed / speaker.formants, pitch_scale=pitch_scale)


def _cut(speech: Speech, said: dict[str, str], formants: float) -> dict[str, Take]:
    """The words of a list, played `formants` times as fast, each from before its first phoneme to after its last."""
    from scipy.signal import resample_poly

    wave_N = resample_poly(speech.wave_N, 100, round(100 * formants)).astype(np.float32)
    starts = [start / formants - _LAG_SECONDS for start in speech.starts]
    takes, place = {}, 0
    for word, spoken in said.items():
        after = place + len(spoken)
        first = max(0, round((starts[place] - _LEAD_SECONDS) * SAMPLE_RATE_HZ))
        last = round((starts[after] + _TAIL_SECONDS) * SAMPLE_RATE_HZ)
        events = [
            (start - first / SAMPLE_RATE_HZ, symbol) for symbol, start in zip(spoken, starts[place:], strict=False)
        ]
        takes[word] = Take(_levelled(wave_N[first:last]), _events(events))
        place = after + len(_REST)
    return takes


def _levelled(wave_N: np.ndarray) -> np.ndarray:
    """At one loudness and with soft ends."""
    wave_N = np.clip(wave_N * WORD_RMS / np.sqrt((wave_N**2).mean()), -0.95, 0.95)
    ramp = np.linspace(0, 1, _FADE_SAMPLES, dtype=np.float32)
    wave_N[:_FADE_SAMPLES] *= ramp
    wave_N[-_FADE_SAMPLES:] *= ramp[::-1]
    return wave_N


def _events(symbols: list[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Phonemes with their starts; a stress mark's time goes to the vowel after it, a length mark's to the one before."""
    events: list[tuple[float, str]] = []
    stressed_at = None
    for start, symbol in symbols:
        if symbol in _STRESS:
            stressed_at = start
        elif symbol not in _LENGTHENING:
            events.append((round(start if stressed_at is None else stressed_at, 4), _LETTERS.get(symbol, symbol)))
            stressed_at = None
    return tuple(events)
