"""The one seam of the measuring: who hears words, voices and sync, and who sees faces and mouths."""

from __future__ import annotations

from typing import Protocol

import numpy as np

SAMPLE_RATE_HZ = 16_000  # what every scorer hears, mono


class Scorers(Protocol):
    """Six judges of sound and picture, and this is all of it.

    `audio_N` is mono float32 in [-1, 1] at 16 kHz; `frames_FHWC` is uint8 RGB. Equal input gives equal output.
    """

    def words(self, audio_N: np.ndarray) -> list[tuple[str, str]]:
        """The words heard, in order: (BCP-47 language, word)."""
        ...

    def voice(self, audio_N: np.ndarray) -> np.ndarray:
        """A unit vector of who speaks; zeros where nobody does."""
        ...

    def identity(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """A unit vector of whose face is seen; zeros where there is none."""
        ...

    def mouth(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """(F, 5): how far the mouth is open (0..1), and its box x0, y0, x1, y1 in pixels; NaN where there is none."""
        ...

    def speech_opening(self, audio_N: np.ndarray, num_frames: int) -> np.ndarray:
        """(F,): how far a mouth saying this sound would be open, one number per frame."""
        ...

    def sync_distances(self, frames_FHWC: np.ndarray, audio_N: np.ndarray) -> np.ndarray:
        """(2K+1,): mean distance of sound and mouth embeddings with the sound shifted by -K ... K frames."""
        ...
