"""How much of a dub's picture is kept: the model makes the whole picture anew, whoever is in it.

One face, no choice: all of it. A chosen face among others: what is around it. No face, or while it is lost: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dubmill.errors import UsageError
from dubmill.faces.tracking import NoFace, Track, follow
from dubmill.media.clips import Clip
from dubmill.text.timing import Span, clock

if TYPE_CHECKING:
    from dubmill.faces import FaceFinder

ALL = "all"  # the choice that keeps the whole picture, whoever is in it
FADE_SECONDS = 0.16  # over which the dub gives way where the face is lost
CORE, EDGE = 0.1, 0.3  # in face sizes from its box: as far all of the dub shows, and over so much more none of it

Fact = tuple[str, Span]
"""What to tell, and of which seconds."""


@dataclass(frozen=True, eq=False)
class Keep:
    """How much of a dub shows in each frame.

    Attributes:
        amount_F: share of the dub, 0 to 1; the last one holds for all later frames.
        boxes_F4: the face around which alone it shows, in pixels of `size`; no rows: everywhere.
        others: face boxes (F, 4) that stay as they were, NaN where nobody is.
        size: height and width of the picture in which faces were looked for.
        facts: what a person should know.
    """

    amount_F: np.ndarray
    boxes_F4: np.ndarray
    others: tuple[np.ndarray, ...]
    size: tuple[int, int]
    facts: tuple[Fact, ...]

    def amount(self, frame: int) -> float:
        """The dub's share in frame `frame`."""
        return float(self.amount_F[min(frame, len(self.amount_F) - 1)])

    def around(self, frame: int, height: int, width: int) -> float | np.ndarray:
        """Of that share, how much shows at each pixel (H, W, 1) of a picture of another size; 1.0: everywhere all."""
        if not len(self.boxes_F4):
            return 1.0
        frame = min(frame, len(self.boxes_F4) - 1)
        scale_4 = np.array([width, height, width, height]) / np.array([*self.size[::-1], *self.size[::-1]])
        share_HW = np.clip(1 - (_distance(self.boxes_F4[frame] * scale_4, height, width) - CORE) / EDGE, 0, 1)
        for boxes_F4 in self.others:
            if np.isfinite(boxes_F4[frame]).all():
                share_HW = share_HW * np.clip(_distance(boxes_F4[frame] * scale_4, height, width) / EDGE, 0, 1)
        return share_HW[..., None]

    def laid(self, clip: Clip, dubbed: Clip) -> Clip:
        """`dubbed` with the picture of `clip` where the dub's is not kept."""
        if not len(self.boxes_F4) and (self.amount_F == 1).all():
            return dubbed
        pairs = zip(clip.frames_FHWC, dubbed.frames_FHWC, strict=True)
        frames = [self._frame(*pair, at) for at, pair in enumerate(pairs)]
        return replace(dubbed, frames_FHWC=np.stack(frames))

    def _frame(self, was_HWC: np.ndarray, made_HWC: np.ndarray, frame: int) -> np.ndarray:
        share = self.amount(frame)
        if not share:
            return was_HWC
        share = share * self.around(frame, *was_HWC.shape[:2])
        return (was_HWC + share * (made_HWC - was_HWC.astype(np.float32)) + 0.5).astype(np.uint8)


WHOLE = Keep(np.ones(1, np.float32), np.empty((0, 4), np.float32), (), (1, 1), ())


