"""Takes and the film they came from, joined into one picture and one sound, a frame and a block at a time.

Picture: the dub is scaled back to where it was cut from and laid over the film; what the model did not see stays.
Sound: the dub is heard where it speaks, the film everywhere else; both by equal-power fades.

Axes: H height, W width, N samples, C channels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dubmill import media
from dubmill.dubbing.longform.film import Film
from dubmill.dubbing.longform.takes import Take

FADE_SECONDS = 0.03  # around what is said
_CUT_SECONDS = 0.005  # where one dub meets another without overlap: too short to hear, long enough not to click
_MAX_GAIN_DB = 12.0
_EDGE_SHARE = 1 / 32  # of the dubbed region's shorter side, over which it blends into what the model did not see


def picture(film: Film, takes: Sequence[Take], progress: Callable[[float], None]) -> Iterator[np.ndarray]:
    """The film's own frames (H, W, 3), at its own rate and size, with the takes laid over them."""
    region, reels, running = _region(film), {}, _Running(takes, lambda take: (take.chunk.first, take.chunk.last))
    for index, frame in enumerate(film.own_frames()):
        place = index / film.info.frame_rate * film.size.frame_rate
        now = math.floor(place)
        reels = {take: reels.get(take) or _Reel(film, take, region) for take in running.between(now, now + 1)}
        weights = {take: take.chunk.weight(float(place)) * take.keep.amount(now - take.chunk.first) for take in reels}
        weighted = [
            (weight * take.keep.around(now - take.chunk.first, region.height, region.width), reels[take].at(now))
            for take, weight in weights.items()
            if weight
        ]
        yield _laid(frame, weighted, region) if weighted else frame
        progress((index + 1) / film.info.num_frames)


def sound(film: Film, takes: Sequence[Take], gain: float) -> Iterator[np.ndarray]:
    """The film's own sound in blocks (N, C), at its own rate, with the takes' speech, `gain` times as loud, in it."""
    rate, voices, running = film.info.sample_rate_hz, {}, _Running(takes, lambda take: _samples(film, take))
    for start, block in _placed(film.own_sound()):
        on = running.between(start, start + len(block))
        voices = {take: voices[take] if take in voices else take.sound(film, rate) for take in on}
        yield _mixed(film, block, start, voices, gain)


def gain_to_match(film: Film, takes: Sequence[Take]) -> float:
    """What to multiply the takes with, so that their speech is as loud (EBU R128) as the film's in the same places.

    One factor for the whole film, so that a whisper stays one; at most 12 dB, and never into clipping.
    """
    how = {"sample_rate_hz": film.info.sample_rate_hz, "channels": film.channels}
    before = media.loudness(_own_speech(film, takes), **how)
    peaks: list[float] = []
    after = media.loudness(_noted(_dubbed_speech(film, takes), peaks), **how)
    if media.UNHEARD_LUFS in (before, after):
        return 1.0
    gain = 10 ** (float(np.clip(before - after, -_MAX_GAIN_DB, _MAX_GAIN_DB)) / 20)
    return min(gain, max(1.0, 1.0 / max(peaks)))


class _Running:
    """The takes, in order, that a window moving forward over the film touches."""

    def __init__(self, takes: Sequence[Take], span: Callable[[Take], tuple[int, int]]) -> None:
        self._coming, self._span, self._on = deque(takes), span, []

    def between(self, start: int, stop: int) -> list[Take]:
        """Those with a part in `start` up to `stop`; neither ever goes back."""
        while self._coming and self._span(self._coming[0])[0] < stop:
            self._on.append(self._coming.popleft())
        self._on = [take for take in self._on if start < self._span(take)[1]]
        return self._on


