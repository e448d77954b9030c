"""Puppets and their motion, from seeds: what every drawing of one clip shares.

Lengths are in [-1, 1] of the picture's side, x to the right and y down; `F` frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

FRAME_RATE = 12.5
SKINS = {"pale": (0.98, 0.83, 0.72), "tan": (0.87, 0.66, 0.47), "brown": (0.64, 0.43, 0.29), "dark": (0.45, 0.3, 0.22)}
HAIRS = {"red": (0.76, 0.27, 0.12), "black": (0.14, 0.12, 0.14), "blond": (0.93, 0.76, 0.36), "grey": (0.7, 0.71, 0.74)}
BACKDROPS = {
    "blue": (0.4, 0.55, 0.85),
    "green": (0.45, 0.72, 0.5),
    "pink": (0.92, 0.62, 0.68),
    "white": (0.9, 0.88, 0.83),
}


@dataclass(frozen=True)
class Puppet:
    """The voice and appearance of one puppet. Captions name its voice, skin, hair and backdrop.

    Only sketches show its own shirt, eyes, sizes and fringe: frames take these from the caption's words (`portrait.looks`).
    """

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

    def cut(self, frames: slice) -> Motion:
        """Returns the motion of `frames` only."""
        return Motion(**{name: track_F[frames] for name, track_F in vars(self).items()})

    def still(self) -> Motion:
        """Returns the motion without the sway of the head."""
        return replace(self, shift_x_F=0 * self.shift_x_F, shift_y_F=0 * self.shift_y_F)


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


def neutral(puppet: Puppet) -> Puppet:
    """Returns `puppet` with middle sizes, and middle colours of shirt and eyes: what its frames do not show."""
    grey, dark = (0.525, 0.525, 0.525), (0.25, 0.25, 0.25)
    return replace(puppet, shirt=grey, eyes=dark, head_width=0.76, head_height=0.905, eye_distance=0.325, fringe=-0.535)


def motion(rng: np.random.Generator, times_F: np.ndarray, turn_F: np.ndarray, hand_F: np.ndarray) -> Motion:
    """Returns a slow sway and about one blink per second, at `times_F` seconds."""
    phase = rng.uniform(0, 2 * np.pi, 4)
    amount = rng.uniform(0.4, 1.0, 2)
    sway = 0.05 * np.sin(2 * np.pi * 0.35 * times_F + phase[0]) + 0.02 * np.sin(2 * np.pi * 0.8 * times_F + phase[1])
    nod = 0.03 * np.sin(2 * np.pi * 0.45 * times_F + phase[2])
    blinks = rng.uniform(0, 1) + np.array([0.0, 1.05, 2.1])
    lids = np.clip(1 - np.abs(times_F[:, None] - blinks) / 0.13, 0, 1).max(axis=1)
    return Motion(amount[0] * sway, amount[1] * nod, 1 - 0.9 * lids, turn_F, hand_F)


class Drawing(Protocol):
    """A way to draw clips; the modules `face` and `sketch` are two."""

    def draw(self, puppet: Puppet, moves: Motion, mouth_F3: np.ndarray, clock_F: np.ndarray) -> np.ndarray:
        """Returns uint8 frames (F, H, W, C); `mouth_F3` is opening, width and rounding, the clock goes from 0 to 1."""
        ...

    def lip_boxes(self, moves: Motion, mouth_F3: np.ndarray) -> np.ndarray:
        """Returns (F, 4): boxes x0, y0, x1, y1 around the lips, in pixels."""
        ...

    def eye_boxes(self, puppet: Puppet, moves: Motion) -> np.ndarray:
        """Returns (F, 4): boxes around both eyes, in pixels."""
        ...
