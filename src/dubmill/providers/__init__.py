"""Providers: a transcriber of speech, a translator, and a separator of speech from music. None is used unless it is chosen by name.

What they make is a file for a person to check and correct: a script, or a recording of music and effects.
"""

from __future__ import annotations

from dubmill.providers.registry import SEPARATORS, TRANSCRIBERS, TRANSLATORS, separator, transcriber, translator
from dubmill.providers.separation import SEPARATION_RATE_HZ, Separator
from dubmill.providers.transcription import SAMPLE_RATE_HZ, Transcriber
from dubmill.providers.translation import CueRequest, Translation, Translator, translate

__all__ = [
    "SAMPLE_RATE_HZ", "SEPARATION_RATE_HZ", "SEPARATORS", "TRANSCRIBERS", "TRANSLATORS",
    "CueRequest", "Separator", "Transcriber", "Translation", "Translator", "separator", "transcriber", "translate", "translator",
]  # fmt: skip
