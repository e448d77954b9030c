"""Where the face and the mouth of the speaker are in each frame of a clip, and what to do when they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from dubmill.errors import UnreadableMedia
from dubmill.faces.keeping import UNWATCHED, WHOLE, Keep, Watch, check_choice, told
from dubmill.faces.tracking import Face, NoFace, Track, follow
from dubmill.media.clips import Clip

if TYPE_CHECKING:
    from dubmill.metrics.scorers import Scorers

__all__ = [
    "UNWATCHED", "WHOLE", "Face", "FaceFinder", "Keep", "NoFace", "ScoredFaces", "Track", "Watch",
    "check_choice", "follow", "mouth_boxes", "told",
]  # fmt: skip


class FaceFinder(Protocol):
    """Who sees faces. `jitter_frames` are the neighbours on each side to average a box over: 0 where boxes are steady."""

    jitter_frames: int

    def find(self, frames_FHWC: np.ndarray) -> list[list[Face]]:
        """The faces in each frame (uint8 RGB), in any order."""
        ...


class ScoredFaces:
    """A finder out of a scorer that knows one mouth a frame: the face is the whole picture."""

    jitter_frames = 0

    def __init__(self, scorers: Scorers) -> None:
        self._scorers = scorers

    def find(self, frames_FHWC: np.ndarray) -> list[list[Face]]:
        """One face a frame, none where the scorer sees no mouth."""
        _, height, width, _ = frames_FHWC.shape
        mouths_F4 = self._scorers.mouth(frames_FHWC)[:, 1:]
        whole = np.array([0, 0, width, height], np.float32)
        return [[Face(whole, mouth_4)] if np.isfinite(mouth_4).all() else [] for mouth_4 in mouths_F4]


def mouth_boxes(clip: Clip, finder: FaceFinder, *, which: str = "") -> np.ndarray:
    """Mouth boxes (F, 4) as x0, y0, x1, y1 pixels, each the union of its frame's and its neighbours' boxes.

    The union keeps the box from flickering off the lips when one frame is misread. `which` as in `follow`.

    Raises:
        UnreadableMedia: no face, several and none chosen, or the face is lost for longer than can be bridged.
    """
    track = follow(
        finder.find(clip.frames_FHWC),
        which=which,
        frame_rate=float(clip.frame_rate),
        size=clip.frames_FHWC.shape[1:3],
        jitter_frames=finder.jitter_frames,
    )
    if track.lost_seconds:
        spans = ", ".join(f"{start:.2f} to {end:.2f} s" for start, end in track.lost_seconds)
        raise UnreadableMedia(f"the face is lost from {spans}", cure="cut that out, or dub the parts beside it")
    padded = np.pad(track.mouths_F4, ((1, 1), (0, 0)), mode="edge")
    windows = np.stack([padded[shift : shift + clip.num_frames] for shift in range(3)])
    return np.concatenate([windows[:, :, :2].min(axis=0), windows[:, :, 2:].max(axis=0)], axis=1).astype(np.float32)
