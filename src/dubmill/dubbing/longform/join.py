"""Joins the dubs of a film's chunks with the film, a frame and a block of sound at a time.

Picture: each dub is scaled to the crop that the model saw, converted to the film's own pixel format, and composited over the
film inside its blend mask. Values outside the mask are those of the film's decoder, bit by bit. Where the film has more
frames than the model, two frames of the dub are blended by time.
Sound: the dub is heard while it speaks, the film everywhere else, with equal-power crossfades.

Axes: H height, W width, N samples, C channels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dubmill import media
from dubmill.dubbing.longform.chunk_dubs import ChunkDub
from dubmill.dubbing.longform.film import Film

FADE_SECONDS = 0.03  # before and after speech
_DUCK_SECONDS = 0.25  # chosen: over which the background is lowered before speech, and rises after it
_CUT_SECONDS = 0.005  # between two dubs that do not overlap: too short to hear, long enough to avoid a click
_MAX_GAIN_DB = 12.0
_EDGE_SHARE = 1 / 32  # of the dubbed region's shorter side, over which it blends into what the model did not see


def picture(
    film: Film, dubs: Sequence[ChunkDub], layout: media.Layout, frames: Iterable[np.ndarray], start: int = 0
) -> Iterator[np.ndarray]:
    """The film's `frames` from number `start` on, flat arrays in `layout` at its own rate, with the dubs composited over them."""
    readers: dict[ChunkDub, _FrameReader] = {}
    active_dubs = _ActiveDubs(dubs, lambda dub: (dub.chunk.first, dub.chunk.last))
    for index, frame in enumerate(frames, start):
        position = index / film.info.frame_rate * film.size.frame_rate
        model_frame = math.floor(position)
        active = active_dubs.between(model_frame, model_frame + 1)
        readers = {dub: readers.get(dub) or _FrameReader(film, dub, layout) for dub in active}
        layers = [_layer(dub, reader, float(position), layout) for dub, reader in readers.items()]
        yield composite(frame, [layer for layer in layers if layer], layout)


def joined_sound(film: Film, dubs: Sequence[ChunkDub], gain: float, duck_db: float = 0.0) -> Iterator[np.ndarray]:
    """The film's sound in blocks (N, C), at its own rate, with the dubs' speech, multiplied by `gain`, in it.

    The film's background is lowered by `duck_db` while they speak.
    """
    rate = film.info.sample_rate_hz
    voices: dict[ChunkDub, np.ndarray] = {}
    active_dubs = _ActiveDubs(dubs, lambda dub: _samples(film, dub))
    for start, block, background in film.sound_parts():
        active = active_dubs.between(start, start + len(block))
        voices = {dub: voices[dub] if dub in voices else dub.sound(film, rate) for dub in active}
        if not voices:
            yield block
            continue
        speech = _mix(film, block - background, start, voices, gain)
        yield speech + background * _ducking(film, voices, start, len(block), duck_db)[:, None]


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


class _FrameReader:
    """Reads the frames of a dub forward, in the size of its crop and the film's pixel format."""

    def __init__(self, film: Film, dub: ChunkDub, layout: media.Layout) -> None:
        self.layout = replace(layout, height=dub.crop.height, width=dub.crop.width)
        self._frames = media.converted_frames(dub.path, self.layout, film.colour)
        self._first, self._last_index = dub.chunk.first, dub.chunk.last - 1
        self._next_index = dub.chunk.first
        self._recent: dict[int, np.ndarray] = {}
        self._is_blended = film.info.frame_rate > film.size.frame_rate
        self._places = dub.crop

    def at(self, position: float) -> np.ndarray:
        """The frame at a position in model frames, which never decreases; past the end, the last one.

        Between two frames they are blended where the film has more frames than the model, else the nearer one is taken;
        never across a change of the crop's place, which is a change of shot.
        """
        index = math.floor(position) if self._is_blended else round(position)
        share = position - index if self._is_blended else 0.0
        before = self._frame(index)
        if share < 1e-6 or self._places.at(index - self._first) != self._places.at(index + 1 - self._first):
            return before
        after = self._frame(index + 1)
        mixed = before + np.float32(share) * (after.astype(np.float32) - before)
        return np.rint(mixed).astype(before.dtype)

    def _frame(self, index: int) -> np.ndarray:
        index = min(max(index, self._first), self._last_index)
        while self._next_index <= index:
            frame = next(self._frames, self._recent.get(self._next_index - 1))
            assert frame is not None, "a dub has at least one frame, and `index` is not before the chunk"
            self._recent[self._next_index] = frame
            self._recent.pop(self._next_index - 3, None)
            self._next_index += 1
        return self._recent[index]


