"""A video of any length as a film: two picture streams on one clock, its sound, and what a first look tells of it.

The clock counts frames at the model's rate. Every place in sound is `round(frame / rate * sample_rate)` of an absolute
frame, never a sum of lengths, so nothing drifts. Of the film itself only windows are ever in memory; what a look keeps of
a frame is a few bytes.

Axes: F frames at the model's rate, H height, W width, N samples, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise, repeat
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.dubbing.longform.size import ClipSize
from dubmill.errors import UnreadableMedia
from dubmill.media.clips import Clip, fit

_LOOK_SIDE = 32  # pixels of the small picture in which shot changes are found
_LOOK_RATE_HZ = 16000
_SHOT_HISTOGRAM = 0.25  # share of pixels whose brightness leaves its eighth
_SHOT_DIFFERENCE = 20.0  # mean change of brightness, of 255
_QUIET_DBFS = -50.0
_SPEECH_SHARE = 0.4  # of the way in dB from the quiet to the loud
_BREATH_SECONDS = 0.2  # a shorter pause is part of the speech


@dataclass(frozen=True)
class Film:
    """A source, what it holds, and the size at which a model sees it."""

    path: Path
    info: media.MediaInfo
    size: ClipSize
    tone_map: bool

    @classmethod
    def open(cls, path: Path, size: ClipSize, *, limits: media.Limits, tone_map: bool) -> Film:
        """The film at `path`, decoded once to count it.

        Raises:
            UnreadableMedia: as `media.probe`, or it has no sound.
        """
        info = media.probe(path, limits=limits)
        if not info.has_audio:
            raise UnreadableMedia(
                "there is no sound in it", where=str(path), cure="give a video in which somebody speaks"
            )
        return cls(path, info, size, tone_map)

    @property
    def num_frames(self) -> int:
        """Frames of the model's rate that cover the film."""
        return math.ceil(self.info.num_frames / self.info.frame_rate * self.size.frame_rate)

    @property
    def channels(self) -> int:
        """Channels of the dub: what has more than two is mixed down to stereo."""
        return min(self.info.channels, 2)

    def sample_at(self, frame: Fraction | int, sample_rate_hz: int) -> int:
        """The sample at which a frame of the model's rate begins."""
        return round(frame / self.size.frame_rate * sample_rate_hz)

    def own_frames(self) -> Iterator[np.ndarray]:
        """Its frames (H, W, 3) at its own rate and size, exactly as many as it has."""
        told = self.info
        frames = self._frames(told.frame_rate, told.height, told.width)
        return _held(frames, told.num_frames)

    def own_sound(self) -> Iterator[np.ndarray]:
        """Its sound in blocks (N, C) at its own sample rate, exactly as long as its picture."""
        rate = self.info.sample_rate_hz
        left = round(self.info.num_frames / self.info.frame_rate * rate)
        blocks = media.sound(self.path, sample_rate_hz=rate, channels=self.channels)
        for block in chain(blocks, repeat(np.zeros((rate, self.channels), np.float32))):
            yield block[:left]
            left -= len(block[:left])
            if not left:
                return

    def shown(self) -> Shown:
        """A forward reader of what the model is shown."""
        frames = self._frames(self.size.frame_rate, self.size.height, self.size.width)
        sound = media.sound(self.path, sample_rate_hz=self.size.sample_rate_hz, channels=self.channels)
        return Shown(self, Tape(frame[None] for frame in frames), Tape(sound))

    def look(self) -> Look:
        """How loud each frame is, and where shots change."""
        levels = _levels(self, media.sound(self.path, sample_rate_hz=_LOOK_RATE_HZ, channels=1))
        return Look(levels, _shots(self._frames(self.size.frame_rate, _LOOK_SIDE, _LOOK_SIDE)))

    def _frames(self, rate: Fraction, height: int, width: int) -> Iterator[np.ndarray]:
        return media.frames(self.path, self.info, frame_rate=rate, height=height, width=width, tone_map=self.tone_map)


