"""Draws the frames of a clip: a puppet that sits still, its eyes that blink, and the mouth that speaks.

The sway of its motion is not shown: a small decoder draws sharp edges only where they stay in their place.

Coordinates: x and y in [-1, 1], y down; axes: F frames, C colours, H rows, W columns. While drawing, frames are float32 RGB in [0, 1].
"""

from __future__ import annotations

import numpy as np

from dubmill.nano.drawing import PHASES, Colour, Span, ellipse_cover
from dubmill.nano.portrait import DROP, EYE_Y, ZOOM, Looks, looks, portrait
from dubmill.nano.puppets import BACKDROPS, HAIRS, SKINS, Motion, Puppet
from dubmill.nano.room import FRAME_SIZE, draw_room

MOUTH_Y = 0.305
_LIP, _SMILE = 0.032, 0.35
_REACH_OF_TURN = 0.16
_OUT_OF_SIGHT = 2.0
_INSIDE, _TONGUE, _TEETH = (0.3, 0.06, 0.08), (0.83, 0.38, 0.38), (0.97, 0.96, 0.93)
_SCLERA, _LASH = (0.98, 0.98, 0.97), (0.16, 0.1, 0.1)
_PIXEL = 2.0 / FRAME_SIZE
_AXIS = ((np.arange(FRAME_SIZE) + 0.5) * _PIXEL - 1).astype(np.float32)


def draw(puppet: Puppet, moves: Motion, mouth_F3: np.ndarray, clock_F: np.ndarray) -> np.ndarray:
    """Returns uint8 frames (F, H, W, C) of a puppet whose mouth follows `mouth_F3` (open, width, round); the clock goes from 0 to 1."""
    skin = np.asarray(SKINS[puppet.skin], np.float32) * np.float32(puppet.skin_shade)
    hair = np.asarray(HAIRS[puppet.hair], np.float32)
    face = looks(puppet)
    frames_FCHW = draw_room(BACKDROPS[puppet.backdrop], face.sun_side, clock_F)
    parts = portrait(face, skin, hair)
    for frame_CHW in frames_FCHW:
        for part in (parts.back_hair, parts.body, parts.head):
            part.put(frame_CHW, 0)
    x_F = feature_shift(moves)
    _draw_eyes(frames_FCHW, face, x_F, moves, hair)
    _draw_nose(frames_FCHW, 1.3 * x_F, skin)
    _draw_mouth(frames_FCHW, np.asarray(puppet.lips, np.float32), mouth_F3, moves, x_F)
    for frame_CHW, across in zip(frames_FCHW, np.round(0.55 * x_F / _PIXEL * PHASES), strict=True):
        parts.front_hair.put(frame_CHW, int(across))
    if np.abs(moves.hand_F).min() < _OUT_OF_SIGHT:
        _draw_hand(frames_FCHW, moves.hand_F, skin)
    np.clip(frames_FCHW, 0, 1, out=frames_FCHW)
    frames_FCHW *= 255
    frames_FCHW += 0.5
    return np.ascontiguousarray(frames_FCHW.astype(np.uint8).transpose(0, 2, 3, 1))


def feature_shift(moves: Motion) -> np.ndarray:
    """Returns (F,): the distance in x of eyes, nose and mouth from the middle of the head, in picture units."""
    return ZOOM * _REACH_OF_TURN * moves.turn_F


