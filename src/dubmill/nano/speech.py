"""Synthesizes words with espeak-ng, with the time of every phoneme; needed only to make the lexicon again.

espeak-ng keeps the last voice when a name is unknown and says so only in its return code, so every code is checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dubmill.errors import UsageError

_SYNCHRONOUS_RETRIEVAL = 2
_PHONEME_EVENTS_IPA = 3
_EVENT_END_OF_LIST = 0
_EVENT_PHONEME = 7
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
_UTF8 = 1


@dataclass(frozen=True)
class Utterance:
    """One spoken word: the waveform, and `(seconds, IPA)` of each phoneme's start."""

    wave_N: np.ndarray
    sample_rate_hz: int
    phonemes: tuple[tuple[float, str], ...]


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    ]


def _events(first: ctypes._Pointer) -> Iterator[_Event]:
    position = 0
    while first[position].type != _EVENT_END_OF_LIST:
        yield first[position]
        position += 1


def _checked(code: int, what: str) -> int:
    if code < 0 or (code > 0 and not what.startswith("initialise")):
        raise UsageError(f"espeak-ng returned {code} to {what}", cure="check the espeakng-loader installation")
    return code


class Synthesizer:
    """espeak-ng in this process. One per process: the library keeps global state."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(Path(espeakng_loader.get_data_path())).encode()
        rate = self._library.espeak_Initialize(_SYNCHRONOUS_RETRIEVAL, 500, data, _PHONEME_EVENTS_IPA)
        self.sample_rate_hz = _checked(rate, "initialise")
        self._waves: list[np.ndarray] = []
        self._phonemes: list[tuple[float, str]] = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = prototype(self._collect)  # kept alive: C holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, wave: ctypes._Pointer, num_samples: int, events: ctypes._Pointer) -> int:
        if num_samples > 0 and wave:
            self._waves.append(np.ctypeslib.as_array(wave, (num_samples,)).copy())
        for event in _events(events):
            if event.type == _EVENT_PHONEME:
                self._phonemes.append((event.audio_position_ms / 1000, event.phoneme.decode("utf8", "ignore")))
        return 0

    def say(self, text: str, *, voice: str, pitch: int, words_per_minute: int) -> Utterance:
        """Returns `text` spoken by `voice` (such as `en+m3`), as float32 in [-1, 1]."""
        self._waves, self._phonemes = [], []
        text_bytes = text.encode() + b"\0"
        _checked(self._library.espeak_SetVoiceByName(voice.encode()), f"voice {voice!r}")
        _checked(self._library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0), f"pitch {pitch}")
        _checked(self._library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0), f"rate {words_per_minute}")
        _checked(self._library.espeak_Synth(text_bytes, len(text_bytes), 0, 1, 0, _UTF8, None, None), f"say {text!r}")
        _checked(self._library.espeak_Synchronize(), "finish")
        wave_N = np.concatenate(self._waves).astype(np.float32) / 32768
        return Utterance(wave_N, self.sample_rate_hz, tuple(self._phonemes))
