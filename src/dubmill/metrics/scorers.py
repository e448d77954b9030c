"""The Protocol of the measuring models: speech and speaker recognition, face embedding, mouth tracking, sync."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

SAMPLE_RATE_HZ = 16_000  # of the mono sound that every scorer takes


class Scorers(Protocol):
    """The measuring models that `metrics` needs.

    `audio_N` is mono float32 in [-1, 1] at 16 kHz; `frames_FHWC` is uint8 RGB. Equal input gives equal output. A
    result of NaN, or None, was not measured; zeros, or an empty list, say that there is nothing.
    """

    @property
    def missing(self) -> Mapping[str, str]:
        """The measurements (words, voice, identity, mouth, opening, sync) that have no model, each with the reason in a sentence."""
        ...

    def troubles(self, frames_FHWC: np.ndarray, audio_N: np.ndarray) -> list[str]:
        """Returns sentences on what cannot be measured in this clip although its model is there, and why."""
        ...

    def prepare(self, frames_FHWC: np.ndarray, audio_N: np.ndarray) -> None:
        """Announce a clip that will be measured, so that a scorer may begin with several parts of it side by side."""
        ...

    def words(self, audio_N: np.ndarray) -> list[tuple[str, str]] | None:
        """Returns the recognised words in order as (BCP-47 language, word); None without a recogniser."""
        ...

    def voice(self, audio_N: np.ndarray) -> np.ndarray:
        """Returns a unit vector of the speaker; zeros where nobody speaks."""
        ...

    def identity(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """Returns a unit vector of the face; zeros where there is none."""
        ...

    def mouth(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """Returns (F, 5): mouth opening 0..1 and mouth box x0, y0, x1, y1 in pixels; NaN in frames without a mouth."""
        ...

    def speech_opening(self, audio_N: np.ndarray, num_frames: int, frame_rate: float) -> np.ndarray:
        """Returns (F,): the opening 0..1 of a mouth that would speak this sound."""
        ...

    def sync_distances(self, frames_FHWC: np.ndarray, audio_N: np.ndarray, frame_rate: float) -> np.ndarray:
        """Returns (2K+1,): mean distance of sound and mouth embeddings with the sound shifted by -K ... K frames."""
        ...
