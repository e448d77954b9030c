"""Tracks one speaker's face through a clip, given the faces detected in each frame.

Detections near each other in place and size from frame to frame form a track; tracks that are never visible together are
taken for one person. The largest and most central person is the speaker; where another person comes close to that, the
caller has to choose. Pure arrays, no model.

Axes: F frames, 4 box edges as x0, y0, x1, y1 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from dubmill.errors import NoFaceError, UnreadableMediaError, UsageError
from dubmill.faces.detection import Face, FaceDetector
from dubmill.media.clips import Clip

MAX_GAP_SECONDS = 0.5  # a face lost for so long is interpolated, as behind a hand
RIVAL_SHARE = 0.5  # of the most prominent person's prominence; from there on it is unclear who speaks
MIN_PRESENCE = 0.2  # share of the frames below which a track is a false detection
MIN_AREA_SHARE = 0.1  # of the largest face; smaller ones are people in the background
MAX_MOVE = 1.0  # how far a face moves between two detections, in face sizes
MAX_GROWTH = 2.0  # by which factor a face grows or shrinks between two detections


@dataclass(frozen=True)
class FaceTrack:
    """One person through a clip.

    Attributes:
        boxes_F4: face boxes, NaN where the face is lost.
        mouths_F4: mouth boxes, NaN where the face is lost.
        others: the face boxes (F, 4) of every other person, NaN where not visible.
        lost_seconds: the spans in which the face is lost.
        notes: sentences for the user; the first is about the other people, if there are any.
    """

    boxes_F4: np.ndarray
    mouths_F4: np.ndarray
    others: tuple[np.ndarray, ...]
    lost_seconds: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]


FacesByFrame = dict[int, Face]
"""The faces of one track or person, by frame number."""


def track_face(
    detections: Sequence[Sequence[Face]],
    *,
    choice: str,
    frame_rate: float,
    frame_size: tuple[int, int],
    jitter_frames: int,
) -> FaceTrack:
    """Returns the speaker's track; `choice` among several people: left, right, a number from the left, a place, or empty.

    A place such as 25% of the width, from the left, means the person nearest to it. Gaps of up to `MAX_GAP_SECONDS` are interpolated. `frame_size` is the height and width of a frame.

    Raises:
        NoFaceError: no face is visible.
        UnreadableMediaError: there are several people and none was chosen.
        UsageError: `choice` matches nobody.
    """
    num_frames = len(detections)
    people = people_in(detections, frame_size)
    if not people:
        raise NoFaceError("no face is in it", cure="give a clip that shows the speaker's face")
    speaker = _speaker(people, choice, frame_size)
    others = [person for person in people if person is not speaker]
    boxes_F4, is_lost_F = _interpolated(_boxes(speaker), num_frames, frame_rate)
    mouths_F4, _ = _interpolated({frame: face.mouth_4 for frame, face in speaker.items()}, num_frames, frame_rate)
    return FaceTrack(
        boxes_F4=_smoothed(boxes_F4, jitter_frames),
        mouths_F4=_smoothed(mouths_F4, jitter_frames),
        others=tuple(_interpolated(_boxes(person), num_frames, frame_rate)[0] for person in others),
        lost_seconds=tuple((start / frame_rate, stop / frame_rate) for start, stop in _spans(is_lost_F)),
        notes=_notes(len(others), num_frames - len(speaker) - int(is_lost_F.sum()), num_frames),
    )


def people_in(detections: Sequence[Sequence[Face]], frame_size: tuple[int, int]) -> list[FacesByFrame]:
    """Returns the people from left to right, each with a face in some of the frames; without those far in the background."""
    return _people(_tracks(detections), len(detections), frame_size)


def mouth_boxes(clip: Clip, detector: FaceDetector, *, choice: str = "") -> np.ndarray:
    """Returns mouth boxes (F, 4) as x0, y0, x1, y1 pixels, each the union of its frame's and its two neighbours' boxes.

    The union keeps the box on the lips when one frame is misread. `choice` as in `track_face`.

    Raises:
        UnreadableMediaError: no face, several and none chosen, or the face is lost for too long to interpolate.
    """
    track = track_face(
        detector.detect(clip.frames_FHWC),
        choice=choice,
        frame_rate=float(clip.frame_rate),
        frame_size=clip.frames_FHWC.shape[1:3],
        jitter_frames=detector.jitter_frames,
    )
    if track.lost_seconds:
        spans = ", ".join(f"{start:.2f} to {end:.2f} s" for start, end in track.lost_seconds)
        raise UnreadableMediaError(f"the face is lost from {spans}", cure="cut that out, or dub the parts beside it")
    padded = np.pad(track.mouths_F4, ((1, 1), (0, 0)), mode="edge")
    windows = np.stack([padded[shift : shift + clip.num_frames] for shift in range(3)])
    return np.concatenate([windows[:, :, :2].min(axis=0), windows[:, :, 2:].max(axis=0)], axis=1).astype(np.float32)


def _notes(num_others: int, num_interpolated: int, num_frames: int) -> tuple[str, ...]:
    notes = []
    if num_others:
        notes.append(f"{num_others} other face{'s' if num_others > 1 else ''} left unchanged")
    if num_interpolated:
        notes.append(f"the face was lost in {num_interpolated} of {num_frames} frames and interpolated")
    return tuple(notes)


def _boxes(person: FacesByFrame) -> dict[int, np.ndarray]:
    return {frame: face.box_4 for frame, face in person.items()}


def _tracks(detections: Sequence[Sequence[Face]]) -> list[FacesByFrame]:
    """Returns each detection joined to the nearest track that it can belong to, nearest pairs first."""
    tracks: list[FacesByFrame] = []
    last_faces: list[Face] = []
    for frame, faces in enumerate(detections):
        pairs = sorted(
            (_distance(last, face), track, place)
            for track, last in enumerate(last_faces)
            for place, face in enumerate(faces)
            if _distance(last, face) <= MAX_MOVE
        )
        used: set[int] = set()
        for _, track, place in pairs:
            if frame not in tracks[track] and place not in used:
                tracks[track][frame] = last_faces[track] = faces[place]
                used.add(place)
        for place, face in enumerate(faces):
            if place not in used:
                tracks.append({frame: face})
                last_faces.append(face)
    return tracks


def _distance(first: Face, second: Face) -> float:
    """Returns distance of the centres in face sizes; infinite where the sizes differ too much."""
    small, large = sorted((first.size, second.size))
    if large > MAX_GROWTH * small:
        return float("inf")
    return float(np.linalg.norm(first.centre_2 - second.centre_2)) / max(large, 1.0)


def _people(tracks: Sequence[FacesByFrame], num_frames: int, frame_size: tuple[int, int]) -> list[FacesByFrame]:
    """Returns the people from left to right, without tracks that are too rare or too small."""
    people: list[FacesByFrame] = []
    for track in sorted(tracks, key=lambda track: -_prominence(track, frame_size)):
        same_person = [other for other in people if not other.keys() & track.keys() and _is_near_size(other, track)]
        if same_person:
            same_person[0].update(track)
        else:
            people.append(dict(track))
    largest = max((_area(person) for person in people), default=0.0)
    kept = [
        person
        for person in people
        if len(person) >= MIN_PRESENCE * num_frames and _area(person) >= MIN_AREA_SHARE * largest
    ]
    return sorted(kept, key=_mean_x)


def _area(person: FacesByFrame) -> float:
    return float(np.mean([face.size**2 for face in person.values()]))


def _is_near_size(first: FacesByFrame, second: FacesByFrame) -> bool:
    small, large = sorted((_area(first), _area(second)))
    return large <= MAX_GROWTH**2 * small


def _prominence(person: FacesByFrame, frame_size: tuple[int, int]) -> float:
    """Returns face area summed over frames; at the picture's edge it counts half."""
    middle_2 = np.array([frame_size[1], frame_size[0]]) / 2
    return sum(
        face.size**2 * (1 - 0.5 * min(1.0, float(np.abs((face.centre_2 - middle_2) / middle_2).max())))
        for face in person.values()
    )


