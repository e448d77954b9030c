"""Draws a puppet's head, hair and shoulders as layers, once for each clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dubmill.nano.drawing import Layer, Sprite
from dubmill.nano.puppets import Puppet
from dubmill.nano.room import FRAME_SIZE

EYE_Y = -0.08
ZOOM, DROP = 1.5, -0.04
"""A portrait is drawn this many times as large as its own coordinates say, and this much lower."""

STYLE_OF_HAIR = {"red": "curly", "black": "short", "blond": "long", "grey": "tied"}
IRIS_OF_SKIN = {
    "pale": (0.2, 0.62, 0.35),
    "tan": (0.72, 0.5, 0.15),
    "brown": (0.5, 0.3, 0.14),
    "dark": (0.2, 0.5, 0.85),
}
SHIRT_OF_BACKDROP = {
    "blue": (0.85, 0.66, 0.26),
    "green": (0.78, 0.3, 0.36),
    "pink": (0.22, 0.68, 0.58),
    "white": (0.3, 0.42, 0.76),
}
_HEAD_OF_SKIN = {"pale": (0.46, 0.59), "tan": (0.5, 0.57), "brown": (0.48, 0.61), "dark": (0.44, 0.56)}
_EYES_OF_SKIN = {"pale": (0.2, 0.12), "tan": (0.22, 0.115), "brown": (0.21, 0.125), "dark": (0.205, 0.12)}
_SUN_OF_BACKDROP = {"blue": 1, "green": -1, "pink": 1, "white": -1}


@dataclass(frozen=True)
class Looks:
    """Shapes and colours of one puppet's portrait. All follow from its caption, each from one word of it."""

    style: str
    iris: tuple[float, float, float]
    sun_side: int
    head_width: float
    head_height: float
    eye_distance: float
    eye_size: float
    shirt: tuple[float, float, float]


def looks(puppet: Puppet) -> Looks:
    """Returns the looks of `puppet`."""
    width, height = _HEAD_OF_SKIN[puppet.skin]
    distance, size = _EYES_OF_SKIN[puppet.skin]
    return Looks(
        style=STYLE_OF_HAIR[puppet.hair],
        iris=IRIS_OF_SKIN[puppet.skin],
        sun_side=_SUN_OF_BACKDROP[puppet.backdrop],
        head_width=width,
        head_height=height,
        eye_distance=distance,
        eye_size=size,
        shirt=SHIRT_OF_BACKDROP[puppet.backdrop],
    )


@dataclass(frozen=True)
class Portrait:
    """The layers from back to front; eyes, nose and mouth are drawn between `head` and `front_hair`."""

    back_hair: Sprite
    body: Sprite
    head: Sprite
    front_hair: Sprite


def portrait(puppet: Looks, skin: np.ndarray, hair: np.ndarray) -> Portrait:
    """Returns the layers of `puppet`."""
    return Portrait(
        Sprite(_back_hair(puppet, hair)),
        Sprite(_body(puppet, skin)),
        Sprite(_head(puppet, skin)),
        Sprite(_front_hair(puppet, hair)),
    )


def _lit(layer: Layer, sun_side: int, strength: float) -> None:
    """Make the layer brighter towards the window and towards the top."""
    layer.light(1 + np.float32(strength) * (np.float32(sun_side) * layer.x_W - 0.6 * layer.y_H))


def _body(puppet: Looks, skin: np.ndarray) -> Layer:
    layer = Layer(FRAME_SIZE, zoom=ZOOM, drop=DROP)
    shirt = np.asarray(puppet.shirt, np.float32)
    layer.paint(layer.ellipse(0, 0.96, 0.76, 0.46), shirt)
    for side in (-1, 1):  # sleeves
        layer.tint(layer.ellipse(side * 0.62, 0.96, 0.16, 0.36, soft=10), shirt * 0.8, strength=0.7)
    layer.paint(layer.ellipse(0, 0.6, 0.27, 0.12), shirt * 0.72)
    layer.paint(layer.box(-0.17, 0.3, 0.17, 0.56), skin * 0.8)
    layer.paint(layer.ellipse(0, 0.56, 0.21, 0.1), skin * 0.8)
    _lit(layer, puppet.sun_side, 0.09)
    return layer


