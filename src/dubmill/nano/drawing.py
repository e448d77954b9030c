"""Draws anti-aliased shapes on numpy arrays: layers that are drawn once at twice the size and then moved by parts of a pixel.

Coordinates: x and y in [-1, 1], y down, of the picture's side. Axes: F frames, C colours, H rows, W columns; colours come
before rows because numpy is fastest along long inner axes. A layer's colours are premultiplied by its coverage (alpha).
"""

from __future__ import annotations

import numpy as np

Colour = tuple[float, float, float] | np.ndarray
Span = float | np.ndarray

PHASES = 4
"""A layer moves in steps of one pixel divided by this."""


def ellipse_cover(x: np.ndarray, y: np.ndarray, across: Span, down: Span, soft: float) -> np.ndarray:
    """Returns the coverage 0..1 of an ellipse with half axes `across` and `down` around the origin and an edge `soft` wide.

    The distance from the edge is k0 (k0 - 1) / k1 to the first order, with k0 = |p / r| and k1 = |p / r^2|. What is thinner than the
    edge is drawn as thick as the edge and as much paler.
    """
    thick = np.maximum(down, np.float32(soft))
    u, v = x / across, y / thick
    k0 = np.sqrt(u * u + v * v)
    u /= across
    v /= thick
    k1 = np.sqrt(u * u + v * v) + np.float32(1e-6)
    cover = np.clip(0.5 - k0 * (k0 - 1) / (k1 * np.float32(soft)), 0, 1)
    return cover if isinstance(down, float) and down >= soft else cover * (down / thick)


