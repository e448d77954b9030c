"""One speaker's face through a clip, out of the faces seen in each frame; pure arrays, no model.

Faces near each other in place and size from frame to frame are one track; tracks that are never seen together are one
person. The largest and most central person is followed; where another comes near in that, somebody has to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from dubmill.errors import UnreadableMedia, UsageError

BRIDGE_SECONDS = 0.5  # a face lost for so long is interpolated; a nod or a hand before the face
RIVAL_SHARE = 0.5  # of the first person's prominence, from which on it is not clear who speaks
MIN_PRESENCE = 0.2  # share of the frames below which something that looks like a face is nobody
MIN_AREA_SHARE = 0.1  # of the largest face: people in the background
REACH = 1.0  # how far a face moves between sightings, in its own sizes
SIZE_RANGE = 2.0  # and by which factor it grows or shrinks


class NoFace(UnreadableMedia):
    """There is nobody to be seen."""


@dataclass(frozen=True)
class Face:
    """One face in one frame: `box_4` and `mouth_4` as x0, y0, x1, y1 pixels."""

    box_4: np.ndarray
    mouth_4: np.ndarray

    @property
    def size(self) -> float:
        """Side of the square as large as the box."""
        x0, y0, x1, y1 = self.box_4
        return float(np.sqrt(max(0.0, x1 - x0) * max(0.0, y1 - y0)))

    @property
    def centre_2(self) -> np.ndarray:
        """Middle of the box."""
        return (self.box_4[:2] + self.box_4[2:]) / 2


@dataclass(frozen=True)
class Track:
    """One person: boxes (F, 4) of face and mouth, NaN where lost; `lost_seconds` the spans of that; `notes` to tell.

    `others` are the face boxes (F, 4) of everybody else, NaN where lost; the first note is of them, if there are any.
    """

    boxes_F4: np.ndarray
    mouths_F4: np.ndarray
    others: tuple[np.ndarray, ...]
    lost_seconds: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]


Sightings = dict[int, Face]
"""One person's or track's face by frame."""


def follow(
    found: Sequence[Sequence[Face]], *, which: str, frame_rate: float, size: tuple[int, int], jitter_frames: int
) -> Track:
    """The speaker of a clip; `which` of several people: left, right, a number counted from the left, or empty.

    Faces lost for up to `BRIDGE_SECONDS` are interpolated. `size` is the picture's height and width.

    Raises:
        NoFace: there is none.
        UnreadableMedia: there are several people and none was chosen.
        UsageError: `which` names nobody.
    """
    people = _people(_tracks(found), len(found), size)
    if not people:
        raise NoFace("no face is in it", cure="give a clip that shows the speaker's face")
    chosen = _chosen(people, which, size)
    others = [one for one in people if one is not chosen]
    notes = [f"{len(others)} other face{'s' if len(others) > 1 else ''} left as they are"] if others else []
    boxes_F4, lost_F = _filled(_boxes(chosen), len(found), frame_rate)
    away = tuple(_filled(_boxes(one), len(found), frame_rate)[0] for one in others)
    mouths_F4, _ = _filled({at: face.mouth_4 for at, face in chosen.items()}, len(found), frame_rate)
    num_bridged = len(found) - len(chosen) - int(lost_F.sum())
    if num_bridged:
        notes.append(f"the face was lost in {num_bridged} of {len(found)} frames and interpolated")
    lost = tuple((start / frame_rate, stop / frame_rate) for start, stop in _runs(lost_F))
    return Track(_smoothed(boxes_F4, jitter_frames), _smoothed(mouths_F4, jitter_frames), away, lost, tuple(notes))


def _boxes(sightings: Sightings) -> dict[int, np.ndarray]:
    return {at: face.box_4 for at, face in sightings.items()}


def _tracks(found: Sequence[Sequence[Face]]) -> list[Sightings]:
    tracks: list[Sightings] = []
    lasts: list[Face] = []
    for frame, faces in enumerate(found):
        pairs = sorted(
            (_distance(last, face), track, place)
            for track, last in enumerate(lasts)
            for place, face in enumerate(faces)
            if _distance(last, face) <= REACH
        )
        taken: set[int] = set()
        for _, track, place in pairs:
            if frame not in tracks[track] and place not in taken:
                tracks[track][frame] = lasts[track] = faces[place]
                taken.add(place)
        for place, face in enumerate(faces):
            if place not in taken:
                tracks.append({frame: face})
                lasts.append(face)
    return tracks


def _distance(one: Face, other: Face) -> float:
    """In face sizes; infinite between sizes too different."""
    small, large = sorted((one.size, other.size))
    if large > SIZE_RANGE * small:
        return float("inf")
    return float(np.linalg.norm(one.centre_2 - other.centre_2)) / max(large, 1.0)


def _people(tracks: Sequence[Sightings], num_frames: int, size: tuple[int, int]) -> list[Sightings]:
    """From left to right, without what is too rare or too small to be somebody."""
    people: list[Sightings] = []
    for track in sorted(tracks, key=lambda track: -_prominence(track, size)):
        apart = [one for one in people if not one.keys() & track.keys() and _near_size(one, track)]
        if apart:
            apart[0].update(track)
        else:
            people.append(dict(track))
    largest = max((_area(one) for one in people), default=0.0)
    real = [one for one in people if len(one) >= MIN_PRESENCE * num_frames and _area(one) >= MIN_AREA_SHARE * largest]
    return sorted(real, key=_middle)


def _area(sightings: Sightings) -> float:
    return float(np.mean([face.size**2 for face in sightings.values()]))


def _near_size(one: Sightings, other: Sightings) -> bool:
    small, large = sorted((_area(one), _area(other)))
    return large <= SIZE_RANGE**2 * small


def _prominence(sightings: Sightings, size: tuple[int, int]) -> float:
    """Area, summed over frames; half of it at the picture's edge."""
    middle_2 = np.array([size[1], size[0]]) / 2
    return sum(
        face.size**2 * (1 - 0.5 * min(1.0, float(np.abs((face.centre_2 - middle_2) / middle_2).max())))
        for face in sightings.values()
    )


