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


class RedDetector:
    """A detector for which a red square is a face; blind where there is none."""

    jitter_frames = 0

    def detect(self, frames_FHWC):
        found = []
        for frame_HWC in frames_FHWC.astype(int):
            is_red_HW = (frame_HWC[..., 0] > 150) & (frame_HWC[..., 1:].max(axis=-1) < 110)
            ys, xs = np.nonzero(is_red_HW)
            box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) > 3 else None
            found.append([Face(np.array(box, float), np.array(box, float))] if box else [])
        return found
