"""Providers that write a script: a transcriber of speech and a translator. None is used unless it is chosen by name.

Their output is a file for a person to read and correct before a dub is made from it.
"""

from __future__ import annotations

from dubmill.providers.registry import TRANSCRIBERS, TRANSLATORS, transcriber, translator
from dubmill.providers.transcription import SAMPLE_RATE_HZ, Transcriber
from dubmill.providers.translation import CueRequest, Translation, Translator, translate

__all__ = [
    "SAMPLE_RATE_HZ", "TRANSCRIBERS", "TRANSLATORS",
    "CueRequest", "Transcriber", "Translation", "Translator", "transcriber", "translate", "translator",
]  # fmt: skip
