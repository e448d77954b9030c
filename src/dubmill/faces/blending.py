"""Blend masks: which pixels of a dub replace the source, around the chosen face.

The model generates the whole picture anew, for everybody in it. With one face and no choice the whole dub is shown; with a
chosen face among others only the region around it; with no face, or while it is lost, nothing of the dub's picture.

Axes: F frames, H height, W width, 4 box edges as x0, y0, x1, y1 pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from dubmill.errors import NoFaceError, UsageError
from dubmill.faces.detection import FaceDetector
from dubmill.faces.tracking import FaceTrack, track_face
from dubmill.media.clips import Clip
from dubmill.text.timing import Span, clock

ALL = "all"  # the face choice that shows the whole dub, whoever is in it
FADE_SECONDS = 0.16  # length of the fade to the source where the face is lost
CORE_MARGIN, EDGE_WIDTH = 0.1, 0.3  # in face sizes: the dub is opaque up to the margin, then fades over the edge

TimedNote = tuple[str, Span]
"""A sentence for the user, and the seconds (start, end) that it is about."""


@dataclass(frozen=True, eq=False)
class BlendMask:
    """How much of a dub's picture shows in each frame.

    Attributes:
        opacity_F: opacity of the dub, 0 to 1; the last value holds for all later frames.
        face_boxes_F4: the face around which alone the dub shows, in pixels of `frame_size`; no rows: everywhere.
        other_boxes: face boxes (F, 4) that keep the source's pixels, NaN where nobody is.
        frame_size: height and width of the frames in which faces were detected.
        notes: what the user should know, with its times.
    """

    opacity_F: np.ndarray
    face_boxes_F4: np.ndarray
    other_boxes: tuple[np.ndarray, ...]
    frame_size: tuple[int, int]
    notes: tuple[TimedNote, ...]

    def opacity(self, frame: int) -> float:
        """Opacity of the dub in one frame, 0 to 1."""
        return float(self.opacity_F[min(frame, len(self.opacity_F) - 1)])

    def weights(self, frame: int, height: int, width: int) -> float | np.ndarray:
        """Per-pixel weight (H, W, 1) of the dub in a frame of the given size, before opacity; 1.0: all pixels fully."""
        if not len(self.face_boxes_F4):
            return 1.0
        frame = min(frame, len(self.face_boxes_F4) - 1)
        scale_4 = np.array([width, height, width, height]) / np.array([*self.frame_size[::-1], *self.frame_size[::-1]])
        outside_HW = _distance(self.face_boxes_F4[frame] * scale_4, height, width)
        weight_HW = np.clip(1 - (outside_HW - CORE_MARGIN) / EDGE_WIDTH, 0, 1)
        for boxes_F4 in self.other_boxes:
            if np.isfinite(boxes_F4[frame]).all():
                outside_HW = _distance(boxes_F4[frame] * scale_4, height, width)
                weight_HW = weight_HW * np.clip(outside_HW / EDGE_WIDTH, 0, 1)
        return weight_HW[..., None]

    def composite(self, clip: Clip, dubbed: Clip) -> Clip:
        """`dubbed` composited over the frames of `clip`; its sound stays."""
        if not len(self.face_boxes_F4) and (self.opacity_F == 1).all():
            return dubbed
        pairs = zip(clip.frames_FHWC, dubbed.frames_FHWC, strict=True)
        frames = [self._composite_frame(source, dub, frame) for frame, (source, dub) in enumerate(pairs)]
        return replace(dubbed, frames_FHWC=np.stack(frames))

    def _composite_frame(self, source_HWC: np.ndarray, dub_HWC: np.ndarray, frame: int) -> np.ndarray:
        opacity = self.opacity(frame)
        if not opacity:
            return source_HWC
        height, width = source_HWC.shape[:2]
        weight = opacity * self.weights(frame, height, width)
        return (source_HWC + weight * (dub_HWC - source_HWC.astype(np.float32)) + 0.5).astype(np.uint8)


WHOLE_FRAME = BlendMask(np.ones(1, np.float32), np.empty((0, 4), np.float32), (), (1, 1), ())
"""The mask that shows the whole dub in every frame."""


@dataclass(frozen=True)
class FaceMasker:
    """Makes blend masks with a face detector, or without one.

    `cure` says how a missing detector can be installed; it is empty where none is needed, since one face fills every
    picture of the backbone.
    """

    detector: FaceDetector | None
    cure: str

    def needs_frames(self, choice: str) -> bool:
        """Whether faces are detected at all for this face choice."""
        return self.detector is not None and choice != ALL

    def mask(self, clip: Clip, choice: str, *, start_seconds: float) -> BlendMask:
        """The blend mask for a dub of `clip`, which begins at `start_seconds`; `choice` as in `check_face_choice`.

        Raises:
            UnreadableMediaError: several faces are in it and none was chosen.
            UsageError: `choice` matches nobody, or there is no detector.
        """
        span = (start_seconds, start_seconds + clip.seconds)
        if self.detector is None or choice == ALL:
            return self.mask_without_detection(choice, span)
        return _face_mask(clip, self.detector, choice, span)

    def mask_without_detection(self, choice: str, span: Span) -> BlendMask:
        """The whole-frame mask, with a note for `span` where a detector would have been of use.

        Raises:
            UsageError: a face was chosen, which needs a detector.
        """
        if not self.cure or choice == ALL:
            return WHOLE_FRAME
        if choice:
            raise UsageError("choosing a face needs a face detector", where=f"face {choice!r}", cure=self.cure)
        return replace(WHOLE_FRAME, notes=((f"faces were not detected; to have that: {self.cure}", span),))


NO_DETECTION = FaceMasker(None, "")
"""The masker for backbones whose pictures always hold one face."""


def check_face_choice(choice: str) -> None:
    """Refuse a face choice that is not left, right, all, a number counted from the left, or empty.

    Raises:
        UsageError: it is something else.
    """
    if not re.fullmatch(rf"|left|right|{ALL}|[1-9][0-9]*", choice):
        raise UsageError(
            f"{choice[:40]!r} is no face", where="face", cure=f"choose left, right, {ALL} or a number from the left"
        )


def timed_sentences(notes: Iterable[TimedNote]) -> tuple[str, ...]:
    """One sentence for each different note, followed by all its times."""
    times: dict[str, list[str]] = {}
    for note, (start, end) in dict.fromkeys(notes):
        times.setdefault(note, []).append(f"{clock(start)} to {clock(end)}")
    return tuple(f"{note} ({', '.join(spans)})" for note, spans in times.items())


def _face_mask(clip: Clip, detector: FaceDetector, choice: str, span: Span) -> BlendMask:
    frame_size, rate = clip.frames_FHWC.shape[1:3], float(clip.frame_rate)
    detections = detector.detect(clip.frames_FHWC)
    try:
        track = track_face(
            detections, choice=choice, frame_rate=rate, frame_size=frame_size, jitter_frames=detector.jitter_frames
        )
    except NoFaceError:
        notes = (("no face is visible, so the picture is unchanged and the sound is dubbed", span),)
        return replace(WHOLE_FRAME, opacity_F=np.zeros(1, np.float32), notes=notes)
    lost = [
        ("the face is lost, so the picture is unchanged", (span[0] + start, span[0] + end))
        for start, end in track.lost_seconds
    ]
    is_local = bool(choice or track.others)
    return BlendMask(
        opacity_F=_opacity(track, rate),
        face_boxes_F4=track.boxes_F4 if is_local else WHOLE_FRAME.face_boxes_F4,
        other_boxes=track.others,
        frame_size=frame_size,
        notes=(*((note, span) for note in _choice_notes(track, choice)), *lost),
    )


def _choice_notes(track: FaceTrack, choice: str) -> tuple[str, ...]:
    if track.others:
        return track.notes[:1]
    return ("only one face is visible, and taken for the chosen one",) if choice else ()


def _opacity(track: FaceTrack, frame_rate: float) -> np.ndarray:
    """1 where the face is known, 0 where it is lost, with a linear fade between (F,)."""
    lost_frames = np.flatnonzero(np.isnan(track.boxes_F4).any(axis=1))
    num_frames = len(track.boxes_F4)
    if not len(lost_frames):
        return np.ones(num_frames, np.float32)
    distance_F = np.abs(np.arange(num_frames)[:, None] - lost_frames).min(axis=1)
    return np.minimum(1.0, distance_F / (1 + max(1, round(FADE_SECONDS * frame_rate)))).astype(np.float32)


def _distance(box_4: np.ndarray, height: int, width: int) -> np.ndarray:
    """Distance of each pixel (H, W) from a box, in sizes of the box; 0 inside."""
    x0, y0, x1, y1 = box_4.astype(np.float32)
    x_W, y_H = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5
    outside_W = np.maximum(np.maximum(x0 - x_W, x_W - x1), 0)
    outside_H = np.maximum(np.maximum(y0 - y_H, y_H - y1), 0)
    return np.hypot(outside_H[:, None], outside_W) / max(1.0, float(np.sqrt((x1 - x0) * (y1 - y0))))
