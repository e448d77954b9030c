"""Blend masks: which pixels of a dub replace the source, around the chosen face.

The model generates the whole picture anew, for everybody in it. The dub shows only around the speaker's face; with no face, or
while it is lost, nothing of the dub's picture. The choice of picture `whole` shows all of it where only one face is seen.

Axes: F frames, H height, W width, 4 box edges as x0, y0, x1, y1 pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dubmill.errors import NoFaceError, UsageError
from dubmill.faces.detection import Face, FaceDetector
from dubmill.faces.tracking import FaceTrack, track_face
from dubmill.media.clips import Clip
from dubmill.text.timing import Span, clock

ALL = "all"  # the face choice that shows the whole dub, whoever is in it
NOBODY = "none"  # the face choice for somebody who is not seen: the sound alone is dubbed
FACE, WHOLE, KEEP = "face", "whole", "keep"  # what of the dub's picture shows: around the face, everything, nothing
PICTURES = (FACE, WHOLE, KEEP)
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

    def boxes_in(self, height: int, width: int) -> np.ndarray:
        """The face boxes (F, 4) in pixels of a frame of the given size."""
        return self.face_boxes_F4 * self._scale_4(height, width)

    def weights(self, position: float, height: int, width: int) -> float | np.ndarray:
        """Per-pixel weight (H, W, 1) of the dub in a frame of the given size, before opacity; 1.0: all pixels fully."""
        if not len(self.face_boxes_F4):
            return 1.0
        (rows, columns), weight_HW = self.window(position, height, width)
        weight_HW1 = np.zeros((height, width, 1), np.float32)
        weight_HW1[rows, columns, 0] = weight_HW
        return weight_HW1

    def window(self, position: float, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
        """The rows and columns of a frame of the given size outside which the weight is 0, and the weights (H, W) inside.

        `position` counts the clip's frames; between two of them the face's box is interpolated.
        """
        scale_4 = self._scale_4(height, width)
        box_4 = _box_at(self.face_boxes_F4, position) * scale_4
        reach = (CORE_MARGIN + EDGE_WIDTH) * _size(box_4)
        rows, columns = (
            slice(max(0, int(low - reach)), max(0, min(side, int(high + reach) + 2)))
            for low, high, side in ((box_4[1], box_4[3], height), (box_4[0], box_4[2], width))
        )
        weight_HW = np.clip(1 - (_distance(box_4, rows, columns) - CORE_MARGIN) / EDGE_WIDTH, 0, 1)
        for boxes_F4 in self.other_boxes:
            other_4 = _box_at(boxes_F4, position) * scale_4
            if np.isfinite(other_4).all():
                weight_HW = weight_HW * np.clip(_distance(other_4, rows, columns) / EDGE_WIDTH, 0, 1)
        return (rows, columns), weight_HW

    def _scale_4(self, height: int, width: int) -> np.ndarray:
        return np.array([width, height, width, height]) / np.array([*self.frame_size[::-1], *self.frame_size[::-1]])

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


@dataclass(frozen=True)
class FacesInClip:
    """The faces detected in each frame of a clip; `frame_size` is height and width, `jitter_frames` the detector's."""

    faces: Sequence[Sequence[Face]]
    frame_size: tuple[int, int]
    frame_rate: float
    jitter_frames: int


WHOLE_FRAME = BlendMask(np.ones(1, np.float32), np.empty((0, 4), np.float32), (), (1, 1), ())
"""The mask that shows the whole dub in every frame."""
SOURCE_ONLY = replace(WHOLE_FRAME, opacity_F=np.zeros(1, np.float32))
"""The mask that shows nothing of the dub."""