class Layer:
    """One RGBA picture, drawn at `scale` times the `size` of the frames.

    A shape at (x, y) is drawn `zoom` times as large at (zoom x, zoom y + drop).
    """

    def __init__(self, size: int, *, scale: int = 2, zoom: float = 1.0, drop: float = 0.0) -> None:
        self.size, self.scale, self.zoom, self.drop = size, scale, zoom, drop
        side = size * scale
        axis = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1).astype(np.float32)
        self.x_W, self.y_H = axis / np.float32(zoom), (axis[:, None] - np.float32(drop)) / np.float32(zoom)
        self.rgba_CHW = np.zeros((4, side, side), np.float32)
        self.pixel = 2.0 / size / zoom

    def window(self, x: float, y: float, reach_x: float, reach_y: float) -> tuple[slice, slice]:
        """Returns the rows and columns within reach of a point."""
        side = self.size * self.scale
        bounds = []
        for middle, reach, drop in ((y, reach_y, self.drop), (x, reach_x, 0.0)):
            first, last = (((middle + way * reach) * self.zoom + drop + 1) / 2 * side for way in (-1, 1))
            bounds.append(slice(max(0, int(first) - 2), max(0, min(side, int(last) + 3))))
        return bounds[0], bounds[1]

    def ellipse(
        self, x: float, y: float, across: float, down: float, *, turn: float = 0.0, soft: float = 1.0
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Returns the window and the coverage of an ellipse, rotated by `turn` radians, with an edge `soft` pixels wide."""
        reach = max(across, down) if turn else None
        soft = soft * self.pixel
        at = self.window(x, y, (reach or across) + soft, (reach or down) + soft)
        dx, dy = self.x_W[at[1]] - np.float32(x), self.y_H[at[0]] - np.float32(y)
        if turn:
            cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
        return at, ellipse_cover(dx + 0 * dy, dy + 0 * dx, across, down, soft)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, *, soft: float = 1.0
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Returns the window and the coverage of an upright rectangle."""
        width = soft * self.pixel
        at = self.window((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2 + width, (y1 - y0) / 2 + width)
        covers = [
            np.clip(0.5 + np.minimum(axis - low, high - axis) / width, 0, 1)
            for axis, low, high in ((self.x_W[at[1]], x0, x1), (self.y_H[at[0]], y0, y1))
        ]
        return at, covers[0] * covers[1]

    def paint(self, shape: tuple[tuple[slice, slice], np.ndarray], colour: Colour, *, strength: float = 1.0) -> None:
        """Blend a colour over the layer, and make it opaque there."""
        (rows, columns), cover_HW = shape
        cover_HW = cover_HW * np.float32(strength)
        for channel, value in enumerate((*np.asarray(colour, np.float32), np.float32(1))):
            target = self.rgba_CHW[channel, rows, columns]
            target += cover_HW * (value - target)

    def tint(self, shape: tuple[tuple[slice, slice], np.ndarray], colour: Colour, *, strength: float) -> None:
        """Blend a colour into the layer without a change of its coverage: light, blush or shadow."""
        (rows, columns), cover_HW = shape
        share_HW = cover_HW * np.float32(strength)
        for channel, value in enumerate(np.asarray(colour, np.float32)):
            target = self.rgba_CHW[channel, rows, columns]
            target += share_HW * (value * self.rgba_CHW[3, rows, columns] - target)

    def cut(self, shape: tuple[tuple[slice, slice], np.ndarray]) -> None:
        """Make the layer transparent where the shape is."""
        (rows, columns), cover_HW = shape
        self.rgba_CHW[:, rows, columns] *= 1 - cover_HW

    def light(self, field_HW: np.ndarray) -> None:
        """Multiply the colours by a field of the layer's size; no colour exceeds its coverage, since it is premultiplied."""
        self.rgba_CHW[:3] *= field_HW
        np.minimum(self.rgba_CHW[:3], self.rgba_CHW[3], out=self.rgba_CHW[:3])

    def small(self) -> np.ndarray:
        """Returns the layer (C, H, W) at the size of the frames, coverage last."""
        side, scale = self.size, self.scale
        return self.rgba_CHW.reshape(4, side, scale, side, scale).mean(axis=(2, 4))


class Sprite:
    """A layer at every sub-pixel offset; each offset is computed when it is first needed."""

    def __init__(self, layer: Layer) -> None:
        self.size = layer.size
        cover_HW = layer.rgba_CHW[3]
        self._top, bottom = _even_span(cover_HW.any(axis=1))
        self._left, right = _even_span(cover_HW.any(axis=0))
        cut_CHW = layer.rgba_CHW[:, self._top : bottom, self._left : right]
        self._sheet_CHW = np.pad(cut_CHW, ((0, 0), (2, 4), (2, 4)))
        self._phases: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _phase(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns colours (C, H, W) and transparency (H, W), moved across by `part` / PHASES of a pixel."""
        if part not in self._phases:
            picture_CHW = _halved(_halved(self._sheet_CHW, 0, axis=1), part, axis=2)
            self._phases[part] = picture_CHW[:3], 1 - picture_CHW[3]
        return self._phases[part]

    def put(self, frame_CHW: np.ndarray, across_steps: int) -> None:
        """Blend the layer into a frame, moved across by steps of 1 / PHASES pixel."""
        whole, part = divmod(across_steps, PHASES)
        colours_CHW, through_HW = self._phase(part)
        top, left = self._top // 2, self._left // 2 + whole
        y0, x0 = max(0, top), max(0, left)
        y1, x1 = min(self.size, top + through_HW.shape[0]), min(self.size, left + through_HW.shape[1])
        if y0 < y1 and x0 < x1:
            piece = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
            target_CHW = frame_CHW[:, y0:y1, x0:x1]
            target_CHW *= through_HW[piece]
            target_CHW += colours_CHW[:, *piece]


def _even_span(flags: np.ndarray) -> tuple[int, int]:
    """Returns the half-open span of the true flags, widened to whole pixels of the frame."""
    found = np.flatnonzero(flags)
    return (int(found[0]) // 2 * 2, -(-(int(found[-1]) + 1) // 2) * 2) if len(found) else (0, 2)


def _halved(sheet_CHW: np.ndarray, part: int, *, axis: int) -> np.ndarray:
    """Returns pairs along an axis averaged, sampled `part` / PHASES of a frame's pixel earlier, which moves the content later.

    The sheet's first two rows and columns are empty.
    """
    start = 2 - 2.0 * part / PHASES  # in rows or columns of the sheet
    whole, rest = int(start), np.float32(start - int(start))
    count = sheet_CHW.shape[axis] - 2

    def every_second(first: int) -> np.ndarray:
        kept = slice(first, first + count - 1, 2)
        return sheet_CHW[:, kept] if axis == 1 else sheet_CHW[:, :, kept]

    averaged = (1 - rest) * every_second(whole) + every_second(whole + 1)
    if rest:
        averaged += rest * every_second(whole + 2)
    averaged *= np.float32(0.5)
    return averaged
