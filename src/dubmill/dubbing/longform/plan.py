"""Which frames of a film are dubbed together, and where one dub gives way to the next.

All places are frames at the model's rate. A chunk is never longer than the model's clip; cuts lie between cues, in
pauses or at shot changes where there are any; the frames around a chunk's words are shown to the model as context as
long as nobody else speaks there for longer than a dissolve takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.dubbing.longform.film import Film, Look, speech_spans
from dubmill.dubbing.longform.size import ClipSize
from dubmill.errors import UnreadableMedia, UnsayableText
from dubmill.text.subtitles import Cue
from dubmill.text.timing import clock, share_out

DISSOLVE_SECONDS = 0.16
SLACK_SECONDS = 0.25  # a cue this much longer than the clip is still taken, its ends cut
_LOUD_CUT, _TOUCHING_CUT, _SHOT_INSIDE = 0.5, 1.0, 1.0  # what each costs, where another dub costs 1

Span = tuple[int, int]


@dataclass(frozen=True)
class Chunk:
    """Frames that are dubbed together.

    Attributes:
        first, last: what the model is shown; held on its last frame where it is shorter than the model's clip.
        rise, fall: the frames over which the dub takes over from what was before, and gives way to what comes.
        text: the words of its cues.
        cues: their seconds in the film.
    """

    first: int
    last: int
    rise: Span
    fall: Span
    text: str
    cues: tuple[tuple[float, float], ...]

    def weight(self, place: float) -> float:
        """The dub's share of the picture at a place in frames, 0 to 1."""
        return _ramp(place, self.rise) * (1.0 - _ramp(place, self.fall))


@dataclass(frozen=True)
class _Group:
    """Cues that share a clip, and the frames they fill."""

    cues: Sequence[Cue]
    start: int
    stop: int


def plan(cues: Sequence[Cue], look: Look, size: ClipSize) -> list[Chunk]:
    """The chunks that say `cues`, in order; what lies between them stays as it is.

    Raises:
        UnsayableText: no words; a cue that lasts longer than the model's clip, or begins after the film's end.
    """
    cues = sorted((cue for cue in cues if cue.text.strip()), key=lambda cue: cue.start_seconds)
    if not cues:
        raise UnsayableText("there are no words in the script", cure="give at least one cue with text")
    num_frames = len(look.levels_F)
    groups = _grouped([_group([cue], size, num_frames) for cue in cues], look, size)
    shown = [_shown(index, groups, look.shots, size, num_frames) for index in range(len(groups))]
    turns = [_turn(*pair, look, size) for pair in pairwise(zip(shown, groups, strict=True))]
    return [
        Chunk(
            *shown[index],
            rise=(turns[index - 1] if index else None) or _fade_in(shown[index], group, look, size),
            fall=(turns[index] if index < len(turns) else None) or _fade_out(shown[index], group, look, size),
            text=" ".join(cue.text.strip() for cue in group.cues),
            cues=tuple((cue.start_seconds, cue.end_seconds) for cue in group.cues),
        )
        for index, group in enumerate(groups)
    ]


def shared_out(line: Line, film: Film, look: Look) -> list[Cue]:
    """The words of `line` over the speech that is heard in `film`, as cues of at most a clip's length.

    Raises:
        UnreadableMedia: nobody speaks in it.
    """
    rate, step = film.size.frame_rate, film.size.num_frames
    spans = [
        (float(at / rate), float(min(at + step, last) / rate))
        for first, last in speech_spans(look.levels_F, rate)
        for at in range(first, last, step)
    ]
    if not spans:
        raise UnreadableMedia("no speech is heard in it", where=str(film.path), cure="give the words with --script")
    return [Cue(*span, words) for span, words in zip(spans, share_out(line, spans), strict=True) if words]


def dissolve_frames(size: ClipSize) -> int:
    """How long a dissolve takes."""
    return max(1, round(DISSOLVE_SECONDS * size.frame_rate))