@dataclass(frozen=True)
class FaceMasker:
    """Makes blend masks with a face detector, or without one.

    `cure` says how a missing detector can be installed; it is empty where none is needed, since one face fills every
    picture of the backbone.
    """

    detector: FaceDetector | None
    cure: str

    def needs_frames(self, choice: str, picture: str = FACE) -> bool:
        """Whether faces are detected at all for this choice of face and picture."""
        return self.detector is not None and choice not in (ALL, NOBODY) and picture != KEEP

    def mask(self, clip: Clip, choice: str, *, start_seconds: float, picture: str = FACE) -> BlendMask:
        """The blend mask for a dub of `clip`, which begins at `start_seconds`; `choice` as in `check_face_choice`.

        With `picture` whole, the whole dub shows where one face is seen and none was chosen; with keep, nothing of it.

        Raises:
            UnreadableMediaError: several faces are in it and none was chosen.
            UsageError: `choice` matches nobody, or there is no detector.
        """
        span = (start_seconds, start_seconds + clip.seconds)
        if not self.needs_frames(choice, picture):
            return self.mask_without_detection(choice, span, picture)
        return self.mask_of(self.detect(clip), choice, start_seconds=start_seconds, picture=picture)

    def detect(self, clip: Clip) -> FacesInClip:
        """The faces in each frame of `clip`."""
        assert self.detector is not None, "without a detector no mask needs frames"
        faces = self.detector.detect(clip.frames_FHWC)
        return FacesInClip(faces, clip.frames_FHWC.shape[1:3], float(clip.frame_rate), self.detector.jitter_frames)

    def mask_of(self, found: FacesInClip, choice: str, *, start_seconds: float, picture: str = FACE) -> BlendMask:
        """As `mask`, of faces that were detected before."""
        span = (start_seconds, start_seconds + len(found.faces) / found.frame_rate)
        return _face_mask(found, choice, span, is_whole=picture == WHOLE)

    def mask_without_detection(self, choice: str, span: Span, picture: str = FACE) -> BlendMask:
        """The whole-frame mask, with a note for `span` where a detector would have been of use; for keep, no picture.

        Raises:
            UsageError: a face was chosen, which needs a detector.
        """
        if picture == KEEP or choice == NOBODY:
            return SOURCE_ONLY
        if not self.cure or choice == ALL:
            return WHOLE_FRAME
        if choice:
            raise UsageError("choosing a face needs a face detector", where=f"face {choice!r}", cure=self.cure)
        return replace(WHOLE_FRAME, notes=((f"faces were not detected; to have that: {self.cure}", span),))


NO_DETECTION = FaceMasker(None, "")
"""The masker for backbones whose pictures always hold one face."""


def check_face_choice(choice: str) -> None:
    """Refuse a face choice that is not left, right, all, none, a number from the left, a place such as 25%, or empty.

    Raises:
        UsageError: it is something else.
    """
    if not re.fullmatch(rf"|left|right|{ALL}|{NOBODY}|[1-9][0-9]*|[0-9]{{1,3}}%", choice):
        raise UsageError(
            f"{choice[:40]!r} is no face",
            where="face",
            cure=f"choose left, right, {ALL}, {NOBODY} or a number from the left",
        )


def check_picture_choice(picture: str) -> None:
    """Refuse a choice of picture that is not face, whole or keep.

    Raises:
        UsageError: it is something else.
    """
    if picture not in PICTURES:
        raise UsageError(f"{picture[:40]!r} is no picture", where="picture", cure=f"choose {', '.join(PICTURES)}")


def timed_sentences(notes: Iterable[TimedNote]) -> tuple[str, ...]:
    """One sentence for each different note, followed by all its times."""
    times: dict[str, list[str]] = {}
    for note, (start, end) in dict.fromkeys(notes):
        times.setdefault(note, []).append(f"{clock(start)} to {clock(end)}")
    return tuple(f"{note} ({', '.join(spans)})" for note, spans in times.items())


def _face_mask(found: FacesInClip, choice: str, span: Span, *, is_whole: bool) -> BlendMask:
    rate, frame_size = found.frame_rate, found.frame_size
    try:
        track = track_face(
            found.faces, choice=choice, frame_rate=rate, frame_size=frame_size, jitter_frames=found.jitter_frames
        )
    except NoFaceError:
        notes = (("no face is visible, so the picture is unchanged and the sound is dubbed", span),)
        return replace(SOURCE_ONLY, notes=notes)
    lost = [
        ("the face is lost, so the picture is unchanged", (span[0] + start, span[0] + end))
        for start, end in track.lost_seconds
    ]
    is_local = bool(choice or track.others) or not is_whole
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


def _box_at(boxes_F4: np.ndarray, position: float) -> np.ndarray:
    """The box at a position between two frames; where one of them is lost, the other's."""
    index = min(int(position), len(boxes_F4) - 1)
    before_4, after_4 = boxes_F4[index], boxes_F4[min(index + 1, len(boxes_F4) - 1)]
    if not np.isfinite(after_4).all():
        return before_4
    if not np.isfinite(before_4).all():
        return after_4
    return before_4 + min(1.0, position - index) * (after_4 - before_4)


def _size(box_4: np.ndarray) -> float:
    return max(1.0, float(np.sqrt((box_4[2] - box_4[0]) * (box_4[3] - box_4[1]))))


def _distance(box_4: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Distance of each pixel (H, W) of a window from a box, in sizes of the box; 0 inside."""
    x0, y0, x1, y1 = box_4.astype(np.float32)
    x_W = np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5
    y_H = np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5
    outside_W = np.maximum(np.maximum(x0 - x_W, x_W - x1), 0)
    outside_H = np.maximum(np.maximum(y0 - y_H, y_H - y1), 0)
    return np.hypot(outside_H[:, None], outside_W) / _size(box_4)