@dataclass(frozen=True)
class Layer:
    """A dub in one frame: `weight_HW` on rows and columns of the film, and the dub's values in that window, by plane."""

    rows: slice
    columns: slice
    weight_HW: np.ndarray
    planes: tuple[np.ndarray, ...]


def _layer(dub: ChunkDub, reader: _FrameReader, position: float, layout: media.Layout) -> Layer | None:
    """The layer of a dub at a position in frames of the model; None where its weight is 0."""
    model_frame = math.floor(position)
    mask_frame = model_frame - dub.chunk.first
    weight = dub.chunk.weight(position) * dub.mask.opacity(mask_frame)
    if not weight:
        return None
    top, left = dub.crop.at(mask_frame)
    edge_HW = _crop_weights(dub.crop.height, dub.crop.width, top, left, layout)
    rows, columns = slice(top, top + dub.crop.height), slice(left, left + dub.crop.width)
    if len(dub.mask.face_boxes_F4):
        window, mask_HW = dub.mask.window(position - dub.chunk.first, layout.height, layout.width)
        rows, columns, mask_HW = _intersection((rows, columns), window, mask_HW, layout)
        if not mask_HW.size:
            return None
        weight_HW = weight * mask_HW * edge_HW[_shifted(rows, top), _shifted(columns, left)]
    else:
        weight_HW = edge_HW if weight == 1 else weight * edge_HW
    luma, *chroma = reader.layout.planes(reader.at(position))
    fine = _shifted(rows, top), _shifted(columns, left)
    of_chroma = tuple(coarse(span, step) for span, step in zip(fine, layout.steps, strict=True))
    return Layer(
        rows, columns, weight_HW.astype(np.float32, copy=False), (luma[fine], *(plane[of_chroma] for plane in chroma))
    )


def composite(frame_N: np.ndarray, layers: Sequence[Layer], layout: media.Layout) -> np.ndarray:
    """A flat frame with the layers composited over it; values where every weight is 0 stay as they are."""
    if not layers:
        return frame_N
    result_N = frame_N.copy()
    step_y, step_x = layout.steps
    for layer in layers:
        coarse_HW = _coarse_weights(layer.weight_HW, step_y, step_x)
        coarse_window = coarse(layer.rows, step_y), coarse(layer.columns, step_x), coarse_HW
        windows = [(layer.rows, layer.columns, layer.weight_HW), coarse_window, coarse_window]
        planes = zip(layout.planes(frame_N), layout.planes(result_N), layer.planes, windows, strict=True)
        for source_HW, result_HW, dub_HW, (*window, weight_HW) in planes:
            values = source_HW[*window], result_HW[*window], dub_HW, weight_HW
            for rows, is_opaque in _row_spans(weight_HW, len(layers) == 1):
                source, result, dub, weight = (value[rows] for value in values)
                _blend(source, result, dub, weight, 2**layout.bits - 1, is_opaque)
    return result_N


def _row_spans(weight_HW: np.ndarray, is_only: bool) -> list[tuple[slice, bool]]:
    """Rows of a weight, and whether the only layer covers them wholly, so that they need no arithmetic."""
    opaque = np.flatnonzero(weight_HW.min(axis=1) == 1) if is_only else np.empty(0, int)
    if not len(opaque) or len(opaque) != opaque[-1] - opaque[0] + 1:
        return [(slice(None), False)]
    first, stop = int(opaque[0]), int(opaque[-1]) + 1
    return [(slice(first), False), (slice(first, stop), True), (slice(stop, None), False)]