def _speaker(people: Sequence[FacesByFrame], choice: str, frame_size: tuple[int, int]) -> FacesByFrame:
    """Returns the person that `choice` names, or the clearly most prominent one."""
    places = {"left": 0, "right": len(people) - 1} | {str(number): number - 1 for number in range(1, len(people) + 1)}
    cure = f"choose left, right or a number up to {len(people)}, counted from the left (--face)"
    if choice:
        if choice.endswith("%"):
            place = float(choice[:-1]) / 100 * frame_size[1]
            return min(people, key=lambda person: abs(_mean_x(person) - place))
        if len(people) == 1 and choice.isdecimal():
            return people[0]  # a close-up of the chosen person, or of somebody else: it cannot be known
        if choice not in places:
            raise UsageError(
                f"there is no face {choice!r} among those in it, {_positions(people, frame_size)}", cure=cure
            )
        return people[places[choice]]
    first, *others = sorted(people, key=lambda person: -_prominence(person, frame_size))
    if others and _prominence(others[0], frame_size) >= RIVAL_SHARE * _prominence(first, frame_size):
        raise UnreadableMediaError(
            f"{len(people)} faces are in it, {_positions(people, frame_size)}, and it is not clear who speaks",
            cure=cure,
        )
    return first


def _mean_x(person: FacesByFrame) -> float:
    return float(np.mean([face.centre_2[0] for face in person.values()]))


