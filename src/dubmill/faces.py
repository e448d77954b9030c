"""Where the mouth is in each frame of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dubmill.clips import Clip

if TYPE_CHECKING:
    from dubmill.metrics.scorers import Scorers


def mouth_boxes(clip: Clip, scorers: Scorers) -> np.ndarray:
    """Mouth boxes (F, 4) as x0, y0, x1, y1 pixels, each the union of its frame's and its neighbours' boxes.

    The union keeps the box from flickering off the lips when one frame is misread.
    """
    boxes_F4 = scorers.mouth(clip.frames_FHWC)[:, 1:]
    padded = np.pad(boxes_F4, ((1, 1), (0, 0)), mode="edge")
    windows = np.stack([padded[shift : shift + len(boxes_F4)] for shift in range(3)])
    return np.concatenate([windows[:, :, :2].min(axis=0), windows[:, :, 2:].max(axis=0)], axis=1).astype(np.float32)
