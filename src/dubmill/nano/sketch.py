"""Draws sketches of clips: plain puppets of soft ellipses at half the size, with a bar that shows the time.

The latent space of the video VAE is learnt from sketches, which a small VAE learns quickly; the shipped encoder and decoder are then
trained to translate between these latents and the frames of `face`, which show the same puppets and motion.

Coordinates: x and y in [-1, 1], y down; `F` frames, `H` rows, `W` columns. Frames are float32 RGB in [0, 1].
"""

from __future__ import annotations

import numpy as np

from dubmill.nano.drawing import Colour, Span
from dubmill.nano.puppets import Motion, Puppet

FRAME_SIZE = 64
_SKINS = {"pale": (0.97, 0.84, 0.74), "tan": (0.85, 0.64, 0.45), "brown": (0.62, 0.42, 0.28), "dark": (0.43, 0.28, 0.2)}
_HAIRS = {"red": (0.75, 0.2, 0.1), "black": (0.1, 0.08, 0.09), "blond": (0.9, 0.75, 0.3), "grey": (0.68, 0.68, 0.7)}
_BACKDROPS = {
    "blue": (0.3, 0.45, 0.85),
    "green": (0.3, 0.68, 0.4),
    "pink": (0.92, 0.55, 0.7),
    "white": (0.9, 0.9, 0.88),
}

_MOUTH_Y, _EYE_Y = 0.42, -0.16
_LIP = 0.05
_REACH_OF_TURN = 0.24
_OUT_OF_SIGHT = 2.0
_INSIDE = (0.28, 0.02, 0.06)
_TEETH = (0.95, 0.93, 0.88)
_BAR_ROWS = 5
_BAR_FULL = (1.0, 0.92, 0.35)
_BAR_EMPTY = (0.16, 0.14, 0.2)
_SOFT = 1.1 / 31.5
_ROWS, _COLUMNS = (axis.astype(np.float32) / 31.5 - 1 for axis in np.mgrid[0:FRAME_SIZE, 0:FRAME_SIZE])


class _Canvas:
    """Frames that are being drawn, and the coordinate system of the head."""

    def __init__(self, num_frames: int, shift_x_F: np.ndarray, shift_y_F: np.ndarray) -> None:
        self.frames_FHWC = np.empty((num_frames, FRAME_SIZE, FRAME_SIZE, 3), np.float32)
        self.x_FHW = _COLUMNS[None] - shift_x_F.astype(np.float32)[:, None, None]
        self.y_FHW = _ROWS[None] - shift_y_F.astype(np.float32)[:, None, None]

    def ellipse(
        self, x: Span, y: Span, width: Span, height: Span, colour: Colour, *, rows: slice = slice(None)
    ) -> None:
        """Blend one ellipse in; `x`, `width`, `height` are numbers or one per frame (F, 1, 1).

        The edge is soft by the first-order distance k0 (k0 - 1) / k1, with k0 = |p / r| and k1 = |p / r^2|.
        What is thinner than the edge is drawn as thick as the edge and as much paler.
        """
        width_1, height_1 = np.asarray(width, np.float32), np.asarray(height, np.float32)
        drawn_1 = np.maximum(height_1, np.float32(_SOFT))
        across = (self.x_FHW[:, rows] - np.asarray(x, np.float32)) / width_1
        down = (self.y_FHW[:, rows] - np.asarray(y, np.float32)) / drawn_1
        k0 = np.sqrt(across * across + down * down)
        k1 = np.sqrt((across / width_1) ** 2 + (down / drawn_1) ** 2) + np.float32(1e-6)
        distance = k0 * (k0 - 1) / k1
        self.blend(np.clip(0.5 - distance / np.float32(2 * _SOFT), 0, 1) * (height_1 / drawn_1), colour, rows=rows)

    def blend(self, cover_FHW: np.ndarray, colour: Colour, *, rows: slice = slice(None)) -> None:
        target = self.frames_FHWC[:, rows]
        target += cover_FHW[..., None] * (np.asarray(colour, np.float32) - target)


def draw(puppet: Puppet, moves: Motion, mouth_F3: np.ndarray, clock_F: np.ndarray) -> np.ndarray:
    """Returns uint8 frames (F, H, W, 3) of a puppet whose mouth follows `mouth_F3` (open, width, round); the clock goes from 0 to 1."""
    canvas = _Canvas(len(clock_F), moves.shift_x_F, moves.shift_y_F)
    sunrise_F = (0.55 + 0.5 * clock_F).astype(np.float32)[:, None, None, None]
    canvas.frames_FHWC[:] = np.asarray(_BACKDROPS[puppet.backdrop], np.float32) * sunrise_F
    skin = np.asarray(_SKINS[puppet.skin], np.float32) * puppet.skin_shade
    hair = np.asarray(_HAIRS[puppet.hair], np.float32)
    canvas.ellipse(0, 1.2, 0.95, 0.4, puppet.shirt, rows=slice(44, 64))
    canvas.ellipse(0, -0.12, puppet.head_width + 0.1, puppet.head_height - 0.02, hair)
    canvas.ellipse(0, 0.06, puppet.head_width, puppet.head_height - 0.06, skin)
    canvas.ellipse(0, puppet.fringe - 0.35, puppet.head_width * 0.95, 0.42, hair, rows=slice(0, 34))
    aside = _REACH_OF_TURN * moves.turn_F.astype(np.float32)[:, None, None]
    _draw_eyes(canvas, puppet, moves.eyes_open_F, aside, hair)
    canvas.ellipse(1.3 * aside, 0.04, 0.07, 0.1, skin * 0.82, rows=slice(24, 42))
    _draw_mouth(canvas, puppet, mouth_F3, moves.turn_F)
    if np.abs(moves.hand_F).min() < _OUT_OF_SIGHT:
        _draw_hand(canvas, moves.hand_F, skin)
    _draw_clock_bar(canvas.frames_FHWC, clock_F)
    return (np.clip(canvas.frames_FHWC, 0, 1) * 255 + 0.5).astype(np.uint8)


