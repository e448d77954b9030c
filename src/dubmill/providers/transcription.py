"""The interface of a transcriber."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from dubmill.text.subtitles import Cue

SAMPLE_RATE_HZ = 16_000  # of the mono sound that a transcriber is given


class Transcriber(Protocol):
    """Turns speech into text with times."""

    def transcribe(self, audio_N: np.ndarray, *, language: str) -> list[Cue]:
        """Returns the speech in `audio_N` (float32 in [-1, 1] at `SAMPLE_RATE_HZ`) as cues."""
        ...
