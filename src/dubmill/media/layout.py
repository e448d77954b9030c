"""Planar YUV frames in a film's own pixel format, so that pixels that are not dubbed are never converted.

Axes: H height, W width. A frame is one flat array: the planes Y, U and V one after another, as FFmpeg's rawvideo has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_PLANAR = re.compile(r"yuv(420|422|444)p(?:(10|12)le)?")
_NEAREST = {"nv12": "yuv420p", "nv16": "yuv422p", "p010le": "yuv420p10le", "p210le": "yuv422p10le", "gray": "yuv420p"}


@dataclass(frozen=True)
class Colour:
    """Colour tags of a picture in FFmpeg's names, empty where a film states none; `range` is tv or pc."""

    matrix: str
    primaries: str
    transfer: str
    range: str

    @property
    def conversion(self) -> dict[str, str]:
        """Options of FFmpeg's filter `scale` that convert RGB to these colours; without a matrix, to BT.601."""
        names = {"bt2020nc": "bt2020", "bt470bg": "bt601", "smpte170m": "bt601", "": "bt601"}
        return {"out_color_matrix": names.get(self.matrix, self.matrix), "out_range": self.range or "tv"}

    @property
    def tags(self) -> dict[str, str]:
        """Options of FFmpeg's filter `setparams`, which tags frames without converting them."""
        keys = {"colorspace": self.matrix, "color_primaries": self.primaries, "color_trc": self.transfer}
        return {key: value for key, value in (keys | {"range": self.range}).items() if value}


BT709 = Colour("bt709", "bt709", "bt709", "tv")


@dataclass(frozen=True)
class Layout:
    """Pixel format (FFmpeg's name) and size of the frames of a film."""

    pixel_format: str
    height: int
    width: int

    @property
    def bits(self) -> int:
        """Bits of one value."""
        return int(self._parts()[2] or 8)

    @property
    def dtype(self) -> np.dtype:
        """Type of one value."""
        return np.dtype("u1" if self.bits == 8 else "<u2")

    @property
    def steps(self) -> tuple[int, int]:
        """Rows and columns of pixels that share one value of colour."""
        sampling = self._parts()[1]
        return (2 if sampling == "420" else 1), (1 if sampling == "444" else 2)

    @property
    def num_bytes(self) -> int:
        """Size of a frame."""
        return sum(height * width for height, width in self._shapes()) * self.dtype.itemsize

    @property
    def is_even(self) -> bool:
        """Whether no pixel at an edge has a value of colour of its own."""
        return self.height % self.steps[0] == 0 and self.width % self.steps[1] == 0

    def planes(self, frame_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Views (H, W) of Y, U and V; U and V are smaller where colour is subsampled."""
        planes, start = [], 0
        for height, width in self._shapes():
            planes.append(frame_N[start : start + height * width].reshape(height, width))
            start += height * width
        return planes[0], planes[1], planes[2]

    def even(self) -> Layout:
        """The next larger layout without odd edges."""
        rows, columns = self.steps
        return Layout(self.pixel_format, -(-self.height // rows) * rows, -(-self.width // columns) * columns)

    def with_even_sides(self, frame_N: np.ndarray) -> np.ndarray:
        """The frame in the layout of `even`: the last row or column of brightness is repeated, colour stays."""
        if self.is_even:
            return frame_N
        target = self.even()
        luma, *chroma = self.planes(frame_N)
        margins = ((0, target.height - self.height), (0, target.width - self.width))
        return np.concatenate([np.pad(luma, margins, mode="edge").ravel(), *(plane.ravel() for plane in chroma)])

    def _parts(self) -> tuple[str, str, str | None]:
        match = _PLANAR.fullmatch(self.pixel_format)
        assert match, "made by `nearest_format` only"
        return match[0], match[1], match[2]

    def _shapes(self) -> tuple[tuple[int, int], ...]:
        rows, columns = self.steps
        chroma = -(-self.height // rows), -(-self.width // columns)
        return (self.height, self.width), chroma, chroma


def nearest_format(pixel_format: str) -> str:
    """The planar YUV format that holds `pixel_format` without alpha; itself where it is one, whatever its range."""
    plain = pixel_format.replace("yuvj", "yuv").replace("yuva", "yuv")
    if _PLANAR.fullmatch(plain):
        return plain
    has_depth = re.search(r"(10|12|14|16|48|64)", plain)
    return _NEAREST.get(plain, "yuv444p10le" if has_depth else "yuv444p")
