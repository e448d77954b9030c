"""Puppets: who they are, how their head moves, and the mouth that speaks.

Coordinates: x and y in [-1, 1], y down; axes: F frames, H rows, W columns. Frames are float32 RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dubmill.nano.drawing import PHASES, Colour, Span, ellipse_cover
from dubmill.nano.portrait import EYE_Y, Portrait, portrait
from dubmill.nano.room import FRAME_SIZE, draw_room

__all__ = ["FRAME_RATE", "FRAME_SIZE"]

FRAME_RATE = 25.0

SKINS = {"pale": (0.98, 0.83, 0.72), "tan": (0.87, 0.66, 0.47), "brown": (0.64, 0.43, 0.29), "dark": (0.45, 0.3, 0.22)}
HAIRS = {"red": (0.76, 0.27, 0.12), "black": (0.14, 0.12, 0.14), "blond": (0.93, 0.76, 0.36), "grey": (0.7, 0.71, 0.74)}
STYLES = ("short", "long", "curly", "tied", "spiky")
BACKDROPS = {
    "blue": (0.4, 0.55, 0.85),
    "green": (0.45, 0.72, 0.5),
    "pink": (0.92, 0.62, 0.68),
    "white": (0.9, 0.88, 0.83),
}
IRISES = (
    (0.2, 0.5, 0.85),
    (0.2, 0.62, 0.35),
    (0.5, 0.3, 0.14),
    (0.55, 0.58, 0.62),
    (0.72, 0.5, 0.15),
    (0.5, 0.35, 0.72),
)

MOUTH_Y = 0.27
_LIP, _SMILE = 0.032, 0.35
_REACH_OF_TURN = 0.15
_OUT_OF_SIGHT = 2.0
_INSIDE, _TONGUE, _TEETH = (0.3, 0.06, 0.08), (0.83, 0.38, 0.38), (0.97, 0.96, 0.93)
_SCLERA, _LASH = (0.98, 0.98, 0.97), (0.16, 0.1, 0.1)
_PIXEL = 2.0 / FRAME_SIZE
_AXIS = ((np.arange(FRAME_SIZE) + 0.5) * _PIXEL - 1).astype(np.float32)


@dataclass(frozen=True)
class Puppet:
    """An identity: what the caption tells of it, and what only the eye sees."""

    voice: int
    skin: str
    hair: str
    style: str
    backdrop: str
    skin_shade: float
    shirt: tuple[float, float, float]
    iris: tuple[float, float, float]
    lips: tuple[float, float, float]
    head_width: float
    head_height: float
    eye_distance: float
    eye_size: float
    fringe: float
    sun_side: int

    def describe(self) -> str:
        """What a caption says of this puppet."""
        looks = f"{self.skin} skin, {self.style} {self.hair} hair and a {self.backdrop} room"
        return f"Puppet with voice {self.voice}, {looks}"


@dataclass(frozen=True)
class Motion:
    """Head position, eyelids, gaze, where the head looks and how far a hand is, over the frames of one clip, each (F,)."""

    shift_x_F: np.ndarray
    shift_y_F: np.ndarray
    eyes_open_F: np.ndarray
    gaze_F: np.ndarray
    turn_F: np.ndarray
    hand_F: np.ndarray


def puppet(seed: int, voices: tuple[int, ...]) -> Puppet:
    """The puppet of this seed, its voice one of `voices`."""
    rng = np.random.default_rng([seed, 11])
    return Puppet(
        voice=int(rng.choice(voices)),
        skin=str(rng.choice(list(SKINS))),
        hair=str(rng.choice(list(HAIRS))),
        style=str(rng.choice(STYLES)),
        backdrop=str(rng.choice(list(BACKDROPS))),
        skin_shade=float(rng.uniform(0.95, 1.03)),
        shirt=_shirt(rng),
        iris=IRISES[int(rng.integers(len(IRISES)))],
        lips=(float(rng.uniform(0.68, 0.86)), float(rng.uniform(0.26, 0.38)), float(rng.uniform(0.3, 0.4))),
        head_width=float(rng.uniform(0.44, 0.52)),
        head_height=float(rng.uniform(0.55, 0.62)),
        eye_distance=float(rng.uniform(0.19, 0.235)),
        eye_size=float(rng.uniform(0.115, 0.14)),
        fringe=float(rng.uniform(-1.0, 1.0)),
        sun_side=int(rng.choice([-1, 1])),
    )


def _shirt(rng: np.random.Generator) -> tuple[float, float, float]:
    """A colour that is neither grey nor glaring."""
    hue, low, high = rng.uniform(0, 6), rng.uniform(0.2, 0.4), rng.uniform(0.6, 0.85)
    ramp = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    red, green, blue = (float(low + (high - low) * part) for part in ramp)
    return red, green, blue


def motion(rng: np.random.Generator, times_F: np.ndarray, turn_F: np.ndarray, hand_F: np.ndarray) -> Motion:
    """A slow sway, one blink every second or so, and eyes that look aside once, at `times_F` seconds."""
    phase = rng.uniform(0, 2 * np.pi, 4)
    amount = rng.uniform(0.4, 1.0, 2)
    sway = 0.035 * np.sin(2 * np.pi * 0.35 * times_F + phase[0]) + 0.012 * np.sin(2 * np.pi * 0.8 * times_F + phase[1])
    nod = 0.022 * np.sin(2 * np.pi * 0.45 * times_F + phase[2])
    blinks = rng.uniform(0.1, 1) + np.array([0.0, 1.15, 2.3])
    lids = np.clip(1.35 - np.abs(times_F[:, None] - blinks) / 0.1, 0, 1).max(axis=1)
    glance = rng.uniform(-1, 1) * 0.5 * (1 + np.tanh((times_F - rng.uniform(0.4, 2.0)) / 0.04))
    return Motion(amount[0] * sway, amount[1] * nod, 1 - lids, glance + rng.uniform(-0.4, 0.4), turn_F, hand_F)


def draw(who: Puppet, moves: Motion, mouth_F3: np.ndarray, clock_F: np.ndarray) -> np.ndarray:
    """uint8 (F, H, W, C) frames of a puppet whose mouth follows `mouth_F3` (open, width, round), clock from 0 to 1."""
    skin = np.asarray(SKINS[who.skin], np.float32) * np.float32(who.skin_shade)
    hair = np.asarray(HAIRS[who.hair], np.float32)
    frames_FCHW = draw_room(np.asarray(BACKDROPS[who.backdrop], np.float32), who.sun_side, clock_F)
    parts = portrait(who, skin, hair)
    across_F, down_F = _steps(moves.shift_x_F), _steps(moves.shift_y_F)
    _put(frames_FCHW, parts, across_F, down_F)
    aside_F = features_aside(moves)
    x_F, y_F = across_F * _PIXEL / PHASES + aside_F, down_F * _PIXEL / PHASES
    _draw_eyes(frames_FCHW, who, x_F, y_F, moves, hair)
    _draw_nose(frames_FCHW, x_F + 0.3 * aside_F, y_F, skin)
    _draw_mouth(frames_FCHW, who, mouth_F3, moves, x_F, y_F)
    for frame_CHW, across, down in zip(frames_FCHW, across_F + _steps(0.55 * aside_F), down_F, strict=True):
        parts.front_hair.put(frame_CHW, int(across), int(down))
    if np.abs(moves.hand_F).min() < _OUT_OF_SIGHT:
        _draw_hand(frames_FCHW, moves.hand_F, skin)
    np.clip(frames_FCHW, 0, 1, out=frames_FCHW)
    frames_FCHW *= 255
    frames_FCHW += 0.5
    return np.ascontiguousarray(frames_FCHW.astype(np.uint8).transpose(0, 2, 3, 1))


def features_aside(moves: Motion) -> np.ndarray:
    """(F,) how far eyes, nose and mouth are from the head's middle; a head that sways looks a little where it goes."""
    return _REACH_OF_TURN * moves.turn_F + 0.5 * moves.shift_x_F


