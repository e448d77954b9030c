"""Who may write a script: a transcriber of what is said, a translator of it. None is used unless it is asked for by name.

What they answer becomes a file that a person reads and mends before a dub is made of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from dubmill.errors import UsageError
from dubmill.providers.translation import Asked, Translation, Translator, translate
from dubmill.text.subtitles import Cue

__all__ = [
    "SAMPLE_RATE_HZ", "TRANSCRIBERS", "TRANSLATORS",
    "Asked", "Transcriber", "Translation", "Translator", "transcriber", "translate", "translator",
]  # fmt: skip

SAMPLE_RATE_HZ = 16_000  # what every transcriber hears, mono
TRANSCRIBERS = ("whisper", "endpoint")
TRANSLATORS = ("endpoint",)


class Transcriber(Protocol):
    """Who writes down what is said."""

    def transcribe(self, audio_N: np.ndarray, *, language: str) -> list[Cue]:
        """What is said in `audio_N` (float32 in [-1, 1] at `SAMPLE_RATE_HZ`), in time."""
        ...


def transcriber(name: str, *, model: str, url: str) -> Transcriber:
    """The transcriber called `name`: whisper reads the folder `model`, an endpoint has `model` behind `url`.

    Raises:
        UsageError: there is no such transcriber, or it is not installed, or its model is not there.
    """
    if name == "whisper":
        from dubmill.providers.whisper import Whisper

        return Whisper(Path(model))
    if name == "endpoint":
        from dubmill.providers.remote import RemoteTranscriber

        return RemoteTranscriber(_needed(url), model)
    raise UsageError(f"there is no transcriber {name!r}", cure=f"use one of {', '.join(TRANSCRIBERS)}")


def translator(name: str, *, model: str, url: str) -> Translator:
    """The translator called `name`.

    Raises:
        UsageError: there is no such translator.
    """
    if name == "endpoint":
        from dubmill.providers.remote import RemoteTranslator

        return RemoteTranslator(_needed(url), model)
    raise UsageError(f"there is no translator {name!r}", cure=f"use {', '.join(TRANSLATORS)}")


def _needed(url: str) -> str:
    if not url:
        raise UsageError("an endpoint needs its address", cure="give --url, such as http://localhost:8000/v1")
    return url