def _blend(
    source_HW: np.ndarray,
    result_HW: np.ndarray,
    dub_HW: np.ndarray,
    weight_HW: np.ndarray,
    maximum: int,
    is_opaque: bool,
) -> None:
    """Composite values of a dub over `result_HW`, in place."""
    if is_opaque:
        result_HW[:] = dub_HW
        return
    change_HW = np.rint(weight_HW * (dub_HW - source_HW.astype(np.float32)))
    result_HW[:] = np.clip(result_HW + change_HW, 0, maximum)


def _intersection(
    crop: tuple[slice, slice], window: tuple[slice, slice], mask_HW: np.ndarray, layout: media.Layout
) -> tuple[slice, slice, np.ndarray]:
    """Rows and columns of a mask's window inside the crop, widened to whole values of colour, and the mask there."""
    spans = []
    for inner, outer, step, side in zip(window, crop, layout.steps, (layout.height, layout.width), strict=True):
        low = max(outer.start, inner.start // step * step)
        high = min(outer.stop, -(-inner.stop // step) * step, side)
        spans.append(slice(low, max(low, high)))
    rows, columns = spans
    whole_HW = np.zeros((max(0, rows.stop - rows.start), max(0, columns.stop - columns.start)), np.float32)
    top, bottom = max(rows.start, window[0].start), min(rows.stop, window[0].stop)
    left, right = max(columns.start, window[1].start), min(columns.stop, window[1].stop)
    if bottom > top and right > left:
        part = mask_HW[
            top - window[0].start : bottom - window[0].start, left - window[1].start : right - window[1].start
        ]
        whole_HW[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = part
    return rows, columns, whole_HW


@lru_cache(maxsize=2)  # a crop stands still within a shot
def _crop_weights(height: int, width: int, top: int, left: int, layout: media.Layout) -> np.ndarray:
    """The dub's weight (H, W) in its crop: soft at edges beyond which the film goes on."""
    edge_pixels = max(1.0, _EDGE_SHARE * min(height, width))
    weight_H = _edge_weights(height, edge_pixels, top > 0, top + height < layout.height)
    weight_W = _edge_weights(width, edge_pixels, left > 0, left + width < layout.width)
    return weight_H[:, None] * weight_W


def _edge_weights(side: int, edge_pixels: float, has_start: bool, has_end: bool) -> np.ndarray:
    ramp = np.minimum(1.0, (np.arange(side, dtype=np.float32) + 1) / edge_pixels)
    ones = np.ones(side, np.float32)
    return (ramp if has_start else ones) * (ramp[::-1] if has_end else ones)


def coarse(span: slice, step: int) -> slice:
    """The values of colour that belong to rows or columns; `span` begins at a multiple of `step`."""
    return slice(span.start // step, -(-span.stop // step))


def _coarse_weights(weight_HW: np.ndarray, step_y: int, step_x: int) -> np.ndarray:
    """The mean weight of the pixels that share a value of colour."""
    height, width = weight_HW.shape
    margins = (0, -height % step_y), (0, -width % step_x)
    padded = np.pad(weight_HW, margins, mode="edge") if any(map(any, margins)) else weight_HW
    parts = [padded[row::step_y, column::step_x] for row in range(step_y) for column in range(step_x)]
    return np.sum(parts, axis=0) / np.float32(len(parts))


def _shifted(span: slice, start: int) -> slice:
    return slice(span.start - start, span.stop - start)


def _mix(film: Film, block_NC: np.ndarray, start: int, voices: dict[ChunkDub, np.ndarray], gain: float) -> np.ndarray:
    """A block of the film's speech crossfaded with the dubs' speech, at equal power."""
    seconds_N = (start + np.arange(len(block_NC))) / film.info.sample_rate_hz
    weights = {dub: _speech_weight(film, dub, seconds_N) for dub in voices}
    total_N = np.sum(list(weights.values()), axis=0)
    norm_N = np.maximum(total_N, 1.0)
    mixed_NC = block_NC * np.sqrt(1.0 - total_N / norm_N)[:, None]
    for dub, voice_NC in voices.items():
        part_NC = _padded_slice(voice_NC, start - _samples(film, dub)[0], len(block_NC))
        mixed_NC += gain * part_NC * np.sqrt(weights[dub] / norm_N)[:, None]
    return mixed_NC.astype(np.float32)


def _ducking(film: Film, dubs: Iterable[ChunkDub], start: int, length: int, duck_db: float) -> np.ndarray:
    """The factor (N,) of the film's background where the dubs speak, with slow slopes before and after their speech."""
    if not duck_db:
        return np.ones(length, np.float32)
    seconds_N = (start + np.arange(length)) / film.info.sample_rate_hz
    speech_N = np.max([_speech_weight(film, dub, seconds_N, _DUCK_SECONDS) for dub in dubs], axis=0)
    return (10 ** (-duck_db / 20 * speech_N)).astype(np.float32)


def _speech_weight(film: Film, dub: ChunkDub, seconds_N: np.ndarray, slope_seconds: float = FADE_SECONDS) -> np.ndarray:
    """Weight of a dub's sound at each moment, 0 to 1, before it is normalized with other dubs'."""
    speech_N = np.zeros(len(seconds_N))
    for begin, end in dub.speech:
        distance_N = np.maximum(begin - seconds_N, seconds_N - end)
        speech_N = np.maximum(speech_N, np.clip(1.0 - distance_N / slope_seconds, 0.0, 1.0))
    fade_in, fade_out = ([film.seconds_at(frame) for frame in span] for span in (dub.chunk.fade_in, dub.chunk.fade_out))
    rising_N = (seconds_N - fade_in[0]) / max(fade_in[1] - fade_in[0], _CUT_SECONDS)
    falling_N = (fade_out[1] - seconds_N) / max(fade_out[1] - fade_out[0], _CUT_SECONDS)
    return speech_N * np.clip(rising_N, 0.0, 1.0) * np.clip(falling_N, 0.0, 1.0)


def _samples(film: Film, dub: ChunkDub) -> tuple[int, int]:
    """The samples of the film's own sound that a dub covers."""
    rate = film.info.sample_rate_hz
    return film.sample_at(dub.chunk.first, rate), film.sample_at(dub.chunk.last, rate)


def _padded_slice(sound_NC: np.ndarray, start: int, length: int) -> np.ndarray:
    """`length` samples from `start`; silence where that is before or after the sound."""
    slice_NC = np.zeros((length, sound_NC.shape[1]), np.float32)
    low, high = max(0, start), min(len(sound_NC), start + length)
    if high > low:
        slice_NC[low - start : high - start] = sound_NC[low:high]
    return slice_NC


def _source_speech(film: Film, dubs: Sequence[ChunkDub]) -> Iterator[np.ndarray]:
    """The film's own speech where the dubs speak."""
    rate, active_dubs = film.info.sample_rate_hz, _ActiveDubs(dubs, lambda dub: _samples(film, dub))
    for start, block, background in film.sound_parts():
        seconds_N = (start + np.arange(len(block))) / rate
        if active := active_dubs.between(start, start + len(block)):
            speech = block - background
            yield speech[np.max([_speech_weight(film, dub, seconds_N) for dub in active], axis=0) > 0.5]


def _dubbed_speech(film: Film, dubs: Sequence[ChunkDub]) -> Iterator[np.ndarray]:
    rate = film.info.sample_rate_hz
    for dub in dubs:
        voice_NC, first = dub.sound(film, rate), _samples(film, dub)[0]
        yield voice_NC[_speech_weight(film, dub, (first + np.arange(len(voice_NC))) / rate) > 0.5]


def _record_peaks(blocks: Iterable[np.ndarray], peaks: list[float]) -> Iterator[np.ndarray]:
    for block in blocks:
        peaks.append(float(np.abs(block).max(initial=0.0)))
        yield block