def _chosen(people: Sequence[Sightings], which: str, size: tuple[int, int]) -> Sightings:
    places = {"left": 0, "right": len(people) - 1} | {str(number): number - 1 for number in range(1, len(people) + 1)}
    cure = f"choose left, right or a number up to {len(people)}, counted from the left (--face)"
    if which:
        if len(people) == 1 and which.isdecimal():
            return people[0]  # a close-up: whom the number means is not in it, or is this one
        if which not in places:
            raise UsageError(f"there is no face {which!r} among those in it, {_listed(people, size)}", cure=cure)
        return people[places[which]]
    first, *others = sorted(people, key=lambda one: -_prominence(one, size))
    if others and _prominence(others[0], size) >= RIVAL_SHARE * _prominence(first, size):
        raise UnreadableMedia(
            f"{len(people)} faces are in it, {_listed(people, size)}, and it is not clear whose words these are",
            cure=cure,
        )
    return first


def _middle(sightings: Sightings) -> float:
    return float(np.mean([face.centre_2[0] for face in sightings.values()]))


def _listed(people: Sequence[Sightings], size: tuple[int, int]) -> str:
    """Where each is, for a person: 1 at 24 % of the width from the left, 2 at 71 %."""
    first, *more = [f"{number} at {100 * _middle(one) / size[1]:.0f} %" for number, one in enumerate(people, 1)]
    return ", ".join([f"{first} of the width from the left", *more])


def _filled(seen: dict[int, np.ndarray], num_frames: int, frame_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (F, 4) with short gaps interpolated, held at the ends; and which frames (F,) stay lost."""
    frames = sorted(seen)
    known_K4 = np.stack([seen[frame] for frame in frames])
    boxes_F4 = np.stack([np.interp(np.arange(num_frames), frames, known_K4[:, side]) for side in range(4)], axis=1)
    lost_F = np.ones(num_frames, dtype=bool)
    lost_F[frames] = False
    for start, stop in _runs(lost_F):
        if stop - start <= BRIDGE_SECONDS * frame_rate:
            lost_F[start:stop] = False
    boxes_F4[lost_F] = np.nan
    return boxes_F4, lost_F


def _runs(flags_F: np.ndarray) -> list[tuple[int, int]]:
    """Half-open spans where `flags_F` is true."""
    runs = [(flag, [at for at, _ in group]) for flag, group in groupby(enumerate(flags_F), key=lambda pair: pair[1])]
    return [(places[0], places[-1] + 1) for flag, places in runs if flag]


def _smoothed(boxes_F4: np.ndarray, radius: int) -> np.ndarray:
    """Each box the mean of itself and `radius` neighbours on each side, as far as they are known."""
    if radius == 0:
        return boxes_F4
    padded = np.pad(boxes_F4, ((radius, radius), (0, 0)), constant_values=np.nan)
    windows = np.stack([padded[shift : shift + len(boxes_F4)] for shift in range(2 * radius + 1)])
    known = np.isfinite(windows)
    means_F4 = np.where(known, windows, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(np.isfinite(boxes_F4), means_F4, np.nan)