def _head(puppet: Looks, skin: np.ndarray) -> Layer:
    layer = Layer(FRAME_SIZE, zoom=ZOOM, drop=DROP)
    width, height = puppet.head_width, puppet.head_height
    for side in (-1, 1):  # ears
        layer.paint(layer.ellipse(side * (width - 0.005), 0.0, 0.075, 0.12), skin * 0.95)
        layer.paint(layer.ellipse(side * (width + 0.005), 0.005, 0.04, 0.075, soft=3), skin * 0.78)
    layer.paint(layer.ellipse(0, 0, width, height), skin)
    layer.paint(layer.ellipse(0, 0.24, width * 0.86, height * 0.62), skin)
    layer.tint(layer.ellipse(0, 0.52, 0.3, 0.14, soft=14), skin * 0.86, strength=0.5)
    layer.tint(layer.ellipse(-puppet.sun_side * width * 0.95, 0.05, 0.3, 0.6, soft=26), skin * 0.8, strength=0.6)
    for side in (-1, 1):  # cheeks
        blush = skin * np.array([1.04, 0.82, 0.8], np.float32)
        layer.tint(layer.ellipse(side * width * 0.62, 0.14, 0.11, 0.08, soft=10), blush, strength=0.5)
    _lit(layer, puppet.sun_side, 0.07)
    return layer


def _back_hair(puppet: Looks, hair: np.ndarray) -> Layer:
    layer = Layer(FRAME_SIZE, zoom=ZOOM, drop=DROP)
    width, height = puppet.head_width, puppet.head_height
    dark = hair * 0.78
    if puppet.style == "long":
        layer.paint(layer.ellipse(0, -0.12, width + 0.11, height + 0.06), dark)
        layer.paint(layer.box(-width - 0.11, -0.12, width + 0.11, 0.52, soft=2), dark)
        layer.paint(layer.ellipse(0, 0.52, width + 0.11, 0.22), dark)
    elif puppet.style == "curly":
        for angle in np.linspace(-0.62, 0.62, 11) * np.pi * 1.05:
            layer.paint(
                layer.ellipse(np.sin(angle) * (width + 0.06), -0.17 - np.cos(angle) * (height - 0.02), 0.16, 0.16), dark
            )
        layer.paint(layer.ellipse(0, -0.2, width + 0.06, height - 0.05), dark)
    elif puppet.style == "tied":
        layer.paint(layer.ellipse(0, -0.78, 0.19, 0.17), hair * 0.9)
        layer.paint(layer.ellipse(0, -0.14, width + 0.035, height - 0.01), dark)
    else:
        layer.paint(layer.ellipse(0, -0.14, width + 0.055, height), dark)
    _lit(layer, puppet.sun_side, 0.1)
    return layer


def _front_hair(puppet: Looks, hair: np.ndarray) -> Layer:
    """Returns hair over the upper part of the head, with an opening for the face."""
    layer = Layer(FRAME_SIZE, zoom=ZOOM, drop=DROP)
    width, height = puppet.head_width, puppet.head_height
    layer.paint(layer.ellipse(0, -0.13, width + 0.045, height - 0.005), hair)
    if puppet.style == "curly":
        for angle in np.linspace(-0.45, 0.45, 8) * np.pi:
            layer.paint(
                layer.ellipse(np.sin(angle) * (width - 0.02), -0.2 - np.cos(angle) * (height - 0.17), 0.13, 0.13), hair
            )
    layer.tint(
        layer.ellipse(puppet.sun_side * 0.16, -0.52, 0.2, 0.1, turn=0.25 * puppet.sun_side, soft=9),
        hair + (1 - hair) * 0.35,
        strength=0.7,
    )
    hairline = -0.3
    openings = {
        "short": ((0.12, hairline + 0.62, width * 1.02, 0.64), (-0.1, 0.36, width * 0.98, 0.62)),
        "long": ((width * 0.45, 0.32, width * 0.5, 0.66), (-width * 0.45, 0.32, width * 0.5, 0.66)),
        "curly": ((0, hairline + 0.53, width * 1.0, 0.6), (0, 0.5, width * 1.0, 0.62)),
        "tied": ((0, hairline + 0.55, width * 1.0, 0.64), (0, 0.5, width * 1.02, 0.66)),
    }[puppet.style]
    for x, y, across, down in openings:
        layer.cut(layer.ellipse(x, y, across, down))
    layer.cut(layer.box(-1, 0.34 if puppet.style == "long" else 0.02, 1, 1, soft=6))
    _lit(layer, puppet.sun_side, 0.1)
    return layer
