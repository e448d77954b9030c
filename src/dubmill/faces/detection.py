"""Face detectors: a protocol, and one made from a scorer that finds a mouth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from dubmill.metrics.scorers import Scorers


@dataclass(frozen=True)
class Face:
    """One face in one frame: `box_4` and `mouth_4` as x0, y0, x1, y1 pixels.

    `points_52` are eyes, nose and corners of the mouth as x, y pixels, where the detector knows them.
    """

    box_4: np.ndarray
    mouth_4: np.ndarray
    points_52: np.ndarray | None = None

    @property
    def size(self) -> float:
        """Side in pixels of the square that has the box's area."""
        x0, y0, x1, y1 = self.box_4
        return float(np.sqrt(max(0.0, x1 - x0) * max(0.0, y1 - y0)))

    @property
    def centre_2(self) -> np.ndarray:
        """Middle of the box, (x, y) in pixels."""
        return (self.box_4[:2] + self.box_4[2:]) / 2


class FaceDetector(Protocol):
    """Finds faces in frames.

    `jitter_frames`: boxes are averaged over so many neighbouring frames on each side; 0 where they are steady.
    """

    jitter_frames: int

    def detect(self, frames_FHWC: np.ndarray) -> list[list[Face]]:
        """Returns the faces in each frame (uint8 RGB), in any order."""
        ...


class ScorerFaceDetector:
    """Detects the one face of a picture with a scorer that knows its mouth; the face box is the whole picture."""

    jitter_frames = 0

    def __init__(self, scorers: Scorers) -> None:
        self._scorers = scorers

    def detect(self, frames_FHWC: np.ndarray) -> list[list[Face]]:
        """Returns one face a frame, none where the scorer finds no mouth."""
        _, height, width, _ = frames_FHWC.shape
        mouths_F4 = self._scorers.mouth(frames_FHWC)[:, 1:]
        frame_box_4 = np.array([0, 0, width, height], np.float32)
        return [[Face(frame_box_4, mouth_4)] if np.isfinite(mouth_4).all() else [] for mouth_4 in mouths_F4]