def _positions(people: Sequence[FacesByFrame], frame_size: tuple[int, int]) -> str:
    """Returns where each person is: "1 at 24 % of the width from the left, 2 at 71 %"."""
    first, *more = [f"{number} at {100 * _mean_x(one) / frame_size[1]:.0f} %" for number, one in enumerate(people, 1)]
    return ", ".join([f"{first} of the width from the left", *more])


def _interpolated(boxes: dict[int, np.ndarray], num_frames: int, frame_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes (F, 4) with short gaps interpolated and the ends held, and in which frames (F,) the face stays lost."""
    frames = sorted(boxes)
    known_K4 = np.stack([boxes[frame] for frame in frames])
    boxes_F4 = np.stack([np.interp(np.arange(num_frames), frames, known_K4[:, side]) for side in range(4)], axis=1)
    is_lost_F = np.ones(num_frames, dtype=bool)
    is_lost_F[frames] = False
    for start, stop in _spans(is_lost_F):
        if stop - start <= MAX_GAP_SECONDS * frame_rate:
            is_lost_F[start:stop] = False
    boxes_F4[is_lost_F] = np.nan
    return boxes_F4, is_lost_F


def _spans(flags_F: np.ndarray) -> list[tuple[int, int]]:
    """Returns half-open spans where `flags_F` is true."""
    runs = [(flag, [at for at, _ in group]) for flag, group in groupby(enumerate(flags_F), key=lambda pair: pair[1])]
    return [(places[0], places[-1] + 1) for flag, places in runs if flag]


def _smoothed(boxes_F4: np.ndarray, radius: int) -> np.ndarray:
    """Returns each box averaged with up to `radius` known neighbours on each side."""
    if radius == 0:
        return boxes_F4
    padded = np.pad(boxes_F4, ((radius, radius), (0, 0)), constant_values=np.nan)
    windows = np.stack([padded[shift : shift + len(boxes_F4)] for shift in range(2 * radius + 1)])
    is_known = np.isfinite(windows)
    means_F4 = np.where(is_known, windows, 0).sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
    return np.where(np.isfinite(boxes_F4), means_F4, np.nan)