@dataclass(frozen=True)
class Look:
    """Loudness of every frame in dBFS (F,), and the frames that begin another shot."""

    levels_F: np.ndarray
    shots: tuple[int, ...]


class Tape:
    """A window that moves forward over blocks; what lies before it is forgotten."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks, self._held, self._start, self._stop = blocks, [], 0, 0

    def window(self, start: int, stop: int) -> np.ndarray:
        """Items `start` up to `stop` along the first axis, fewer at the end; `start` never goes back."""
        while self._stop < stop and (block := next(self._blocks, None)) is not None:
            self._held.append(block)
            self._stop += len(block)
            self._forget(start)
        self._forget(start)
        if not self._held:
            return np.zeros((0, 0), np.float32)
        return np.concatenate(self._held)[start - self._start : stop - self._start]

    def _forget(self, start: int) -> None:
        while len(self._held) > 1 and self._start + len(self._held[0]) <= start:
            self._start += len(self._held.pop(0))


@dataclass(frozen=True)
class Shown:
    """The film as the model sees it, clip by clip."""

    film: Film
    frames: Tape
    sound: Tape

    def clip(self, first: int, last: int) -> Clip:
        """Frames `first` up to `last`; where the film ends before, its last frame is held in silence."""
        film, rate = self.film, self.film.size.sample_rate_hz
        start, stop = film.sample_at(first, rate), film.sample_at(last, rate)
        sound_CN = fit(self.sound.window(start, stop).reshape(-1, film.channels).T, stop - start)
        frames_FHWC = self.frames.window(first, last)
        return Clip(frames_FHWC, film.size.frame_rate, np.ascontiguousarray(sound_CN), rate).lasting(last - first)


def speech_spans(levels_F: np.ndarray, frame_rate: Fraction) -> list[tuple[int, int]]:
    """Where somebody speaks, as frames (start, stop): what is louder than its surroundings, breaths included."""
    if not len(levels_F):
        return []
    quiet, loud = np.percentile(levels_F, [10, 95])
    threshold = max(_QUIET_DBFS, quiet + _SPEECH_SHARE * (loud - quiet))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], levels_F > threshold, [False]]).astype(int)))
    spans: list[tuple[int, int]] = []
    for start, stop in edges.reshape(-1, 2).tolist():
        if spans and start - spans[-1][1] <= _BREATH_SECONDS * frame_rate:
            start = spans.pop()[0]
        spans.append((start, stop))
    return spans


def level_dbfs(sound_NC: np.ndarray) -> float:
    """RMS in dBFS, at least -100."""
    power = float(np.mean(np.square(sound_NC))) if sound_NC.size else 0.0
    return 10 * math.log10(max(power, 1e-10))


def _held(frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`count` frames: the surplus left, the last one held."""
    last = None
    for last in islice(frames, count):
        count -= 1
        yield last
    if last is not None:
        yield from repeat(last, count)


def _levels(film: Film, sound: Iterator[np.ndarray]) -> np.ndarray:
    tape, places = Tape(sound), (film.sample_at(frame, _LOOK_RATE_HZ) for frame in range(film.num_frames + 1))
    return np.fromiter((level_dbfs(tape.window(*pair)) for pair in pairwise(places)), np.float32)


def _shots(frames: Iterator[np.ndarray]) -> tuple[int, ...]:
    """Frames at which the picture changes for good: one that flashes up for a moment is no shot."""
    shots, recent = [], []
    for index, frame in enumerate(frames):
        recent = [*recent[-3:], frame.mean(axis=2)]
        if len(recent) == 4 and all(_differ(one, other) for one in recent[:2] for other in recent[2:]):
            shots.append(index - 1)
    return tuple(shots)


def _differ(one_HW: np.ndarray, other_HW: np.ndarray) -> bool:
    if np.abs(one_HW - other_HW).mean() < _SHOT_DIFFERENCE:
        return False
    counts = [np.histogram(picture, bins=8, range=(0, 256))[0] for picture in (one_HW, other_HW)]
    return np.abs(counts[0] - counts[1]).sum() / 2 > _SHOT_HISTOGRAM * one_HW.size
