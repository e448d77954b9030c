"""Face detection, tracking of one speaker's face, and blend masks around it."""

from __future__ import annotations

from dubmill.faces.blending import (
    FACE,
    KEEP,
    NO_DETECTION,
    NOBODY,
    PICTURES,
    WHOLE,
    WHOLE_FRAME,
    BlendMask,
    FaceMasker,
    FacesInClip,
    check_face_choice,
    check_picture_choice,
    timed_sentences,
)  # fmt: skip
from dubmill.faces.detection import Face, FaceDetector, ScorerFaceDetector
from dubmill.faces.tracking import FaceTrack, mouth_boxes, people_in, track_face

__all__ = [
    "FACE", "KEEP", "NOBODY", "NO_DETECTION", "PICTURES", "WHOLE", "WHOLE_FRAME", "BlendMask", "Face", "FaceDetector", "FaceMasker",
    "FacesInClip", "FaceTrack", "ScorerFaceDetector", "check_face_choice", "check_picture_choice", "mouth_boxes", "people_in", "timed_sentences",
    "track_face",
]  # fmt: skip
