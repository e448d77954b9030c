"""Groups a script's cues into chunks of at most a clip's length, with crossfades between them.

All positions are frames at the model's rate. Chunks are cut between cues, in pauses or at shot changes where there are any.
The frames around a chunk's words are given to the model as context, as long as nobody else speaks there for longer than a
crossfade takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.dubbing.clip_size import SLACK_SECONDS, ClipSize
from dubmill.dubbing.longform.film import Film, FilmAnalysis, loud_spans
from dubmill.dubbing.longform.segments import Segment, segments_of
from dubmill.errors import UnreadableMediaError, UnsupportedTextError
from dubmill.text.subtitles import Cue
from dubmill.text.timing import clock, share_out

CROSSFADE_SECONDS = 0.16
_LOUD_CUT, _TOUCHING_CUT, _SHOT_INSIDE = 0.5, 1.0, 1.0  # what each costs, where another chunk costs 1

FrameSpan = tuple[int, int]
"""First frame, and the frame after the last."""


@dataclass(frozen=True)
class Chunk:
    """Frames that are dubbed together.

    Attributes:
        first, last: the frames given to the model; shorter ones than its clip are padded by holding the last frame.
        fade_in, fade_out: the frames over which the dub replaces what comes before it, and gives way to what follows.
        text: the words of its cues.
        cues: the times of its cues, in seconds of the film.
        ids: the names of its segments, where they have any.
        speaker, face: as in `Segment`, the same for all of them.
        seed: the largest of its segments' seeds; None: the seed of the whole film.
        recordings: of its segments, of each or of none, in the order of `cues`.
    """

    first: int
    last: int
    fade_in: FrameSpan
    fade_out: FrameSpan
    text: str
    cues: tuple[tuple[float, float], ...]
    ids: tuple[str, ...] = ()
    speaker: str = ""
    face: str = ""
    seed: int | None = None
    recordings: tuple[Path, ...] = ()

    def weight(self, position: float) -> float:
        """The dub's weight in the picture at a position in frames, 0 to 1."""
        return _ramp(position, self.fade_in) * (1.0 - _ramp(position, self.fade_out))


@dataclass(frozen=True)
class _Group:
    """Cues that share a clip, and the frames that their words fill."""

    cues: Sequence[Segment]
    start: int
    stop: int


def plan_chunks(cues: Sequence[Cue], analysis: FilmAnalysis, size: ClipSize) -> list[Chunk]:
    """The chunks that say `cues`, in order; frames between them are not dubbed. Each is said by one voice.

    Raises:
        UnsupportedTextError: no words; a cue that lasts longer than the model's clip, or begins after the film's end.
    """
    segments = segments_of(cues)
    if not segments:
        raise UnsupportedTextError("there are no words in the script", cure="give at least one cue with text")
    num_frames = len(analysis.levels_F)
    groups = _grouped([_single_cue(segment, size, num_frames) for segment in segments], analysis, size)
    contexts = [_context(index, groups, analysis.shots, size, num_frames) for index in range(len(groups))]
    with_context = list(zip(contexts, groups, strict=True))
    crossfades = [_crossfade(*pair, analysis, size) for pair in pairwise(with_context)]
    return [
        Chunk(
            first=contexts[index][0],
            last=contexts[index][1],
            fade_in=(crossfades[index - 1] if index else None) or _fade_in(contexts[index], group, analysis, size),
            fade_out=(crossfades[index] if index < len(crossfades) else None)
            or _fade_out(contexts[index], group, analysis, size),
            text=" ".join(cue.text.strip() for cue in group.cues),
            cues=tuple((cue.start_seconds, cue.end_seconds) for cue in group.cues),
            ids=tuple(cue.id for cue in group.cues if cue.id),
            speaker=group.cues[0].speaker,
            face=group.cues[0].face,
            seed=max((cue.seed for cue in group.cues if cue.seed is not None), default=None),
            recordings=tuple(cue.recording for cue in group.cues if cue.recording),
        )
        for index, group in enumerate(groups)
    ]


def cues_over_speech(line: Line, film: Film, analysis: FilmAnalysis) -> list[Cue]:
    """The words of `line` distributed over the speech in `film`, as cues of at most a clip's length.

    Raises:
        UnreadableMediaError: there is no speech in it.
    """
    rate, step = film.size.frame_rate, film.size.num_frames
    spans = [
        (float(start / rate), float(min(start + step, last) / rate))
        for first, last in loud_spans(analysis.levels_F, rate)
        for start in range(first, last, step)
    ]
    if not spans:
        raise UnreadableMediaError(
            "no speech is heard in it", where=str(film.path), cure="give the words with --script"
        )
    texts = share_out(line, spans)
    return [Cue(start, end, text) for (start, end), text in zip(spans, texts, strict=True) if text]


def crossfade_frames(size: ClipSize) -> int:
    """Length of a crossfade in frames, at least 1."""
    return max(1, round(CROSSFADE_SECONDS * size.frame_rate))


