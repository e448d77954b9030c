"""The speaker's face through a clip: a box in every frame, the detector's points in some, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dubmill.errors import UnreadableMediaError
from dubmill.faces import Face, FaceDetector, track_face

EVERY = 12  # frames from one that is searched to the next: a head moves little in half a second


@dataclass(frozen=True)
class Speaker:
    """Boxes (F, 4) of the face as x0, y0, x1, y1 pixels, NaN where it is lost; and its faces by frame where searched.

    `trouble` says why nobody could be followed, and is empty where somebody was.
    """

    boxes_F4: np.ndarray
    faces: dict[int, Face]
    trouble: str


def find_speaker(frames_FHWC: np.ndarray, detector: FaceDetector) -> Speaker:
    """The most prominent face, searched in every twelfth frame; nobody where there is none, or several are as prominent."""
    num_frames = len(frames_FHWC)
    nobody = np.full((num_frames, 4), np.nan)
    if not num_frames:
        return Speaker(nobody, {}, "there is no picture")
    searched = sorted({*range(0, num_frames, EVERY), num_frames - 1})
    found = detector.detect(frames_FHWC[searched])
    size = (frames_FHWC.shape[1], frames_FHWC.shape[2])
    try:  # a rate of 25 / 12: only how long a lost face is bridged hangs on it
        track = track_face(found, choice="", frame_rate=25 / EVERY, frame_size=size, jitter_frames=0)
    except UnreadableMediaError as error:
        return Speaker(nobody, {}, error.what)
    faces = {
        frame: min(seen, key=lambda face: float(np.abs(face.box_4 - box_4).sum()))
        for frame, seen, box_4 in zip(searched, found, track.boxes_F4, strict=True)
        if seen and np.isfinite(box_4).all()
    }
    known = np.asarray(np.isfinite(track.boxes_F4).all(axis=1))
    places = np.array(searched)
    boxes_F4 = np.stack([np.interp(np.arange(num_frames), places[known], side) for side in track.boxes_F4[known].T], 1)
    nearest = np.abs(np.arange(num_frames)[:, None] - places).argmin(axis=1)
    boxes_F4[~known[nearest]] = np.nan
    return Speaker(boxes_F4, faces, "")
