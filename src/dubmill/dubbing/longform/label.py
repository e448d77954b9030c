"""The visible label of a dub: `AI DUB` in white on a dark box, in the upper left corner of every frame.

The letters are drawn here, so that no font is needed. Axes: H height, W width.
"""

from __future__ import annotations

import numpy as np

from dubmill import media
from dubmill.dubbing.longform.join import Layer, coarse

_TEXT = """
.###..###...####..#...#.####.
#...#..#....#...#.#...#.#...#
#...#..#....#...#.#...#.####.
#####..#....#...#.#...#.#...#
#...#..#....#...#.#...#.#...#
#...#.###...####...###..####.
"""
_HEIGHT_SHARE = 1 / 30  # of the picture's height that the letters take
_WHITE, _BLACK, _NEUTRAL = 235, 16, 128  # of 8 bits
_BOX_WEIGHT = 0.6


def label_layer(layout: media.Layout) -> Layer:
    """The label as a layer on frames of `layout`; a picture that is too small for it has a part of it."""
    letters_HW = np.array([[dot == "#" for dot in line] for line in _TEXT.split()])
    scale = max(1, round(layout.height * _HEIGHT_SHARE / len(letters_HW)))
    letters_HW = np.pad(np.kron(letters_HW, np.ones((scale, scale), bool)), 2 * scale)
    margin = 2 * scale  # even, as the layout's steps need
    rows = slice(margin, min(layout.height, margin + letters_HW.shape[0]))
    columns = slice(margin, min(layout.width, margin + letters_HW.shape[1]))
    letters_HW = letters_HW[: rows.stop - rows.start, : columns.stop - columns.start]
    one = 2 ** (layout.bits - 8)
    luma_HW = np.where(letters_HW, _WHITE * one, _BLACK * one).astype(layout.dtype)
    spans = [coarse(span, step) for span, step in zip((rows, columns), layout.steps, strict=True)]
    chroma_HW = np.full([span.stop - span.start for span in spans], _NEUTRAL * one, layout.dtype)
    weight_HW = np.where(letters_HW, 1.0, _BOX_WEIGHT).astype(np.float32)
    return Layer(rows, columns, weight_HW, (luma_HW, chroma_HW, chroma_HW))
