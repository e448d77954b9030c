"""Faces without a detector model."""

import numpy as np

from dubmill.faces import Face


def face(x, y=180.0, side=100.0):
    """A square face around (x, y), with its mouth in the lower half."""
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
    return Face(box, np.array([x - 0.2 * side, y + 0.2 * side, x + 0.2 * side, y + 0.4 * side]))


class FixedDetector:
    """A detector that returns the given faces, whatever the frames."""

    jitter_frames = 0

    def __init__(self, detections):
        self.detections = detections

    def detect(self, frames_FHWC):
        return self.detections