@dataclass(frozen=True)
class _Region:
    """Where in the film's picture the model looked, in pixels, and how much of the dub shows at each (H, W, 1)."""

    top: int
    left: int
    height: int
    width: int
    share_HW1: np.ndarray | None  # None: all of it, the model saw the whole picture

    @property
    def place(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class _Reel:
    """The frames of a take in the size of their region, one after the other."""

    def __init__(self, film: Film, take: Take, region: _Region) -> None:
        plain = replace(film.info, hdr="")
        how = {"frame_rate": film.size.frame_rate, "height": region.height, "width": region.width}
        self._frames, self._next = media.frames(take.path, plain, **how), take.chunk.first
        self._frame = None

    def at(self, index: int) -> np.ndarray:
        """The frame that is on at `index`, which never goes back."""
        while self._next <= index:
            self._frame = next(self._frames, self._frame)
            self._next += 1
        return self._frame


def _region(film: Film) -> _Region:
    tall, wide = film.info.height, film.info.width
    scale = max(film.size.height / tall, film.size.width / wide)
    height, width = min(tall, round(film.size.height / scale)), min(wide, round(film.size.width / scale))
    top, left = (tall - height) // 2, (wide - width) // 2
    soft = max(1.0, _EDGE_SHARE * min(height, width))
    down_H = _shares(height, soft, has_edge=height < tall)
    across_W = _shares(width, soft, has_edge=width < wide)
    whole = (height, width) == (tall, wide)
    return _Region(top, left, height, width, None if whole else (down_H[:, None] * across_W)[..., None])


def _shares(side: int, soft: float, *, has_edge: bool) -> np.ndarray:
    places = np.arange(side, dtype=np.float32) + 1
    return np.minimum(1.0, np.minimum(places, places[::-1]) / soft) if has_edge else np.ones(side, np.float32)


def _laid(frame_HWC: np.ndarray, weighted: list[tuple[float | np.ndarray, np.ndarray]], region: _Region) -> np.ndarray:
    """A frame with dubs over it, each with its weight: a number, or one for each pixel (H, W, 1) of the region."""
    frame_HWC = frame_HWC.copy()
    if region.share_HW1 is None and np.ndim(weighted[0][0]) == 0 and weighted[0][0] == 1.0:
        frame_HWC[region.place] = weighted[0][1]
        return frame_HWC
    under = frame_HWC[region.place].astype(np.float32)
    share = 1.0 if region.share_HW1 is None else region.share_HW1
    change = sum(weight * (dubbed - under) for weight, dubbed in weighted)
    frame_HWC[region.place] = np.clip(under + share * change + 0.5, 0, 255).astype(np.uint8)
    return frame_HWC


def _mixed(film: Film, block_NC: np.ndarray, start: int, voices: dict[Take, np.ndarray], gain: float) -> np.ndarray:
    if not voices:
        return block_NC
    seconds_N = (start + np.arange(len(block_NC))) / film.info.sample_rate_hz
    weights = {take: _weight(film, take, seconds_N) for take in voices}
    total_N = sum(weights.values())
    crowd_N = np.maximum(total_N, 1.0)
    mixed_NC = block_NC * np.sqrt(1.0 - total_N / crowd_N)[:, None]
    for take, voice_NC in voices.items():
        heard_NC = _cut(voice_NC, start - _samples(film, take)[0], len(block_NC))
        mixed_NC += gain * heard_NC * np.sqrt(weights[take] / crowd_N)[:, None]
    return mixed_NC.astype(np.float32)


def _weight(film: Film, take: Take, seconds_N: np.ndarray) -> np.ndarray:
    """How much of a take is heard at each moment, 0 to 1, before others are reckoned with."""
    said_N = np.zeros(len(seconds_N))
    for begin, end in take.spoken:
        away_N = np.maximum(begin - seconds_N, seconds_N - end)
        said_N = np.maximum(said_N, np.clip(1.0 - away_N / FADE_SECONDS, 0.0, 1.0))
    rise, fall = (
        [float(frame / film.size.frame_rate) for frame in span] for span in (take.chunk.rise, take.chunk.fall)
    )
    rising_N = (seconds_N - rise[0]) / max(rise[1] - rise[0], _CUT_SECONDS)
    falling_N = (fall[1] - seconds_N) / max(fall[1] - fall[0], _CUT_SECONDS)
    return said_N * np.clip(rising_N, 0.0, 1.0) * np.clip(falling_N, 0.0, 1.0)


def _samples(film: Film, take: Take) -> tuple[int, int]:
    """The samples of the film's own sound that a take covers."""
    rate = film.info.sample_rate_hz
    return film.sample_at(take.chunk.first, rate), film.sample_at(take.chunk.last, rate)


def _placed(blocks: Iterator[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)


def _cut(sound_NC: np.ndarray, start: int, length: int) -> np.ndarray:
    """`length` samples from `start`, which may lie before or after the sound: silence there."""
    cut_NC = np.zeros((length, sound_NC.shape[1]), np.float32)
    low, high = max(0, start), min(len(sound_NC), start + length)
    if high > low:
        cut_NC[low - start : high - start] = sound_NC[low:high]
    return cut_NC


def _own_speech(film: Film, takes: Sequence[Take]) -> Iterator[np.ndarray]:
    rate, running = film.info.sample_rate_hz, _Running(takes, lambda take: _samples(film, take))
    for start, block in _placed(film.own_sound()):
        seconds_N = (start + np.arange(len(block))) / rate
        if on := running.between(start, start + len(block)):
            yield block[np.max([_weight(film, take, seconds_N) for take in on], axis=0) > 0.5]


def _noted(blocks: Iterator[np.ndarray], peaks: list[float]) -> Iterator[np.ndarray]:
    for block in blocks:
        peaks.append(float(np.abs(block).max(initial=0.0)))
        yield block


def _dubbed_speech(film: Film, takes: Sequence[Take]) -> Iterator[np.ndarray]:
    rate = film.info.sample_rate_hz
    for take in takes:
        voice_NC, first = take.sound(film, rate), _samples(film, take)[0]
        yield voice_NC[_weight(film, take, (first + np.arange(len(voice_NC))) / rate) > 0.5]
