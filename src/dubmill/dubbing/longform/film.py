"""A video of any length: its picture and sound as streams on one clock, and a first analysis of it.

The clock counts frames at the model's rate. Every position in the sound is `round(frame / rate * sample_rate)` of an absolute
frame number, never a sum of lengths, so rounding errors do not accumulate. Only sliding windows are held in memory.

Axes: F frames at the model's rate, H height, W width, N samples, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from typing import TypeVar

import numpy as np

from dubmill import media
from dubmill.artifacts.files import digest_of, sha256_of
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.longform.background import LEVEL_RATE_HZ, check_background
from dubmill.errors import UnreadableMediaError
from dubmill.media.clips import Clip, cut_or_pad

_SHOT_SIDE = 32  # pixels of the small picture in which shot changes are detected
_OVERVIEW_SIDE = 640  # pixels of the picture in which faces are detected
_SHOT_HISTOGRAM = 0.25  # share of pixels that change their bin in a histogram of eight brightness bins
_SHOT_DIFFERENCE = 20.0  # mean change of brightness, of 255
_QUIET_DBFS = -50.0
_SPEECH_SHARE = 0.4  # threshold of speech, from the quiet level (0) to the loud one (1) in dB
_BREATH_SECONDS = 0.2  # a shorter pause is part of the speech

Progress = Callable[[float], None]
Item = TypeVar("Item")


def no_progress(share: float) -> None:
    """Reports to nobody."""


def between(progress: Progress, start: float, stop: float) -> Progress:
    """A progress callback whose 0 to 1 is reported as `start` to `stop`."""
    return lambda share: progress(start + (stop - start) * share)


def counted(items: Iterable[Item], total: int, progress: Progress) -> Iterator[Item]:
    """The items; after each, the share of `total` that has been taken is reported."""
    for number, item in enumerate(items, start=1):
        yield item
        progress(min(1.0, number / max(1, total)))


@dataclass(frozen=True)
class Film:
    """A source video, its properties, and the clip size at which the model reads it.

    `background` is a recording of its music and effects alone, on its clock and at its level: the speech is its sound less that.
    `known_sha256` and `known_background_sha256` are the digests of both files where the caller has them already.
    """

    path: Path
    info: media.MediaInfo
    size: ClipSize
    tone_map: bool
    known_sha256: str = ""
    background: Path | None = None
    known_background_sha256: str = ""

    @classmethod
    def open(
        cls,
        path: Path,
        size: ClipSize,
        *,
        limits: media.Limits,
        tone_map: bool,
        track: int | None = None,
        background: Path | None = None,
    ) -> Film:
        """The film at `path`, decoded once to count its frames; `track` as in `media.probe`, `background` as in the class.

        Raises:
            UnreadableMediaError: as `media.probe`, it has no sound, or the background is not its own.
        """
        info = media.probe(path, limits=limits, track=track)
        if not info.has_audio:
            raise UnreadableMediaError(
                "there is no sound in it", where=str(path), cure="give a video in which somebody speaks"
            )
        film = cls(path, info, size, tone_map, background=background)
        if background is not None:
            sound = film.sound(LEVEL_RATE_HZ, 1)
            check_background(background, film._with_background(sound, LEVEL_RATE_HZ, 1), info.seconds)
        return film

    @property
    def sha256(self) -> str:
        """Digest of its file."""
        return self.known_sha256 or sha256_of(self.path)

    @property
    def digest(self) -> str:
        """Identity of the picture and sound that the model sees: the file, and how it is read."""
        rate, *sides = str(self.size.frame_rate), self.size.height, self.size.width, self.size.sample_rate_hz
        background = [] if self.background is None else [self.known_background_sha256 or sha256_of(self.background)]
        return digest_of([self.sha256, self.info.track, self.tone_map, rate, *sides, *background])

    @property
    def num_frames(self) -> int:
        """Number of frames at the model's rate that cover the film."""
        return math.ceil(self.info.num_frames / self.info.frame_rate * self.size.frame_rate)

    @property
    def channels(self) -> int:
        """Channels of the dub: more than two are mixed down to stereo."""
        return min(self.info.channels, 2)

    @property
    def colour(self) -> media.Colour:
        """Colour tags of its frames as they are read."""
        return self.info.colour(is_tone_mapped=bool(self.info.hdr))

    def sample_at(self, frame: Fraction | int, sample_rate_hz: int) -> int:
        """The sample at which a frame of the model's rate begins."""
        return round(frame / self.size.frame_rate * sample_rate_hz)

    def seconds_at(self, frame: int) -> float:
        """The second at which a frame of the model's rate begins."""
        return float(frame / self.size.frame_rate)

    def source_frames(
        self, layout: media.Layout, start: int, stop: int, *, seeks: bool = False
    ) -> Iterator[np.ndarray]:
        """Its frames `start` up to `stop` in `layout`, as flat arrays, at its own rate; `seeks` as in `media.film_frames`."""
        frames = media.film_frames(
            self.path, self.info, layout, tone_map=self.tone_map, span=(start, stop), seeks=seeks
        )
        return _exactly(frames, stop - start)

    def stored_frames(self) -> Iterator[np.ndarray]:
        """Its frames (H, W, 3) at the model's rate, in stored pixels."""
        return media.stored_frames(self.path, self.info, frame_rate=self.size.frame_rate, tone_map=self.tone_map)

    def source_sound(self) -> Iterator[np.ndarray]:
        """Its sound in blocks (N, C) at its own sample rate, as long as the longer of picture and sound."""
        rate = self.info.sample_rate_hz
        remaining = max(
            round(self.info.num_frames / self.info.frame_rate * rate), round(self.info.sound_seconds * rate)
        )
        blocks = self.sound(rate, self.channels)
        for block in chain(blocks, repeat(np.zeros((rate, self.channels), np.float32))):
            yield block[:remaining]
            remaining -= len(block[:remaining])
            if not remaining:
                return

    def clip_reader(self) -> ClipReader:
        """A forward reader of clips at the model's rate and size: the middle of the picture."""
        frames = self._frames(self.size.frame_rate, self.size.height, self.size.width)
        return ClipReader(self, SlidingWindow(frame[None] for frame in frames), self.sound_window())

    def overview_reader(self) -> ClipReader:
        """A forward reader of clips at the model's rate that show the whole picture, scaled down for face detection."""
        scale = min(1.0, _OVERVIEW_SIDE / max(self.info.height, self.info.width))
        height, width = (max(1, round(scale * side)) for side in (self.info.height, self.info.width))
        frames = self._frames(self.size.frame_rate, height, width)
        return ClipReader(self, SlidingWindow(frame[None] for frame in frames), self.sound_window())

    def sound_window(self) -> SlidingWindow:
        """A forward reader of its speech (N, C) at the model's sample rate."""
        return SlidingWindow(self.speech(self.size.sample_rate_hz, self.channels))

    def sound_parts(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """`source_sound` in blocks, each with its first sample and the background (N, C) there: zeros where there is none."""
        return self._with_background(self.source_sound(), self.info.sample_rate_hz, self.channels)

    def clip_of(self, frames_FHWC: np.ndarray, sound: SlidingWindow, first: int, last: int) -> Clip:
        """A clip of frames `first` up to `last`; beyond the film's end its last frame is held, with silence."""
        rate = self.size.sample_rate_hz
        start, stop = self.sample_at(first, rate), self.sample_at(last, rate)
        sound_CN = cut_or_pad(sound.window(start, stop).reshape(-1, self.channels).T, stop - start)
        sound_CN = np.ascontiguousarray(np.clip(sound_CN, -1.0, 1.0))
        return Clip(frames_FHWC, self.size.frame_rate, sound_CN, rate).lasting(last - first)

    def analyze(self, progress: Progress = no_progress) -> FilmAnalysis:
        """The loudness of each frame, and where shots change."""
        levels_F = _levels(self, self.speech(LEVEL_RATE_HZ, 1))
        frames = self._frames(self.size.frame_rate, _SHOT_SIDE, _SHOT_SIDE)
        return FilmAnalysis(levels_F, _shot_starts(counted(frames, self.num_frames, progress)))

    def sound(self, sample_rate_hz: int, channels: int) -> Iterator[np.ndarray]:
        """Its sound in blocks (N, C)."""
        return media.sound(
            self.path, sample_rate_hz=sample_rate_hz, channels=channels, track=self.info.track, has_picture=True
        )

    def speech(self, sample_rate_hz: int, channels: int) -> Iterator[np.ndarray]:
        """Its sound less the background, in blocks (N, C)."""
        blocks = self.sound(sample_rate_hz, channels)
        if self.background is None:
            return blocks
        return (block - background for _, block, background in self._with_background(blocks, sample_rate_hz, channels))

    def _with_background(
        self, blocks: Iterator[np.ndarray], sample_rate_hz: int, channels: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Blocks (N, C) of its sound, each with its first sample and the background there; silence after the background's end."""
        source = self.background
        quiet: Iterator[np.ndarray] = iter(())
        sound = quiet if source is None else media.sound(source, sample_rate_hz=sample_rate_hz, channels=channels)
        window, start = SlidingWindow(sound), 0
        for block in blocks:
            part_NC = window.window(start, start + len(block)).reshape(-1, channels)
            yield start, block, cut_or_pad(part_NC.T, len(block)).T
            start += len(block)

    def _frames(self, rate: Fraction, height: int, width: int) -> Iterator[np.ndarray]:
        return media.frames(self.path, self.info, frame_rate=rate, height=height, width=width, tone_map=self.tone_map)


@dataclass(frozen=True)
class FilmAnalysis:
    """Loudness of every frame in dBFS (F,), and the frames that begin another shot."""

    levels_F: np.ndarray
    shots: tuple[int, ...]


class SlidingWindow:
    """A window that moves forward over a stream of blocks; blocks before it are dropped."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self._buffer: list[np.ndarray] = []
        self._start, self._stop = 0, 0

    def window(self, start: int, stop: int) -> np.ndarray:
        """Items `start` up to `stop` along the first axis, fewer at the end; `start` never decreases."""
        while self._stop < stop and (block := next(self._blocks, None)) is not None:
            self._buffer.append(block)
            self._stop += len(block)
            self._drop_before(start)
        self._drop_before(start)
        if not self._buffer:
            return np.zeros((0, 0), np.float32)
        return np.concatenate(self._buffer)[start - self._start : stop - self._start]

    def _drop_before(self, start: int) -> None:
        while len(self._buffer) > 1 and self._start + len(self._buffer[0]) <= start:
            self._start += len(self._buffer.pop(0))


@dataclass(frozen=True)
class ClipReader:
    """Reads a film forward in clips, as the model sees them."""

    film: Film
    frames: SlidingWindow
    sound: SlidingWindow

    def clip(self, first: int, last: int) -> Clip:
        """Frames `first` up to `last`; beyond the film's end its last frame is held, with silence."""
        return self.film.clip_of(self.frames.window(first, last), self.sound, first, last)


def loud_spans(levels_F: np.ndarray, frame_rate: Fraction) -> list[tuple[int, int]]:
    """Spans of speech in frames (start, stop), by an adaptive loudness threshold; breaths are included."""
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
    """RMS level in dBFS, at least -100."""
    power = float(np.mean(np.square(sound_NC))) if sound_NC.size else 0.0
    return 10 * math.log10(max(power, 1e-10))


def _exactly(frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Exactly `count` frames: surplus ones are dropped, missing ones repeat the last."""
    last = None
    for last in islice(frames, count):
        count -= 1
        yield last
    if last is not None:
        yield from repeat(last, count)


def _levels(film: Film, sound: Iterator[np.ndarray]) -> np.ndarray:
    window = SlidingWindow(sound)
    edges = (film.sample_at(frame, LEVEL_RATE_HZ) for frame in range(film.num_frames + 1))
    return np.fromiter((level_dbfs(window.window(*pair)) for pair in pairwise(edges)), np.float32)


def _shot_starts(frames: Iterator[np.ndarray]) -> tuple[int, ...]:
    """First frames of shots: the two frames before differ from the two after, so a single flash is no shot change."""
    shots, recent = [], []
    for index, frame in enumerate(frames):
        recent = [*recent[-3:], frame.mean(axis=2)]
        if len(recent) == 4 and all(_differ(before, after) for before in recent[:2] for after in recent[2:]):
            shots.append(index - 1)
    return tuple(shots)


def _differ(before_HW: np.ndarray, after_HW: np.ndarray) -> bool:
    if np.abs(before_HW - after_HW).mean() < _SHOT_DIFFERENCE:
        return False
    before, after = (np.histogram(picture, bins=8, range=(0, 256))[0] for picture in (before_HW, after_HW))
    return bool(np.abs(before - after).sum() / 2 > _SHOT_HISTOGRAM * before_HW.size)