@dataclass(frozen=True)
class Watch:
    """Who looks for faces before a dub: `finder`, or nobody, and `cure` says how that can be changed.

    An empty `cure` beside no finder: nobody has to, since one face fills every picture of this backbone.
    """

    finder: FaceFinder | None
    cure: str

    def looks(self, which: str) -> bool:
        """Whether frames are looked at at all when `which` is asked for."""
        return self.finder is not None and which != ALL

    def keep(self, clip: Clip, which: str, *, start_seconds: float) -> Keep:
        """What is kept of a dub of `clip`, which begins at `start_seconds`; `which` as in `check_choice`.

        Raises:
            UnreadableMedia: several faces are in it and none was chosen.
            UsageError: `which` names nobody, or nobody looks.
        """
        span = (start_seconds, start_seconds + clip.seconds)
        if self.finder is None or which == ALL:
            return self.blind(which, span)
        return _kept(clip, self.finder, which, span)

    def blind(self, which: str, span: Span) -> Keep:
        """What is kept of `span` where nobody looks.

        Raises:
            UsageError: a face was chosen, and somebody would have to look.
        """
        if not self.cure or which == ALL:
            return WHOLE
        if which:
            raise UsageError("nobody looks for faces here", where=f"face {which!r}", cure=self.cure)
        return replace(WHOLE, facts=((f"faces were not looked for; to have that: {self.cure}", span),))


UNWATCHED = Watch(None, "")


def check_choice(which: str) -> None:
    """Refuse what can choose no face: only left, right, all, a number counted from the left, or nothing can.

    Raises:
        UsageError: it is something else.
    """
    if not re.fullmatch(rf"|left|right|{ALL}|[1-9][0-9]*", which):
        raise UsageError(
            f"{which!r} is no face", where="face", cure=f"choose left, right, {ALL} or a number, counted from the left"
        )


def told(facts: Iterable[Fact]) -> tuple[str, ...]:
    """A sentence for each thing to tell, with all the times at which it is so."""
    spans: dict[str, list[str]] = {}
    for fact, (start, end) in dict.fromkeys(facts):
        spans.setdefault(fact, []).append(f"{clock(start)} to {clock(end)}")
    return tuple(f"{fact} ({', '.join(times)})" for fact, times in spans.items())


def _kept(clip: Clip, finder: FaceFinder, which: str, whole: Span) -> Keep:
    size, rate = clip.frames_FHWC.shape[1:3], float(clip.frame_rate)
    found = finder.find(clip.frames_FHWC)
    try:
        track = follow(found, which=which, frame_rate=rate, size=size, jitter_frames=finder.jitter_frames)
    except NoFace:
        facts = (("no face is seen, so the picture is as it was and the sound is dubbed", whole),)
        return replace(WHOLE, amount_F=np.zeros(1, np.float32), facts=facts)
    lost = [
        ("the face is lost, so the picture is as it was", (whole[0] + start, whole[0] + end))
        for start, end in track.lost_seconds
    ]
    is_choice = bool(which or track.others)
    return Keep(
        amount_F=_amount(track, rate),
        boxes_F4=track.boxes_F4 if is_choice else WHOLE.boxes_F4,
        others=track.others,
        size=size,
        facts=(*((fact, whole) for fact in _company(track, which)), *lost),
    )


def _company(track: Track, which: str) -> tuple[str, ...]:
    if track.others:
        return track.notes[:1]
    return ("only one face is seen, and taken for the chosen one",) if which else ()


def _amount(track: Track, frame_rate: float) -> np.ndarray:
    """All of the dub (F,) where the face is known, none where it is lost, and less and less on the way there."""
    lost = np.flatnonzero(np.isnan(track.boxes_F4).any(axis=1))
    if not len(lost):
        return np.ones(len(track.boxes_F4), np.float32)
    away_F = np.abs(np.arange(len(track.boxes_F4))[:, None] - lost).min(axis=1)
    return np.minimum(1.0, away_F / (1 + max(1, round(FADE_SECONDS * frame_rate)))).astype(np.float32)


def _distance(box_4: np.ndarray, height: int, width: int) -> np.ndarray:
    """How far each pixel (H, W) lies outside a box, in sizes of the box."""
    x0, y0, x1, y1 = box_4.astype(np.float32)
    across_W, down_H = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5
    out_W = np.maximum(np.maximum(x0 - across_W, across_W - x1), 0)
    out_H = np.maximum(np.maximum(y0 - down_H, down_H - y1), 0)
    return np.hypot(out_H[:, None], out_W) / max(1.0, float(np.sqrt((x1 - x0) * (y1 - y0))))
