"""Draws puppets with soft ellipses: their appearance, the motion of the head, and the mouth that speaks.

Coordinates: x and y in [-1, 1], y down; `F` frames, `H` rows, `W` columns. Frames are float32 RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Span = float | np.ndarray
Colour = tuple[float, float, float] | np.ndarray

FRAME_SIZE = 64
FRAME_RATE = 12.5

SKINS = {"pale": (0.97, 0.84, 0.74), "tan": (0.85, 0.64, 0.45), "brown": (0.62, 0.42, 0.28), "dark": (0.43, 0.28, 0.2)}
HAIRS = {"red": (0.75, 0.2, 0.1), "black": (0.1, 0.08, 0.09), "blond": (0.9, 0.75, 0.3), "grey": (0.68, 0.68, 0.7)}
BACKDROPS = {"blue": (0.3, 0.45, 0.85), "green": (0.3, 0.68, 0.4), "pink": (0.92, 0.55, 0.7), "white": (0.9, 0.9, 0.88)}

_MOUTH_Y = 0.42
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


@dataclass(frozen=True)
class Puppet:
    """The voice and appearance of one puppet; captions name its voice, skin, hair and backdrop, the rest is only visible."""

    voice: int
    skin: str
    hair: str
    backdrop: str
    skin_shade: float
    shirt: tuple[float, float, float]
    eyes: tuple[float, float, float]
    lips: tuple[float, float, float]
    head_width: float
    head_height: float
    eye_distance: float
    fringe: float

    def describe(self) -> str:
        """Returns the description of this puppet in captions."""
        return f"Puppet with voice {self.voice}, {self.skin} skin, {self.hair} hair and a {self.backdrop} backdrop"


@dataclass(frozen=True)
class Motion:
    """Motion over the frames of one clip, each (F,): head position, eyelids, direction of the head, distance of a hand."""

    shift_x_F: np.ndarray
    shift_y_F: np.ndarray
    eyes_open_F: np.ndarray
    turn_F: np.ndarray
    hand_F: np.ndarray


def _colour(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in rng.uniform(low, high, 3))
    return red, green, blue


def draw_puppet(seed: int, num_voices: int) -> Puppet:
    """Returns the puppet of this seed."""
    rng = np.random.default_rng([seed, 11])
    return Puppet(
        voice=int(rng.integers(num_voices)),
        skin=str(rng.choice(list(SKINS))),
        hair=str(rng.choice(list(HAIRS))),
        backdrop=str(rng.choice(list(BACKDROPS))),
        skin_shade=float(rng.uniform(0.92, 1.05)),
        shirt=_colour(rng, 0.15, 0.9),
        eyes=_colour(rng, 0.0, 0.5),
        lips=(float(rng.uniform(0.6, 0.85)), float(rng.uniform(0.12, 0.3)), float(rng.uniform(0.2, 0.35))),
        head_width=float(rng.uniform(0.68, 0.84)),
        head_height=float(rng.uniform(0.84, 0.97)),
        eye_distance=float(rng.uniform(0.27, 0.38)),
        fringe=float(rng.uniform(-0.62, -0.45)),
    )


def motion(rng: np.random.Generator, times_F: np.ndarray, turn_F: np.ndarray, hand_F: np.ndarray) -> Motion:
    """Returns a slow sway and about one blink per second, at `times_F` seconds."""
    phase = rng.uniform(0, 2 * np.pi, 4)
    amount = rng.uniform(0.4, 1.0, 2)
    sway = 0.05 * np.sin(2 * np.pi * 0.35 * times_F + phase[0]) + 0.02 * np.sin(2 * np.pi * 0.8 * times_F + phase[1])
    nod = 0.03 * np.sin(2 * np.pi * 0.45 * times_F + phase[2])
    blinks = rng.uniform(0, 1) + np.array([0.0, 1.05, 2.1])
    lids = np.clip(1 - np.abs(times_F[:, None] - blinks) / 0.13, 0, 1).max(axis=1)
    return Motion(amount[0] * sway, amount[1] * nod, 1 - 0.9 * lids, turn_F, hand_F)


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


def draw(who: Puppet, moves: Motion, mouth_F3: np.ndarray, clock_F: np.ndarray) -> np.ndarray:
    """Returns (F, H, W, 3) frames of a puppet whose mouth follows `mouth_F3` (open, width, round); the clock goes from 0 to 1."""
    canvas = _Canvas(len(clock_F), moves.shift_x_F, moves.shift_y_F)
    sunrise_F = (0.55 + 0.5 * clock_F).astype(np.float32)[:, None, None, None]
    canvas.frames_FHWC[:] = np.asarray(BACKDROPS[who.backdrop], np.float32) * sunrise_F
    skin = np.asarray(SKINS[who.skin], np.float32) * who.skin_shade
    hair = np.asarray(HAIRS[who.hair], np.float32)
    canvas.ellipse(0, 1.2, 0.95, 0.4, who.shirt, rows=slice(44, 64))
    canvas.ellipse(0, -0.12, who.head_width + 0.1, who.head_height - 0.02, hair)
    canvas.ellipse(0, 0.06, who.head_width, who.head_height - 0.06, skin)
    canvas.ellipse(0, who.fringe - 0.35, who.head_width * 0.95, 0.42, hair, rows=slice(0, 34))
    aside = _REACH_OF_TURN * moves.turn_F.astype(np.float32)[:, None, None]
    _draw_eyes(canvas, who, moves.eyes_open_F, aside, hair)
    canvas.ellipse(1.3 * aside, 0.04, 0.07, 0.1, skin * 0.82, rows=slice(24, 42))
    _draw_mouth(canvas, who, mouth_F3, moves.turn_F)
    if np.abs(moves.hand_F).min() < _OUT_OF_SIGHT:
        _draw_hand(canvas, moves.hand_F, skin)
    _draw_clock_bar(canvas.frames_FHWC, clock_F)
    return np.clip(canvas.frames_FHWC, 0, 1)


def _draw_eyes(canvas: _Canvas, who: Puppet, open_F: np.ndarray, aside: np.ndarray, hair: np.ndarray) -> None:
    rows = slice(12, 36)
    height = 0.12 * open_F.astype(np.float32)[:, None, None]
    for side in (-1, 1):
        x = aside + side * who.eye_distance
        canvas.ellipse(x, -0.16, 0.15, height, (0.97, 0.97, 0.97), rows=rows)
        canvas.ellipse(x, -0.16, 0.07, np.minimum(height, 0.075), who.eyes, rows=rows)
        canvas.ellipse(x, -0.36, 0.16, 0.03, hair * 0.7, rows=rows)


def _draw_mouth(canvas: _Canvas, who: Puppet, mouth_F3: np.ndarray, turn_F: np.ndarray) -> None:
    middle, half_width, half_height = (span[:, None, None] for span in mouth_spans(mouth_F3, turn_F))
    rows = slice(30, 62)
    canvas.ellipse(middle, _MOUTH_Y, half_width + _LIP, half_height + _LIP, who.lips, rows=rows)
    canvas.ellipse(middle, _MOUTH_Y, half_width, half_height, _INSIDE, rows=rows)
    teeth = np.clip(half_height - 0.05, 0.004, 0.07)
    canvas.ellipse(middle, _MOUTH_Y - half_height + teeth, half_width * 0.6, teeth, _TEETH, rows=rows)


def _draw_hand(canvas: _Canvas, hand_F: np.ndarray, skin: np.ndarray) -> None:
    """Draws the hand in front of the mouth, darker than the face behind it."""
    x = hand_F.astype(np.float32)[:, None, None]
    canvas.ellipse(x, _MOUTH_Y + 0.08, 0.5, 0.34, skin * 0.8)
    for finger in (-0.3, -0.1, 0.1, 0.3):
        canvas.ellipse(x + finger, _MOUTH_Y - 0.1, 0.09, 0.16, skin * 0.9)


def mouth_spans(mouth_F3: np.ndarray, turn_F: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns middle in x, half width and half height (F,) of the mouth's inside, in picture units; a turned mouth is narrower."""
    opening, width, rounding = np.asarray(mouth_F3, np.float32).T
    turn_F = turn_F.astype(np.float32)
    half_width = (0.26 + 0.2 * width - 0.1 * rounding) * (1 - 0.3 * np.abs(turn_F))
    return _REACH_OF_TURN * turn_F, half_width, 0.012 + 0.27 * opening


def lip_boxes(moves: Motion, mouth_F3: np.ndarray) -> np.ndarray:
    """Returns (F, 4): boxes x0, y0, x1, y1 around the lips, in pixels."""
    middle, half_width, half_height = mouth_spans(mouth_F3, moves.turn_F)
    x, y = middle + moves.shift_x_F, _MOUTH_Y + moves.shift_y_F
    across, down = half_width + _LIP, half_height + _LIP
    box_F4 = np.stack([x - across, y - down, x + across, y + down], axis=1)
    return np.clip((box_F4 + 1) * 31.5 + np.array([0, 0, 1, 1]), 0, FRAME_SIZE).astype(np.float32)


def _draw_clock_bar(frames_FHWC: np.ndarray, clock_F: np.ndarray) -> None:
    """Draws a bar along the bottom edge whose bright part grows with time."""
    lit = np.clip(clock_F[:, None] * FRAME_SIZE - np.arange(FRAME_SIZE), 0, 1).astype(np.float32)[:, None, :, None]
    full, empty = np.asarray(_BAR_FULL, np.float32), np.asarray(_BAR_EMPTY, np.float32)
    frames_FHWC[:, -_BAR_ROWS:] = empty + lit * (full - empty)
