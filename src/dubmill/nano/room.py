"""Draws the room behind a puppet: a wall that the rising sun lights from one side.

The light is the visible clock: it tells the model the time within the clip.
"""

from __future__ import annotations

import numpy as np

from dubmill.nano.drawing import Layer

FRAME_SIZE = 128

_DAWN, _DAY = np.array([1.0, 0.84, 0.74], np.float32), np.array([1.0, 1.0, 1.0], np.float32)


def draw_room(wall: tuple[float, float, float], sun_side: int, clock_F: np.ndarray) -> np.ndarray:
    """Returns frames (F, C, H, W) of the empty room at `clock_F`, 0 at sunrise and 1 in full daylight."""
    layer = Layer(FRAME_SIZE, scale=1)
    shade_HW = 0.93 - 0.1 * layer.y_H - 0.05 * layer.x_W**2
    across = layer.x_W * np.float32(sun_side) - 0.9
    down = layer.y_H + 0.7
    glow_HW = np.exp(-(across * across + down * down) / 1.3)
    clock_F = np.asarray(clock_F, np.float32)
    light_FC = _DAWN + clock_F[:, None] * (_DAY - _DAWN)
    share_F2 = np.stack([0.56 + 0.34 * clock_F, 0.04 + 0.26 * clock_F], axis=1)
    lit_FHW = np.tensordot(share_F2, np.stack([shade_HW, shade_HW * glow_HW]), axes=1)
    return lit_FHW[:, None] * (light_FC * np.array(wall, np.float32))[:, :, None, None]
