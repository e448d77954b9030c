"""Joins the dubs of a film's chunks with the film, a frame and a block of sound at a time.

Picture: each dub is scaled back to the region it was cropped from and composited over the film.
Sound: the dub is heard while it speaks, the film everywhere else, with equal-power crossfades.

Axes: H height, W width, N samples, C channels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dubmill import media
from dubmill.dubbing.longform.chunk_dubs import ChunkDub
from dubmill.dubbing.longform.film import Film

FADE_SECONDS = 0.03  # before and after speech
_CUT_SECONDS = 0.005  # between two dubs that do not overlap: too short to hear, long enough to avoid a click
_MAX_GAIN_DB = 12.0
_EDGE_SHARE = 1 / 32  # of the dubbed region's shorter side, over which it blends into what the model did not see


def picture(film: Film, dubs: Sequence[ChunkDub], progress: Callable[[float], None]) -> Iterator[np.ndarray]:
    """The film's frames (H, W, 3), at its own rate and size, with the dubs composited over them."""
    region = _region(film)
    readers: dict[ChunkDub, _FrameReader] = {}
    active_dubs = _ActiveDubs(dubs, lambda dub: (dub.chunk.first, dub.chunk.last))
    for index, frame in enumerate(film.source_frames()):
        position = index / film.info.frame_rate * film.size.frame_rate
        model_frame = math.floor(position)
        active = active_dubs.between(model_frame, model_frame + 1)
        readers = {dub: readers.get(dub) or _FrameReader(film, dub, region) for dub in active}
        layers = [_layer(dub, reader, float(position), region) for dub, reader in readers.items()]
        yield _composite(frame, [layer for layer in layers if layer], region)
        progress((index + 1) / film.info.num_frames)


def joined_sound(film: Film, dubs: Sequence[ChunkDub], gain: float) -> Iterator[np.ndarray]:
    """The film's sound in blocks (N, C), at its own rate, with the dubs' speech, multiplied by `gain`, in it."""
    rate = film.info.sample_rate_hz
    voices: dict[ChunkDub, np.ndarray] = {}
    active_dubs = _ActiveDubs(dubs, lambda dub: _samples(film, dub))
    for start, block in _with_start(film.source_sound()):
        active = active_dubs.between(start, start + len(block))
        voices = {dub: voices[dub] if dub in voices else dub.sound(film, rate) for dub in active}
        yield _mix(film, block, start, voices, gain)


def gain_to_match(film: Film, dubs: Sequence[ChunkDub]) -> float:
    """The gain that makes the dubs' speech as loud (EBU R128) as the film's in the same places.

    One factor for the whole film, so that a whisper stays a whisper; at most 12 dB, and never into clipping.
    """
    rate, channels = film.info.sample_rate_hz, film.channels
    before = media.loudness(_source_speech(film, dubs), sample_rate_hz=rate, channels=channels)
    peaks: list[float] = []
    speech = _record_peaks(_dubbed_speech(film, dubs), peaks)
    after = media.loudness(speech, sample_rate_hz=rate, channels=channels)
    if media.SILENCE_LUFS in (before, after):
        return 1.0
    gain = 10 ** (float(np.clip(before - after, -_MAX_GAIN_DB, _MAX_GAIN_DB)) / 20)
    return min(gain, max(1.0, 1.0 / max(peaks)))


class _ActiveDubs:
    """The dubs, in order, that overlap a window moving forward over the film."""

    def __init__(self, dubs: Sequence[ChunkDub], span: Callable[[ChunkDub], tuple[int, int]]) -> None:
        self._upcoming, self._span = deque(dubs), span
        self._active: list[ChunkDub] = []

    def between(self, start: int, stop: int) -> list[ChunkDub]:
        """Those that overlap `start` up to `stop`; neither ever decreases."""
        while self._upcoming and self._span(self._upcoming[0])[0] < stop:
            self._active.append(self._upcoming.popleft())
        self._active = [dub for dub in self._active if start < self._span(dub)[1]]
        return self._active


@dataclass(frozen=True)
class _Region:
    """The part of the film's picture that the model saw, in pixels, and the dub's weight at each pixel (H, W, 1)."""

    top: int
    left: int
    height: int
    width: int
    weight_HW1: np.ndarray | None  # None: 1 everywhere, the model saw the whole picture

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class _FrameReader:
    """Reads the frames of a dub forward, in the size of the region."""

    def __init__(self, film: Film, dub: ChunkDub, region: _Region) -> None:
        info = replace(film.info, hdr="")  # the dub is in standard range
        self._frames = media.frames(
            dub.path, info, frame_rate=film.size.frame_rate, height=region.height, width=region.width
        )
        self._next_index = dub.chunk.first
        self._frame: np.ndarray | None = None

    def at(self, index: int) -> np.ndarray:
        """The frame at `index`, which never decreases; past the end, the last one."""
        while self._next_index <= index:
            self._frame = next(self._frames, self._frame)
            self._next_index += 1
        assert self._frame is not None, "a dub has at least one frame, and `index` is not before the chunk"
        return self._frame


_Layer = tuple[float | np.ndarray, np.ndarray]
"""The weight of a dub, one number or one for each pixel (H, W, 1) of the region, and its frame (H, W, 3)."""


def _layer(dub: ChunkDub, reader: _FrameReader, position: float, region: _Region) -> _Layer | None:
    """The layer of a dub at a position in frames of the model; None where its weight is 0."""
    model_frame = math.floor(position)
    mask_frame = model_frame - dub.chunk.first
    weight = dub.chunk.weight(position) * dub.mask.opacity(mask_frame)
    if not weight:
        return None
    return weight * dub.mask.weights(mask_frame, region.height, region.width), reader.at(model_frame)