def _single_cue(cue: Segment, size: ClipSize, num_frames: int) -> _Group:
    start = round(cue.start_seconds * size.frame_rate)
    stop = min(num_frames, round(cue.end_seconds * size.frame_rate))
    where = f"cue at {clock(cue.start_seconds)}"
    if start >= num_frames:
        raise UnsupportedTextError("it begins after the film's end", where=where, cure="give the script of this film")
    stop = max(stop, start + 1)
    if stop - start > size.num_frames + SLACK_SECONDS * size.frame_rate:
        raise UnsupportedTextError(
            f"it lasts {float((stop - start) / size.frame_rate):.2f} s, and this model dubs {size.seconds:.2f} s at a time",
            where=where,
            cure="split it into shorter cues",
        )
    surplus = max(0, stop - start - size.num_frames)
    return _Group([cue], start + surplus // 2, stop - (surplus - surplus // 2))


def _grouped(singles: list[_Group], analysis: FilmAnalysis, size: ClipSize) -> list[_Group]:
    """The groups of least cost by dynamic programming: few chunks, cuts in pauses, no shot change inside a chunk."""
    is_quiet_F = _is_quiet(analysis, size)
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of the first n cues, and how many come before their last group
    for end in range(1, len(singles) + 1):
        options = []
        for begin in range(end - 1, -1, -1):
            members = singles[begin:end]
            is_long = max(cue.stop for cue in members) - members[0].start > size.num_frames
            if begin < end - 1 and (is_long or members[0].cues[0].voice != members[1].cues[0].voice):
                break
            cost = _group_cost(members, analysis) + _cut_cost(singles, begin, analysis, is_quiet_F)
            options.append((best[begin][0] + cost, begin))
        best.append(min(options))
    groups, end = [], len(singles)
    while end:
        members = singles[(begin := best[end][1]) : end]
        cues = [cue for single in members for cue in single.cues]
        groups.append(_Group(cues, members[0].start, max(single.stop for single in members)))
        end = begin
    return groups[::-1]


def _group_cost(members: Sequence[_Group], analysis: FilmAnalysis) -> float:
    gaps = [(before.stop, after.start) for before, after in pairwise(members)]
    return 1.0 + _SHOT_INSIDE * sum(start <= shot <= stop for start, stop in gaps for shot in analysis.shots)


def _cut_cost(singles: list[_Group], begin: int, analysis: FilmAnalysis, is_quiet_F: np.ndarray) -> float:
    """The cost of a cut before cue `begin`; a long pause is a little better than a short one."""
    if not begin:
        return 0.0
    start, stop = singles[begin - 1].stop, singles[begin].start
    if stop <= start:
        return _TOUCHING_CUT
    is_good = is_quiet_F[start:stop].any() or any(start <= shot <= stop for shot in analysis.shots)
    return (0.0 if is_good else _LOUD_CUT) - 1e-3 * min(stop - start, 100) / 100


def _is_quiet(analysis: FilmAnalysis, size: ClipSize) -> np.ndarray:
    is_quiet_F = np.ones(len(analysis.levels_F), bool)
    for start, stop in loud_spans(analysis.levels_F, size.frame_rate):
        is_quiet_F[start:stop] = False
    return is_quiet_F


def _context(index: int, groups: list[_Group], shots: Sequence[int], size: ClipSize, num_frames: int) -> FrameSpan:
    """The frames given to the model for a group: its words in the middle, within its shot and the neighbours' pauses."""
    group, overlap = groups[index], crossfade_frames(size)
    left = max(0, groups[index - 1].stop - overlap) if index else 0
    right = min(num_frames, groups[index + 1].start + overlap) if index + 1 < len(groups) else num_frames
    left = min(group.start, max([left, *(shot for shot in shots if shot <= group.start)]))
    right = max(group.stop, min([right, *(shot for shot in shots if shot >= group.stop)]))
    if right - left <= size.num_frames:
        return left, right
    spare = size.num_frames - (group.stop - group.start)
    first = min(max(group.start - spare // 2, left), right - size.num_frames)
    return first, first + size.num_frames


def _crossfade(
    before: tuple[FrameSpan, _Group], after: tuple[FrameSpan, _Group], analysis: FilmAnalysis, size: ClipSize
) -> FrameSpan | None:
    """The frames of the crossfade between two chunks; None where undubbed frames lie between them."""
    (_, stop), (start, _) = before[0], after[0]
    if start > stop:
        return None
    if shot := next((shot for shot in analysis.shots if start <= shot <= stop), None):
        return shot, shot
    length = min(crossfade_frames(size), stop - start)
    low, high = max(start, before[1].stop), min(stop, after[1].start) - length
    middle = (before[1].stop + after[1].start - length) / 2

    def loudness(first: int) -> tuple[float, float]:
        return float(analysis.levels_F[first : first + length].max(initial=-np.inf)), abs(first - middle)

    first = min(range(low, high + 1), key=loudness, default=round(middle))  # default: no pause between them
    first = min(max(first, start), stop - length)
    return first, first + length


def _fade_in(context: FrameSpan, group: _Group, analysis: FilmAnalysis, size: ClipSize) -> FrameSpan:
    first = context[0]
    is_hard_cut = first == 0 or first in analysis.shots
    return first, first if is_hard_cut else first + min(crossfade_frames(size), group.start - first)


def _fade_out(context: FrameSpan, group: _Group, analysis: FilmAnalysis, size: ClipSize) -> FrameSpan:
    last = context[1]
    is_hard_cut = last == len(analysis.levels_F) or last in analysis.shots
    return last if is_hard_cut else last - min(crossfade_frames(size), last - group.stop), last


def _ramp(position: float, span: FrameSpan) -> float:
    start, stop = span
    if start == stop:
        return float(position >= start)
    return min(1.0, max(0.0, (position - start) / (stop - start)))
