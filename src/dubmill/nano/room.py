"""The room behind a puppet: a wall, a shelf, and a window in which the sun rises while the clip runs.

The sun, the sky and the light on the wall are the clock that tells the model where in a clip it is.
"""

from __future__ import annotations

import numpy as np

from dubmill.nano.drawing import Layer, ellipse_cover

FRAME_SIZE = 128

_NIGHT, _DAY = np.array([0.36, 0.3, 0.52], np.float32), np.array([0.5, 0.78, 0.98], np.float32)
_NIGHT_LOW, _DAY_LOW = np.array([0.98, 0.6, 0.42], np.float32), np.array([0.86, 0.94, 1.0], np.float32)
_SUN_LOW, _SUN_HIGH = np.array([1.0, 0.55, 0.25], np.float32), np.array([1.0, 0.93, 0.5], np.float32)
_HILL = (0.36, 0.55, 0.36)
_FRAME = (0.95, 0.93, 0.89)
_INNER, _OUTER, _TOP, _SILL = 0.5, 0.94, -0.92, 0.12
_SUN_X, _SUN_RADIUS = 0.81, 0.09
_SUN_FROM, _SUN_TO = 0.04, -0.78


def draw_room(wall: np.ndarray, sun_side: int, clock_F: np.ndarray) -> np.ndarray:
    """(F, C, H, W) the empty room at `clock_F`, 0 at sunrise and 1 in full daylight."""
    still_CHW, glass_HW = _still(wall, sun_side)
    clock_F = np.asarray(clock_F, np.float32)
    warm_FC = np.array([1.0, 0.9, 0.82], np.float32) + clock_F[:, None] * np.array([0.0, 0.1, 0.18], np.float32)
    lit_C2P = np.stack([still_CHW, still_CHW * _glow(sun_side)], axis=1).reshape(3, 2, -1)
    share_F2 = np.stack([0.62 + 0.34 * clock_F, 0.16 * clock_F], axis=1)
    frames_FCHW = np.empty((len(clock_F), 3, FRAME_SIZE, FRAME_SIZE), np.float32)
    for channel in range(3):
        lit_FP = (share_F2 * warm_FC[:, channel, None]) @ lit_C2P[channel]
        frames_FCHW[:, channel] = lit_FP.reshape(-1, FRAME_SIZE, FRAME_SIZE)
    rows, columns = (np.flatnonzero(glass_HW.any(axis=axis)) for axis in (1, 0))
    at = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    view_FCHW = frames_FCHW[:, :, at[0], at[1]]
    view_FCHW += glass_HW[at] * (_sky(at, sun_side, clock_F[:, None, None]) - view_FCHW)
    return frames_FCHW


def _still(wall: np.ndarray, sun_side: int) -> tuple[np.ndarray, np.ndarray]:
    """(C, H, W) what does not move, and (H, W) where the glass is."""
    layer = Layer(FRAME_SIZE)
    layer.fill(wall * np.float32(0.97))
    layer.light(1 - 0.07 * layer.y_H - 0.04 * layer.x_W * layer.x_W)
    side = float(sun_side)
    _shelf(layer, -side, wall)
    x0, x1 = sorted((side * (_INNER - 0.05), side * (_OUTER + 0.05)))
    layer.paint(layer.box(x0, _TOP - 0.05, x1, _SILL + 0.05, soft=1.5), _FRAME)
    layer.paint(
        layer.box(x0 - 0.03, _SILL + 0.04, x1 + 0.03, _SILL + 0.1, soft=1.5), np.array(_FRAME, np.float32) * 0.88
    )
    glass = Layer(FRAME_SIZE)
    x0, x1 = sorted((side * _INNER, side * _OUTER))
    glass.paint(glass.box(x0, _TOP, x1, _SILL, soft=1.5), (1, 1, 1))
    return layer.small()[:3], glass.small()[3]


def _shelf(layer: Layer, side: float, wall: np.ndarray) -> None:
    """A shelf with books and a plant, out of focus."""
    wood, x = np.array([0.55, 0.38, 0.25], np.float32), side * 0.78
    layer.paint(layer.box(x - 0.25, -0.12, x + 0.25, -0.06, soft=3), wood)
    layer.tint(layer.box(x - 0.25, -0.06, x + 0.25, 0.02, soft=6), wall * 0.75, strength=0.5)
    for place, (colour, high) in enumerate(
        (((0.75, 0.3, 0.28), 0.26), ((0.3, 0.45, 0.62), 0.3), ((0.85, 0.7, 0.4), 0.23))
    ):
        left = x - 0.2 + 0.075 * place
        layer.paint(layer.box(left, -0.12 - high, left + 0.062, -0.12, soft=3), colour)
    layer.paint(layer.box(x + 0.06, -0.24, x + 0.2, -0.12, soft=3), (0.8, 0.48, 0.34))
    for lean in (-0.5, 0.0, 0.5):
        layer.paint(layer.ellipse(x + 0.13 + 0.09 * lean, -0.34, 0.035, 0.13, turn=lean, soft=3), (0.28, 0.55, 0.3))


def _glow(sun_side: int) -> np.ndarray:
    """(H, W) how much daylight reaches a place on the wall."""
    axis = (np.arange(FRAME_SIZE, dtype=np.float32) + 0.5) / FRAME_SIZE * 2 - 1
    across = axis * np.float32(sun_side) - 0.72
    down = axis[:, None] + 0.3
    return np.exp(-(across * across + down * down) / 1.1)


def _sky(at: tuple[slice, slice], sun_side: int, clock_F11: np.ndarray) -> np.ndarray:
    """(F, C, h, w) sky, sun and hill."""
    axis = (np.arange(FRAME_SIZE, dtype=np.float32) + 0.5) / FRAME_SIZE * 2 - 1
    x_W, y_H1 = axis[at[1]], axis[at[0], None]
    low_H1, pixel = (y_H1 - _TOP) / (_SILL - _TOP), np.float32(2.0 / FRAME_SIZE)
    sun_y = _SUN_FROM + clock_F11 * (_SUN_TO - _SUN_FROM)
    dx, dy = x_W - np.float32(sun_side * _SUN_X) + 0 * y_H1 + 0 * sun_y, y_H1 - sun_y + 0 * x_W
    halo_FHW = 0.45 * np.exp(-(dx * dx + dy * dy) / np.float32(0.05))
    disc_FHW = ellipse_cover(dx, dy, _SUN_RADIUS, _SUN_RADIUS, 1.5 * pixel)
    hill_HW = ellipse_cover(x_W - sun_side * 0.55 + 0 * y_H1, y_H1 - 0.35 + 0 * x_W, 0.6, 0.42, 1.5 * pixel)
    sky_FCHW = np.empty((len(clock_F11), 3, *hill_HW.shape), np.float32)
    for channel in range(3):
        top, bottom, sun = (
            first[channel] + clock_F11 * (last[channel] - first[channel])
            for first, last in ((_NIGHT, _DAY), (_NIGHT_LOW, _DAY_LOW), (_SUN_LOW, _SUN_HIGH))
        )
        sky = top + low_H1 * (bottom - top) + 0 * x_W
        sky += halo_FHW * (sun - sky)
        sky += disc_FHW * (sun - sky)
        sky_FCHW[:, channel] = sky + hill_HW * (_HILL[channel] * (0.5 + 0.5 * clock_F11) - sky)
    return sky_FCHW