def _region(film: Film) -> _Region:
    film_height, film_width = film.info.height, film.info.width
    scale = max(film.size.height / film_height, film.size.width / film_width)
    height, width = min(film_height, round(film.size.height / scale)), min(film_width, round(film.size.width / scale))
    top, left = (film_height - height) // 2, (film_width - width) // 2
    edge_pixels = max(1.0, _EDGE_SHARE * min(height, width))
    weight_H = _edge_weights(height, edge_pixels, has_edge=height < film_height)
    weight_W = _edge_weights(width, edge_pixels, has_edge=width < film_width)
    is_whole = (height, width) == (film_height, film_width)
    return _Region(top, left, height, width, None if is_whole else (weight_H[:, None] * weight_W)[..., None])


def _edge_weights(side: int, edge_pixels: float, *, has_edge: bool) -> np.ndarray:
    from_start = np.arange(side, dtype=np.float32) + 1
    ramp = np.minimum(1.0, np.minimum(from_start, from_start[::-1]) / edge_pixels)
    return ramp if has_edge else np.ones(side, np.float32)


def _composite(frame_HWC: np.ndarray, layers: list[_Layer], region: _Region) -> np.ndarray:
    """A frame with the layers composited over it."""
    if not layers:
        return frame_HWC
    frame_HWC = frame_HWC.copy()
    if region.weight_HW1 is None and np.ndim(layers[0][0]) == 0 and layers[0][0] == 1.0:
        frame_HWC[region.slices] = layers[0][1]
        return frame_HWC
    source = frame_HWC[region.slices].astype(np.float32)
    region_weight = 1.0 if region.weight_HW1 is None else region.weight_HW1
    change = sum(weight * (dub_HWC - source) for weight, dub_HWC in layers)
    frame_HWC[region.slices] = np.clip(source + region_weight * change + 0.5, 0, 255).astype(np.uint8)
    return frame_HWC


def _mix(film: Film, block_NC: np.ndarray, start: int, voices: dict[ChunkDub, np.ndarray], gain: float) -> np.ndarray:
    """A block of the film's sound crossfaded with the dubs' speech, at equal power."""
    if not voices:
        return block_NC
    seconds_N = (start + np.arange(len(block_NC))) / film.info.sample_rate_hz
    weights = {dub: _speech_weight(film, dub, seconds_N) for dub in voices}
    total_N = np.sum(list(weights.values()), axis=0)
    norm_N = np.maximum(total_N, 1.0)
    mixed_NC = block_NC * np.sqrt(1.0 - total_N / norm_N)[:, None]
    for dub, voice_NC in voices.items():
        part_NC = _padded_slice(voice_NC, start - _samples(film, dub)[0], len(block_NC))
        mixed_NC += gain * part_NC * np.sqrt(weights[dub] / norm_N)[:, None]
    return mixed_NC.astype(np.float32)


def _speech_weight(film: Film, dub: ChunkDub, seconds_N: np.ndarray) -> np.ndarray:
    """Weight of a dub's sound at each moment, 0 to 1, before it is normalized with other dubs'."""
    speech_N = np.zeros(len(seconds_N))
    for begin, end in dub.speech:
        distance_N = np.maximum(begin - seconds_N, seconds_N - end)
        speech_N = np.maximum(speech_N, np.clip(1.0 - distance_N / FADE_SECONDS, 0.0, 1.0))
    fade_in, fade_out = ([film.seconds_at(frame) for frame in span] for span in (dub.chunk.fade_in, dub.chunk.fade_out))
    rising_N = (seconds_N - fade_in[0]) / max(fade_in[1] - fade_in[0], _CUT_SECONDS)
    falling_N = (fade_out[1] - seconds_N) / max(fade_out[1] - fade_out[0], _CUT_SECONDS)
    return speech_N * np.clip(rising_N, 0.0, 1.0) * np.clip(falling_N, 0.0, 1.0)


def _samples(film: Film, dub: ChunkDub) -> tuple[int, int]:
    """The samples of the film's own sound that a dub covers."""
    rate = film.info.sample_rate_hz
    return film.sample_at(dub.chunk.first, rate), film.sample_at(dub.chunk.last, rate)


def _with_start(blocks: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)


def _padded_slice(sound_NC: np.ndarray, start: int, length: int) -> np.ndarray:
    """`length` samples from `start`; silence where that is before or after the sound."""
    slice_NC = np.zeros((length, sound_NC.shape[1]), np.float32)
    low, high = max(0, start), min(len(sound_NC), start + length)
    if high > low:
        slice_NC[low - start : high - start] = sound_NC[low:high]
    return slice_NC


def _source_speech(film: Film, dubs: Sequence[ChunkDub]) -> Iterator[np.ndarray]:
    """The film's own sound where the dubs speak."""
    rate, active_dubs = film.info.sample_rate_hz, _ActiveDubs(dubs, lambda dub: _samples(film, dub))
    for start, block in _with_start(film.source_sound()):
        seconds_N = (start + np.arange(len(block))) / rate
        if active := active_dubs.between(start, start + len(block)):
            yield block[np.max([_speech_weight(film, dub, seconds_N) for dub in active], axis=0) > 0.5]


def _dubbed_speech(film: Film, dubs: Sequence[ChunkDub]) -> Iterator[np.ndarray]:
    rate = film.info.sample_rate_hz
    for dub in dubs:
        voice_NC, first = dub.sound(film, rate), _samples(film, dub)[0]
        yield voice_NC[_speech_weight(film, dub, (first + np.arange(len(voice_NC))) / rate) > 0.5]


def _record_peaks(blocks: Iterable[np.ndarray], peaks: list[float]) -> Iterator[np.ndarray]:
    for block in blocks:
        peaks.append(float(np.abs(block).max(initial=0.0)))
        yield block