def _group(cues: Sequence[Cue], size: ClipSize, num_frames: int) -> _Group:
    start = round(cues[0].start_seconds * size.frame_rate)
    stop = min(num_frames, round(max(cue.end_seconds for cue in cues) * size.frame_rate))
    where = f"cue at {clock(cues[0].start_seconds)}"
    if start >= num_frames:
        raise UnsayableText("it begins after the film's end", where=where, cure="give the script of this film")
    stop = max(stop, start + 1)
    if stop - start > size.num_frames + SLACK_SECONDS * size.frame_rate:
        raise UnsayableText(
            f"it lasts {float((stop - start) / size.frame_rate):.2f} s, and this model dubs {size.seconds:.2f} s at a time",
            where=where,
            cure="split it into shorter cues",
        )
    surplus = max(0, stop - start - size.num_frames)
    return _Group(cues, start + surplus // 2, stop - (surplus - surplus // 2))


def _grouped(single: list[_Group], look: Look, size: ClipSize) -> list[_Group]:
    """The cheapest division into groups that fit a clip: few dubs, cuts in pauses, no shot change inside."""
    quiet = _is_quiet(look, size)
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of the first n cues, and how many come before their last group
    for end in range(1, len(single) + 1):
        options = []
        for begin in range(end - 1, -1, -1):
            inside = single[begin:end]
            if max(one.stop for one in inside) - inside[0].start > size.num_frames and begin < end - 1:
                break
            options.append((best[begin][0] + _cost(inside, look) + _cut_cost(single, begin, look, quiet), begin))
        best.append(min(options))
    groups, end = [], len(single)
    while end:
        begin = best[end][1]
        cues = [cue for one in single[begin:end] for cue in one.cues]
        groups.append(_Group(cues, single[begin].start, max(one.stop for one in single[begin:end])))
        end = begin
    return groups[::-1]


def _cost(inside: Sequence[_Group], look: Look) -> float:
    gaps = [(one.stop, other.start) for one, other in pairwise(inside)]
    return 1.0 + _SHOT_INSIDE * sum(start <= shot <= stop for start, stop in gaps for shot in look.shots)


def _cut_cost(single: list[_Group], begin: int, look: Look, quiet_F: np.ndarray) -> float:
    """What it costs to cut before cue `begin`; a long pause is a little better than a short one."""
    if not begin:
        return 0.0
    start, stop = single[begin - 1].stop, single[begin].start
    if stop <= start:
        return _TOUCHING_CUT
    is_good = quiet_F[start:stop].any() or any(start <= shot <= stop for shot in look.shots)
    return (0.0 if is_good else _LOUD_CUT) - 1e-3 * min(stop - start, 100) / 100


def _is_quiet(look: Look, size: ClipSize) -> np.ndarray:
    quiet_F = np.ones(len(look.levels_F), bool)
    for start, stop in speech_spans(look.levels_F, size.frame_rate):
        quiet_F[start:stop] = False
    return quiet_F


def _shown(index: int, groups: list[_Group], shots: Sequence[int], size: ClipSize, num_frames: int) -> Span:
    """The frames shown for a group: its words in the middle, neither over a shot change nor deep into others' words."""
    group, reach = groups[index], dissolve_frames(size)
    left = max(0, groups[index - 1].stop - reach) if index else 0
    right = min(num_frames, groups[index + 1].start + reach) if index + 1 < len(groups) else num_frames
    left = min(group.start, max([left, *(shot for shot in shots if shot <= group.start)]))
    right = max(group.stop, min([right, *(shot for shot in shots if shot >= group.stop)]))
    if right - left <= size.num_frames:
        return left, right
    spare = size.num_frames - (group.stop - group.start)
    first = min(max(group.start - spare // 2, left), right - size.num_frames)
    return first, first + size.num_frames


def _turn(one: tuple[Span, _Group], other: tuple[Span, _Group], look: Look, size: ClipSize) -> Span | None:
    """The frames over which one dub gives way to the next; None where the film itself comes between them."""
    (_, stop), (start, _) = one[0], other[0]
    if start > stop:
        return None
    if shot := next((shot for shot in look.shots if start <= shot <= stop), None):
        return shot, shot
    length = min(dissolve_frames(size), stop - start)
    low, high = max(start, one[1].stop), min(stop, other[1].start) - length
    middle = (one[1].stop + other[1].start - length) / 2

    def loudness(first: int) -> tuple[float, float]:
        return look.levels_F[first : first + length].max(initial=-np.inf), abs(first - middle)

    first = min(range(low, high + 1), key=loudness, default=round(middle))  # default: no pause between them
    first = min(max(first, start), stop - length)
    return first, first + length


def _fade_in(shown: Span, group: _Group, look: Look, size: ClipSize) -> Span:
    first = shown[0]
    is_hard = first == 0 or first in look.shots
    return first, first if is_hard else first + min(dissolve_frames(size), group.start - first)


def _fade_out(shown: Span, group: _Group, look: Look, size: ClipSize) -> Span:
    last = shown[1]
    is_hard = last == len(look.levels_F) or last in look.shots
    return last if is_hard else last - min(dissolve_frames(size), last - group.stop), last


def _ramp(place: float, span: Span) -> float:
    start, stop = span
    if start == stop:
        return float(place >= start)
    return min(1.0, max(0.0, (place - start) / (stop - start)))
