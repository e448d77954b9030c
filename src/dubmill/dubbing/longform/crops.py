"""The part of a film's picture that the model sees in a chunk: the middle, or a crop that follows the face.

A small face in a wide shot would get few of the model's pixels; a crop around it gives it more. Within one shot the crop does
not move, so the model sees the camera's motion and nothing else.

Axes: F frames at the model's rate, H height, W width, 4 box edges as x0, y0, x1, y1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.longform.chunks import Chunk
from dubmill.dubbing.longform.film import Film
from dubmill.faces import BlendMask
from dubmill.media.clips import Clip

FACE_SHARE = 0.5, 0.6  # of the crop's height and width that the face's way through the shot takes
MAX_ENLARGEMENT = 2.0  # of the film's pixels by the crop; a smaller crop holds no more to see
_MIN_ZOOM = 0.85  # a crop larger than this share of the largest one is made the largest


@dataclass(frozen=True)
class Crop:
    """A window of one size in stored pixels, with a place (first frame, top, left) for each shot of a chunk."""

    height: int
    width: int
    places: tuple[tuple[int, int, int], ...]

    def at(self, frame: int) -> tuple[int, int]:
        """Top and left in a frame, counted from the chunk's first."""
        index = bisect_right(self.places, frame, key=lambda place: place[0]) - 1
        return self.places[max(0, index)][1:]


def centre_crop(film: Film) -> Crop:
    """The largest window of the model's shape, in the middle of the picture."""
    height, width = _largest(film)
    stored = film.info.picture
    return Crop(height, width, ((0, _even((stored.height - height) / 2), _even((stored.width - width) / 2)),))


def face_crop(film: Film, chunk: Chunk, mask: BlendMask, shots: Sequence[int]) -> Crop:
    """A window in which the mask's face takes `FACE_SHARE` of the picture; the centre crop where there is no face."""
    boxes_F4 = mask.boxes_in(film.info.picture.height, film.info.picture.width)
    if not np.isfinite(boxes_F4).any():
        return centre_crop(film)
    cuts = [0, *(shot - chunk.first for shot in shots if chunk.first < shot < chunk.last)]
    spans = [_union(boxes_F4[first:last]) for first, last in zip(cuts, [*cuts[1:], len(boxes_F4)], strict=True)]
    height, width = _face_size(film, [span for span in spans if span is not None])
    places, last_place = [], None
    for cut, span in zip(cuts, spans, strict=True):
        place = _place(span, height, width, film) if span is not None else last_place
        if place is not None:
            places.append((cut, *place))
            last_place = place
    return Crop(height, width, tuple(places))


@dataclass
class CropReader:
    """Reads a film forward once and collects the crops of all chunks, whose frames may overlap."""

    film: Film
    chunks: Sequence[Chunk]
    crops: Sequence[Crop]

    def __post_init__(self) -> None:
        self._frames = self.film.stored_frames()
        self._sound = self.film.sound_window()
        self._next_frame = 0
        self._pending: dict[int, list[np.ndarray]] = {}

    def clip(self, index: int) -> Clip:
        """The clip of chunk `index`, which never decreases, at the model's size."""
        chunk = self.chunks[index]
        while self._next_frame < chunk.last and (frame_HWC := next(self._frames, None)) is not None:
            self._collect(frame_HWC, index)
            self._next_frame += 1
        return self.film.clip_of(np.stack(self._pending.pop(index)), self._sound, chunk.first, chunk.last)

    def _collect(self, frame_HWC: np.ndarray, first_index: int) -> None:
        for index in range(first_index, len(self.chunks)):
            chunk = self.chunks[index]
            if chunk.first > self._next_frame:
                break
            if self._next_frame < chunk.last:
                top, left = self.crops[index].at(self._next_frame - chunk.first)
                window = frame_HWC[top : top + self.crops[index].height, left : left + self.crops[index].width]
                self._pending.setdefault(index, []).append(resized(window, self.film.size))


def resized(frame_HWC: np.ndarray, size: ClipSize) -> np.ndarray:
    """A frame (H, W, 3) at the model's size, by antialiased bicubic interpolation."""
    if frame_HWC.shape[:2] == (size.height, size.width):
        return frame_HWC.copy()
    import torch
    from torch.nn.functional import interpolate

    frame_1CHW = torch.from_numpy(np.ascontiguousarray(frame_HWC)).permute(2, 0, 1)[None]
    scaled = interpolate(frame_1CHW, (size.height, size.width), mode="bicubic", antialias=True, align_corners=False)
    return scaled[0].permute(1, 2, 0).contiguous().numpy()


def _largest(film: Film) -> tuple[int, int]:
    """Height and width in stored pixels of the largest window of the model's shape."""
    stored = film.info.picture
    scale = max(film.size.height / stored.height, film.size.width / float(stored.width * stored.pixel_aspect))
    height = min(stored.height, round(film.size.height / scale))
    width = min(stored.width, round(film.size.width / scale / float(stored.pixel_aspect)))
    return _even_side(height, stored.height), _even_side(width, stored.width)


def _face_size(film: Film, spans: Sequence[np.ndarray]) -> tuple[int, int]:
    """Height and width of the window in which the largest of the spans takes at most `FACE_SHARE`."""
    largest_height, largest_width = _largest(film)
    shares = [((y1 - y0) / largest_height, (x1 - x0) / largest_width) for x0, y0, x1, y1 in spans]
    needed = max(max(high / FACE_SHARE[0], wide / FACE_SHARE[1]) for high, wide in shares)
    smallest = film.size.height / MAX_ENLARGEMENT / largest_height
    zoom = max(needed, min(1.0, smallest))
    if zoom > _MIN_ZOOM:
        return largest_height, largest_width
    return _even_side(round(zoom * largest_height), largest_height), _even_side(
        round(zoom * largest_width), largest_width
    )


def _place(span_4: np.ndarray, height: int, width: int, film: Film) -> tuple[int, int]:
    """Top and left of a window around the span's middle, inside the picture."""
    stored = film.info.picture
    top = min(max(0.0, (span_4[1] + span_4[3] - height) / 2), stored.height - height)
    left = min(max(0.0, (span_4[0] + span_4[2] - width) / 2), stored.width - width)
    return _even(top), _even(left)


def _union(boxes_F4: np.ndarray) -> np.ndarray | None:
    """The box around all boxes that are known."""
    known = boxes_F4[np.isfinite(boxes_F4).all(axis=1)]
    if not len(known):
        return None
    return np.concatenate([known[:, :2].min(axis=0), known[:, 2:].max(axis=0)])


def _even(position: float) -> int:
    """The even number at or below: where colour is subsampled a window begins at a pair of pixels."""
    return int(position) // 2 * 2


def _even_side(side: int, whole: int) -> int:
    return side if side >= whole else max(2, side // 2 * 2)