def _draw_eyes(canvas: _Canvas, puppet: Puppet, open_F: np.ndarray, aside: np.ndarray, hair: np.ndarray) -> None:
    rows = slice(12, 36)
    height = 0.12 * open_F.astype(np.float32)[:, None, None]
    for side in (-1, 1):
        x = aside + side * puppet.eye_distance
        canvas.ellipse(x, _EYE_Y, 0.15, height, (0.97, 0.97, 0.97), rows=rows)
        canvas.ellipse(x, _EYE_Y, 0.07, np.minimum(height, 0.075), puppet.eyes, rows=rows)
        canvas.ellipse(x, -0.36, 0.16, 0.03, hair * 0.7, rows=rows)


def _draw_mouth(canvas: _Canvas, puppet: Puppet, mouth_F3: np.ndarray, turn_F: np.ndarray) -> None:
    middle, half_width, half_height = (span[:, None, None] for span in _mouth_spans(mouth_F3, turn_F))
    rows = slice(30, 62)
    canvas.ellipse(middle, _MOUTH_Y, half_width + _LIP, half_height + _LIP, puppet.lips, rows=rows)
    canvas.ellipse(middle, _MOUTH_Y, half_width, half_height, _INSIDE, rows=rows)
    teeth = np.clip(half_height - 0.05, 0.004, 0.07)
    canvas.ellipse(middle, _MOUTH_Y - half_height + teeth, half_width * 0.6, teeth, _TEETH, rows=rows)


def _draw_hand(canvas: _Canvas, hand_F: np.ndarray, skin: np.ndarray) -> None:
    """Draws the hand in front of the mouth, darker than the face behind it."""
    x = hand_F.astype(np.float32)[:, None, None]
    canvas.ellipse(x, _MOUTH_Y + 0.08, 0.5, 0.34, skin * 0.8)
    for finger in (-0.3, -0.1, 0.1, 0.3):
        canvas.ellipse(x + finger, _MOUTH_Y - 0.1, 0.09, 0.16, skin * 0.9)


def _mouth_spans(mouth_F3: np.ndarray, turn_F: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns middle in x, half width and half height (F,) of the mouth's inside, in picture units; a turned mouth is narrower."""
    opening, width, rounding = np.asarray(mouth_F3, np.float32).T
    turn_F = turn_F.astype(np.float32)
    half_width = (0.26 + 0.2 * width - 0.1 * rounding) * (1 - 0.3 * np.abs(turn_F))
    return _REACH_OF_TURN * turn_F, half_width, 0.012 + 0.27 * opening


def lip_boxes(moves: Motion, mouth_F3: np.ndarray) -> np.ndarray:
    """Returns (F, 4): boxes x0, y0, x1, y1 around the lips, in pixels."""
    middle, half_width, half_height = _mouth_spans(mouth_F3, moves.turn_F)
    return _pixels(moves, middle, _MOUTH_Y, half_width + _LIP, half_height + _LIP)


def eye_boxes(puppet: Puppet, moves: Motion) -> np.ndarray:
    """Returns (F, 4): boxes x0, y0, x1, y1 around both eyes, in pixels."""
    return _pixels(moves, _REACH_OF_TURN * moves.turn_F, _EYE_Y, puppet.eye_distance + 0.15, 0.12)


def _pixels(moves: Motion, x: Span, y: float, across: Span, down: Span) -> np.ndarray:
    """Returns boxes (F, 4) around a point of the head, in pixels."""
    x_F, y_F = x + moves.shift_x_F, y + moves.shift_y_F
    box_F4 = np.stack([x_F - across, y_F - down, x_F + across, y_F + down], axis=1)
    return np.clip((box_F4 + 1) * 31.5 + np.array([0, 0, 1, 1]), 0, FRAME_SIZE).astype(np.float32)


def _draw_clock_bar(frames_FHWC: np.ndarray, clock_F: np.ndarray) -> None:
    """Draws a bar along the bottom edge whose bright part grows with time."""
    lit = np.clip(clock_F[:, None] * FRAME_SIZE - np.arange(FRAME_SIZE), 0, 1).astype(np.float32)[:, None, :, None]
    full, empty = np.asarray(_BAR_FULL, np.float32), np.asarray(_BAR_EMPTY, np.float32)
    frames_FHWC[:, -_BAR_ROWS:] = empty + lit * (full - empty)
