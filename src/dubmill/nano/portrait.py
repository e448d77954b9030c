"""A puppet's head, hair and shoulders as layers, drawn once for a film."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dubmill.nano.drawing import Layer, Sprite
from dubmill.nano.room import FRAME_SIZE

if TYPE_CHECKING:
    from dubmill.nano.face import Puppet

EYE_Y = -0.08
HEAD_Y = -0.07


@dataclass(frozen=True)
class Portrait:
    """The layers from back to front; eyes, nose and mouth go between `head` and `front_hair`."""

    back_hair: Sprite
    body: Sprite
    head: Sprite
    front_hair: Sprite


def portrait(who: Puppet, skin: np.ndarray, hair: np.ndarray) -> Portrait:
    """Draw the layers of `who`."""
    return Portrait(
        Sprite(_back_hair(who, hair)),
        Sprite(_body(who, skin)),
        Sprite(_head(who, skin)),
        Sprite(_front_hair(who, hair)),
    )


def _lit(layer: Layer, sun_side: int, strength: float) -> None:
    """Brighter towards the window and from above."""
    layer.light(1 + np.float32(strength) * (np.float32(sun_side) * layer.x_W - 0.6 * layer.y_H))


def _body(who: Puppet, skin: np.ndarray) -> Layer:
    layer = Layer(FRAME_SIZE)
    shirt = np.asarray(who.shirt, np.float32)
    layer.paint(layer.ellipse(0, 1.12, 0.76, 0.5), shirt)
    for side in (-1, 1):  # sleeves
        layer.tint(layer.ellipse(side * 0.62, 1.12, 0.16, 0.4, soft=10), shirt * 0.8, strength=0.7)
    layer.paint(layer.ellipse(0, 0.66, 0.27, 0.12), shirt * 0.72)
    layer.paint(layer.box(-0.17, 0.3, 0.17, 0.62), skin * 0.93)
    layer.paint(layer.ellipse(0, 0.62, 0.21, 0.1), skin * 0.93)
    layer.tint(layer.ellipse(0, 0.46, 0.26, 0.12, soft=8), skin * 0.68, strength=0.8)
    _lit(layer, who.sun_side, 0.09)
    return layer


def _head(who: Puppet, skin: np.ndarray) -> Layer:
    layer = Layer(FRAME_SIZE)
    width, height = who.head_width, who.head_height
    for side in (-1, 1):  # ears
        layer.paint(layer.ellipse(side * (width - 0.005), 0.0, 0.075, 0.12), skin * 0.95)
        layer.paint(layer.ellipse(side * (width + 0.005), 0.005, 0.04, 0.075, soft=3), skin * 0.78)
    layer.paint(layer.ellipse(0, HEAD_Y, width, height), skin)
    layer.paint(layer.ellipse(0, HEAD_Y + 0.24, width * 0.86, height * 0.62), skin)
    layer.tint(layer.ellipse(0, HEAD_Y + 0.52, 0.3, 0.14, soft=14), skin * 0.86, strength=0.5)
    layer.tint(layer.ellipse(-who.sun_side * width * 0.95, 0.05, 0.3, 0.6, soft=26), skin * 0.8, strength=0.6)
    for side in (-1, 1):  # cheeks
        blush = skin * np.array([1.04, 0.82, 0.8], np.float32)
        layer.tint(layer.ellipse(side * width * 0.62, 0.14, 0.11, 0.08, soft=10), blush, strength=0.5)
    _lit(layer, who.sun_side, 0.07)
    return layer


def _back_hair(who: Puppet, hair: np.ndarray) -> Layer:
    layer = Layer(FRAME_SIZE)
    width, height = who.head_width, who.head_height
    dark = hair * 0.78
    if who.style == "long":
        layer.paint(layer.ellipse(0, -0.12, width + 0.11, height + 0.06), dark)
        layer.paint(layer.box(-width - 0.11, -0.12, width + 0.11, 0.52, soft=2), dark)
        layer.paint(layer.ellipse(0, 0.52, width + 0.11, 0.22), dark)
    elif who.style == "curly":
        for angle in np.linspace(-0.62, 0.62, 11) * np.pi * 1.05:
            layer.paint(
                layer.ellipse(np.sin(angle) * (width + 0.06), -0.17 - np.cos(angle) * (height - 0.02), 0.16, 0.16), dark
            )
        layer.paint(layer.ellipse(0, -0.2, width + 0.06, height - 0.05), dark)
    elif who.style == "tied":
        layer.paint(layer.ellipse(0.1 * who.fringe, -0.78, 0.19, 0.17), hair * 0.9)
        layer.paint(layer.ellipse(0, -0.14, width + 0.035, height - 0.01), dark)
    elif who.style == "spiky":
        for place in range(-3, 4):
            angle = place * 0.36
            layer.paint(
                layer.ellipse(
                    np.sin(angle) * width * 0.95, -0.16 - np.cos(angle) * height * 0.86, 0.085, 0.2, turn=angle
                ),
                dark,
            )
        layer.paint(layer.ellipse(0, -0.15, width + 0.03, height - 0.03), dark)
    else:
        layer.paint(layer.ellipse(0, -0.14, width + 0.055, height), dark)
    _lit(layer, who.sun_side, 0.1)
    return layer


def _front_hair(who: Puppet, hair: np.ndarray) -> Layer:
    """A cap over the upper head with an opening for the face."""
    layer = Layer(FRAME_SIZE)
    width, height, way = who.head_width, who.head_height, float(np.sign(who.fringe) or 1)
    layer.paint(layer.ellipse(0, -0.13, width + 0.045, height - 0.005), hair)
    if who.style == "curly":
        for angle in np.linspace(-0.45, 0.45, 8) * np.pi:
            layer.paint(
                layer.ellipse(np.sin(angle) * (width - 0.02), -0.2 - np.cos(angle) * (height - 0.17), 0.13, 0.13), hair
            )
    elif who.style == "spiky":
        for place in range(-3, 4):
            angle = place * 0.36 + 0.12
            layer.paint(
                layer.ellipse(np.sin(angle) * width * 0.9, -0.16 - np.cos(angle) * height * 0.8, 0.08, 0.2, turn=angle),
                hair,
            )
    layer.tint(
        layer.ellipse(who.sun_side * 0.16, -0.52, 0.2, 0.1, turn=0.25 * who.sun_side, soft=9),
        hair + (1 - hair) * 0.35,
        strength=0.7,
    )
    hairline = -0.3 + 0.03 * who.fringe
    openings = {
        "short": ((0.12 * way, hairline + 0.62, width * 1.02, 0.64), (-0.1 * way, 0.36, width * 0.98, 0.62)),
        "long": ((width * 0.45, 0.32, width * 0.5, 0.66), (-width * 0.45, 0.32, width * 0.5, 0.66)),
        "curly": ((0, hairline + 0.53, width * 1.0, 0.6), (0, 0.5, width * 1.0, 0.62)),
        "tied": ((0, hairline + 0.55, width * 1.0, 0.64), (0, 0.5, width * 1.02, 0.66)),
        "spiky": ((0, hairline + 0.52, width * 1.02, 0.6), (0, 0.5, width * 1.02, 0.62)),
    }[who.style]
    for x, y, across, down in openings:
        layer.cut(layer.ellipse(x, y, across, down))
    layer.cut(layer.box(-1, 0.34 if who.style == "long" else 0.02, 1, 1, soft=6))
    _lit(layer, who.sun_side, 0.1)
    return layer