class _Brush:
    """A rectangle of all frames with the coordinates of the feature that is drawn in it."""

    def __init__(
        self,
        frames_FCHW: np.ndarray,
        x_F: np.ndarray,
        middle: tuple[float, float],
        reach: tuple[float, float],
    ) -> None:
        bounds = []
        for shift_F, centre, wide, drop in ((0.0, middle[1], reach[1], DROP), (x_F, middle[0], reach[0], 0.0)):
            first = int((ZOOM * (centre - wide) + drop + float(np.min(shift_F)) + 1) / _PIXEL) - 1
            last = int((ZOOM * (centre + wide) + drop + float(np.max(shift_F)) + 1) / _PIXEL) + 2
            bounds.append(slice(max(0, min(FRAME_SIZE, first)), max(0, min(FRAME_SIZE, last))))
        self._target_FCHW = frames_FCHW[:, :, bounds[0], bounds[1]]
        zeros = np.zeros((len(x_F), *self._target_FCHW.shape[2:]), np.float32)
        x_F11 = np.asarray(x_F, np.float32)[:, None, None]
        self.x_FHW = (_AXIS[bounds[1]] - x_F11) / np.float32(ZOOM) - np.float32(middle[0]) + zeros
        self.y_FHW = (_AXIS[bounds[0], None] - np.float32(DROP)) / np.float32(ZOOM) - np.float32(middle[1]) + zeros

    def ellipse(self, across: Span, down: Span, *, x: Span = 0.0, y: Span = 0.0, soft: float = 1.0) -> np.ndarray:
        """Returns the coverage (F, h, w) of an ellipse; sizes are numbers or (F, 1, 1)."""
        across, down = np.asarray(across, np.float32), np.asarray(down, np.float32)
        return ellipse_cover(self.x_FHW - np.float32(x), self.y_FHW - np.float32(y), across, down, soft * _PIXEL / ZOOM)

    def blend(self, cover_FHW: np.ndarray, colour: Colour) -> None:
        """Blend a colour (C,) into the frames by its coverage."""
        for channel, value in enumerate(np.asarray(colour, np.float32)):
            target_FHW = self._target_FCHW[:, channel]
            target_FHW += cover_FHW * (value - target_FHW)

    def blend_stack(self, inside_FHW: np.ndarray, ground: Colour, layers: list[tuple[np.ndarray, Colour]]) -> None:
        """Blend `ground` and `layers` of coverage and colour into the frames, all of it only where `inside_FHW` is 1."""
        for channel in range(3):
            mixed = np.float32(ground[channel])
            for cover_FHW, colour in layers:
                mixed = mixed + cover_FHW * (np.float32(colour[channel]) - mixed)
            target_FHW = self._target_FCHW[:, channel]
            target_FHW += inside_FHW * (mixed - target_FHW)


def _draw_eyes(frames_FCHW: np.ndarray, face: Looks, x_F: np.ndarray, moves: Motion, hair: np.ndarray) -> None:
    size = face.eye_size
    height = size * (0.05 + 0.83 * np.clip(moves.eyes_open_F / 0.9 - 0.11, 0, 1).astype(np.float32)[:, None, None])
    gaze = (0.2 * _REACH_OF_TURN * moves.turn_F).astype(np.float32)[:, None, None]
    iris = np.asarray(face.iris, np.float32)
    for side in (-1, 1):
        brush = _Brush(frames_FCHW, x_F, (side * face.eye_distance, EYE_Y), (1.2 * size, 1.15 * size))
        brush.blend(brush.ellipse(1.12 * size, height * 1.02 + 0.012, y=-0.016), _LASH)
        rings = ((0.74, 0.6 * iris), (0.62, iris), (0.33, np.array(_LASH, np.float32) * 0.6))
        layers = [(brush.ellipse(share * size, share * size, x=gaze), colour) for share, colour in rings]
        spot = brush.ellipse(0.15 * size, 0.15 * size, x=gaze + 0.2 * size * face.sun_side, y=-0.24 * size)
        shade = 0.14 * np.clip(0.55 - 0.5 * brush.y_FHW / height, 0, 1)
        brush.blend_stack(brush.ellipse(size, height), _SCLERA, [*layers, (0.95 * spot, (1, 1, 1)), (shade, (0, 0, 0))])
        _draw_brow(frames_FCHW, face, x_F, side, hair)


def _draw_brow(frames_FCHW: np.ndarray, face: Looks, x_F: np.ndarray, side: int, hair: np.ndarray) -> None:
    size, middle = face.eye_size, (side * face.eye_distance, EYE_Y - 1.5 * face.eye_size)
    brush = _Brush(frames_FCHW, x_F, middle, (1.2 * size, 0.09))
    bend = 0.14 * side * brush.x_FHW + 2.4 * brush.x_FHW**2
    brush.blend(0.95 * brush.ellipse(1.1 * size, 0.024, y=bend), hair * 0.62)