def _put(frames_FCHW: np.ndarray, parts: Portrait, across_F: np.ndarray, down_F: np.ndarray) -> None:
    """Hair behind, body, then head; the body goes half the head's way and does not nod."""
    for frame_CHW, across, down in zip(frames_FCHW, across_F, down_F, strict=True):
        parts.back_hair.put(frame_CHW, int(across), int(down))
        parts.body.put(frame_CHW, int(across) // 2, 0)
        parts.head.put(frame_CHW, int(across), int(down))


def _steps(shift_F: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(shift_F) / _PIXEL * PHASES).astype(int)


class _Brush:
    """A part of all frames, in coordinates of what is drawn there, and the colours that go into it."""

    def __init__(
        self,
        frames_FCHW: np.ndarray,
        x_F: np.ndarray,
        y_F: np.ndarray,
        middle: tuple[float, float],
        reach: tuple[float, float],
    ) -> None:
        bounds = []
        for shift_F, centre, wide in ((y_F, middle[1], reach[1]), (x_F, middle[0], reach[0])):
            first = int((centre + float(np.min(shift_F)) - wide + 1) / _PIXEL) - 1
            last = int((centre + float(np.max(shift_F)) + wide + 1) / _PIXEL) + 2
            bounds.append(slice(max(0, min(FRAME_SIZE, first)), max(0, min(FRAME_SIZE, last))))
        self._target_FCHW = frames_FCHW[:, :, bounds[0], bounds[1]]
        zeros = np.zeros((len(x_F), *self._target_FCHW.shape[2:]), np.float32)
        x_F, y_F = (np.asarray(shift_F, np.float32)[:, None, None] for shift_F in (x_F, y_F))
        self.x_FHW = _AXIS[bounds[1]] - np.float32(middle[0]) - x_F + zeros
        self.y_FHW = _AXIS[bounds[0], None] - np.float32(middle[1]) - y_F + zeros

    def ellipse(self, across: Span, down: Span, *, x: Span = 0.0, y: Span = 0.0, soft: float = 1.0) -> np.ndarray:
        """(F, h, w) cover; sizes are numbers or (F, 1, 1)."""
        across, down = np.float32(across), np.float32(down)
        return ellipse_cover(self.x_FHW - np.float32(x), self.y_FHW - np.float32(y), across, down, soft * _PIXEL)

    def blend(self, cover_FHW: np.ndarray, colour: Colour) -> None:
        """Lay a colour (C,) over the picture."""
        for channel, value in enumerate(np.asarray(colour, np.float32)):
            target_FHW = self._target_FCHW[:, channel]
            target_FHW += cover_FHW * (value - target_FHW)

    def blend_stack(self, inside_FHW: np.ndarray, ground: Colour, layers: list[tuple[np.ndarray, Colour]]) -> None:
        """Lay `layers` of cover and colour over `ground`, all of it seen only `inside_FHW`."""
        for channel in range(3):
            mixed = np.float32(ground[channel])
            for cover_FHW, colour in layers:
                mixed = mixed + cover_FHW * (np.float32(colour[channel]) - mixed)
            target_FHW = self._target_FCHW[:, channel]
            target_FHW += inside_FHW * (mixed - target_FHW)


def _draw_eyes(
    frames_FCHW: np.ndarray, who: Puppet, x_F: np.ndarray, y_F: np.ndarray, moves: Motion, hair: np.ndarray
) -> None:
    size = who.eye_size
    height = size * (0.05 + 0.83 * moves.eyes_open_F.astype(np.float32)[:, None, None])
    gaze = (0.22 * size * moves.gaze_F + 0.2 * _REACH_OF_TURN * moves.turn_F).astype(np.float32)[:, None, None]
    iris = np.asarray(who.iris, np.float32)
    for side in (-1, 1):
        brush = _Brush(frames_FCHW, x_F, y_F, (side * who.eye_distance, EYE_Y), (1.2 * size, 1.15 * size))
        brush.blend(brush.ellipse(1.12 * size, height * 1.02 + 0.012, y=-0.016), _LASH)
        rings = ((0.74, 0.6 * iris), (0.62, iris), (0.33, np.array(_LASH, np.float32) * 0.6))
        layers = [(brush.ellipse(share * size, share * size, x=gaze), colour) for share, colour in rings]
        spot = brush.ellipse(0.15 * size, 0.15 * size, x=gaze + 0.2 * size * who.sun_side, y=-0.24 * size)
        shade = 0.14 * np.clip(0.55 - 0.5 * brush.y_FHW / height, 0, 1)
        brush.blend_stack(brush.ellipse(size, height), _SCLERA, [*layers, (0.95 * spot, (1, 1, 1)), (shade, (0, 0, 0))])
        _draw_brow(frames_FCHW, who, (x_F, y_F), side, hair)


def _draw_brow(
    frames_FCHW: np.ndarray, who: Puppet, at: tuple[np.ndarray, np.ndarray], side: int, hair: np.ndarray
) -> None:
    size, middle = who.eye_size, (side * who.eye_distance, EYE_Y - 1.5 * who.eye_size)
    brush = _Brush(frames_FCHW, *at, middle, (1.2 * size, 0.09))
    bend = 0.14 * side * brush.x_FHW + 2.4 * brush.x_FHW**2
    brush.blend(0.95 * brush.ellipse(1.1 * size, 0.024, y=bend), hair * 0.62)


def _draw_nose(frames_FCHW: np.ndarray, x_F: np.ndarray, y_F: np.ndarray, skin: np.ndarray) -> None:
    brush = _Brush(frames_FCHW, x_F, y_F, (0.0, 0.085), (0.08, 0.07))
    brush.blend(0.75 * brush.ellipse(0.052, 0.034, y=0.012, soft=2.0), skin * 0.78)
    brush.blend(brush.ellipse(0.046, 0.032, soft=2.0), skin * np.array([1.03, 0.99, 0.97], np.float32))


def _draw_mouth(
    frames_FCHW: np.ndarray, who: Puppet, mouth_F3: np.ndarray, moves: Motion, x_F: np.ndarray, y_F: np.ndarray
) -> None:
    half_width_F, half_height_F = mouth_spans(mouth_F3, moves.turn_F)
    wide, high = (span_F[:, None, None] for span_F in (half_width_F, half_height_F))
    brush = _Brush(frames_FCHW, x_F, y_F, (0.0, MOUTH_Y), (0.31, 0.23))
    brush.y_FHW += np.float32(_SMILE) * brush.x_FHW**2  # the corners are up: a friendly mouth
    lips = np.asarray(who.lips, np.float32)
    brush.blend(brush.ellipse(wide + _LIP, high + _LIP), lips)
    brush.blend(0.3 * brush.ellipse(wide * 0.5, 0.012, y=high + _LIP * 0.45, soft=2.0), lips + (1 - lips) * 0.6)
    tongue = brush.ellipse(wide * 0.62, high * 0.6 + 0.004, y=high * 0.72)
    row = np.clip(0.5 - (brush.y_FHW + high - np.clip(high * 0.8, 0.0, 0.06)) / np.float32(_PIXEL), 0, 1)
    teeth = row * np.clip((high - 0.02) / 0.03, 0, 1)
    brush.blend_stack(brush.ellipse(wide, high), _INSIDE, [(tongue, _TONGUE), (teeth, _TEETH)])


def _draw_hand(frames_FCHW: np.ndarray, hand_F: np.ndarray, skin: np.ndarray) -> None:
    """Knuckles before the mouth, darker than the face behind them."""
    still_F = np.zeros(len(hand_F))
    brush = _Brush(frames_FCHW, hand_F, still_F, (0.0, MOUTH_Y + 0.06), (0.4, 0.36))
    brush.blend(brush.ellipse(0.32, 0.22), skin * 0.82)
    for finger in (-0.2, -0.07, 0.06, 0.19):
        brush.blend(brush.ellipse(0.062, 0.13, x=finger, y=-0.13), skin * 0.92)


def mouth_spans(mouth_F3: np.ndarray, turn_F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half width and half height (F,) of the mouth's inside, in picture units; a turned mouth is narrower."""
    opening, width, rounding = np.asarray(mouth_F3, np.float32).T
    turn_F = turn_F.astype(np.float32)
    half_width = (0.155 + 0.105 * width - 0.06 * rounding) * (1 - 0.3 * np.abs(turn_F))
    return half_width, 0.008 + 0.16 * opening


def mouth_boxes(moves: Motion, mouth_F3: np.ndarray) -> np.ndarray:
    """(F, 4) pixel boxes x0, y0, x1, y1 around the lips."""
    half_width, half_height = mouth_spans(mouth_F3, moves.turn_F)
    x, y = features_aside(moves) + moves.shift_x_F, MOUTH_Y + moves.shift_y_F
    across, down = half_width + _LIP, half_height + _LIP
    box_F4 = np.stack([x - across, y - down - _SMILE * across**2, x + across, y + down], axis=1)
    return np.clip((box_F4 + 1) / _PIXEL, 0, FRAME_SIZE).astype(np.float32)


def eyes_boxes(who: Puppet, moves: Motion) -> np.ndarray:
    """(F, 4) pixel boxes around both eyes, without the brows."""
    x, y = features_aside(moves) + moves.shift_x_F, EYE_Y + moves.shift_y_F
    across, down = who.eye_distance + 1.15 * who.eye_size, who.eye_size
    box_F4 = np.stack([x - across, y - down, x + across, y + down], axis=1)
    return np.clip((box_F4 + 1) / _PIXEL, 0, FRAME_SIZE).astype(np.float32)