def _draw_nose(frames_FCHW: np.ndarray, x_F: np.ndarray, skin: np.ndarray) -> None:
    brush = _Brush(frames_FCHW, x_F, (0.0, 0.095), (0.08, 0.07))
    brush.blend(0.75 * brush.ellipse(0.052, 0.034, y=0.012, soft=2.0), skin * 0.78)
    brush.blend(brush.ellipse(0.046, 0.032, soft=2.0), skin * np.array([1.03, 0.99, 0.97], np.float32))


def _draw_mouth(
    frames_FCHW: np.ndarray, lips: np.ndarray, mouth_F3: np.ndarray, moves: Motion, x_F: np.ndarray
) -> None:
    half_width_F, half_height_F = mouth_spans(mouth_F3, moves.turn_F)
    wide, high = (span_F[:, None, None] for span_F in (half_width_F, half_height_F))
    brush = _Brush(frames_FCHW, x_F, (0.0, MOUTH_Y), (0.33, 0.25))
    brush.y_FHW += np.float32(_SMILE) * brush.x_FHW**2  # raises the corners of the mouth
    brush.blend(brush.ellipse(wide + _LIP, high + _LIP), lips)
    brush.blend(0.3 * brush.ellipse(wide * 0.5, 0.012, y=high + _LIP * 0.45, soft=2.0), lips + (1 - lips) * 0.6)
    tongue = brush.ellipse(wide * 0.62, high * 0.6 + 0.004, y=high * 0.72)
    row = np.clip(0.5 - (brush.y_FHW + high - np.clip(high * 0.8, 0.0, 0.06)) / np.float32(_PIXEL / ZOOM), 0, 1)
    teeth = row * np.clip((high - 0.02) / 0.03, 0, 1)
    brush.blend_stack(brush.ellipse(wide, high), _INSIDE, [(tongue, _TONGUE), (teeth, _TEETH)])


def _draw_hand(frames_FCHW: np.ndarray, hand_F: np.ndarray, skin: np.ndarray) -> None:
    """Draw a hand in front of the mouth, darker than the face behind it."""
    brush = _Brush(frames_FCHW, hand_F, (0.0, MOUTH_Y + 0.06), (0.4, 0.36))
    brush.blend(brush.ellipse(0.32, 0.22), skin * 0.82)
    for finger in (-0.2, -0.07, 0.06, 0.19):
        brush.blend(brush.ellipse(0.062, 0.13, x=finger, y=-0.13), skin * 0.92)


def mouth_spans(mouth_F3: np.ndarray, turn_F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns half width and half height (F,) of the mouth's inside, in picture units; a turned mouth is narrower."""
    opening, width, rounding = np.asarray(mouth_F3, np.float32).T
    turn_F = turn_F.astype(np.float32)
    half_width = (0.165 + 0.12 * width - 0.062 * rounding) * (1 - 0.3 * np.abs(turn_F))
    return half_width, 0.008 + 0.165 * opening


def lip_boxes(moves: Motion, mouth_F3: np.ndarray) -> np.ndarray:
    """Returns (F, 4): boxes x0, y0, x1, y1 around the lips, in pixels."""
    half_width, half_height = mouth_spans(mouth_F3, moves.turn_F)
    across, down = half_width + _LIP, half_height + _LIP
    edges_F4 = np.stack([-across, MOUTH_Y - down - _SMILE * across**2, across, MOUTH_Y + down], axis=1)
    return _pixels(edges_F4, moves)


def eye_boxes(puppet: Puppet, moves: Motion) -> np.ndarray:
    """Returns (F, 4): boxes x0, y0, x1, y1 around both eyes without the brows, in pixels."""
    face = looks(puppet)
    across, down = face.eye_distance + 1.15 * face.eye_size, face.eye_size
    edges_4 = np.array([-across, EYE_Y - down, across, EYE_Y + down])
    return _pixels(np.tile(edges_4, (len(moves.turn_F), 1)), moves)


def _pixels(edges_F4: np.ndarray, moves: Motion) -> np.ndarray:
    """Returns boxes of the portrait's coordinates in pixels of the frames."""
    x_F, drop_F = feature_shift(moves), np.full(len(moves.turn_F), DROP)
    box_F4 = ZOOM * edges_F4 + np.stack([x_F, drop_F, x_F, drop_F], axis=1)
    return np.clip((box_F4 + 1) / _PIXEL, 0, FRAME_SIZE).astype(np.float32)
