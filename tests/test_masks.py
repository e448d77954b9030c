"""Mouth boxes to tokens, with one polarity: True is the mouth."""

import numpy as np
import pytest
import torch
from doubles import miniature

from dubmill.generation.codec import encode_video, shape_of
from dubmill.generation.masks import fine_mask, pixel_mask, token_mask, widen
from dubmill.model.shapes import LatentShape


def test_a_box_widens_by_its_own_size_and_stays_in_the_picture():
    boxes = np.array([[10.0, 20.0, 30.0, 40.0], [0.0, 0.0, 8.0, 8.0]])
    assert widen(boxes, 0.5, 64, 64).tolist() == [[0, 10, 40, 50], [0, 0, 12, 12]]


def test_the_pixel_mask_holds_every_pixel_that_the_box_touches():
    mask = pixel_mask(np.array([[1.5, 2.0, 3.5, 3.0]]), 6, 6)
    assert np.argwhere(mask[0]).tolist() == [[2, 1], [2, 2], [2, 3]]


def test_latents_take_the_maximum_over_their_own_frames_and_pixels():
    """Trap: grouping frames [0..7], [8..15] instead of [0], [1..8] moves the mask by up to seven frames."""
    masks = np.zeros((17, 64, 64), dtype=bool)
    masks[8, 40, 10] = True
    tokens = token_mask(masks, LatentShape(3, 2, 2, 17), temporal=8).reshape(3, 2, 2)
    assert np.argwhere(tokens).tolist() == [[1, 1, 0]]
    masks[:] = False
    masks[0, 0, 0] = True
    assert np.argwhere(token_mask(masks, LatentShape(3, 2, 2, 17), 8).reshape(3, 2, 2)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("norm", ["max", "mean"])
def test_the_fine_mask_holds_what_the_mouth_touches_and_shrinks_with_the_threshold(mini, norm):
    clip = miniature.clip()
    shape = shape_of(clip, mini)
    masks = np.zeros((1, 17, 64, 96), dtype=bool)
    masks[:, :, 40:60, 40:56] = True
    frames = clip.frames_FHWC[None]
    latents = encode_video(frames, mini)
    low, high = (fine_mask(frames, masks, latents, mini, threshold=level, norm=norm) for level in (1e-3, 1e6))
    assert torch.from_numpy(token_mask(masks[0], shape, 8)).logical_and(~low[0]).sum() == 0
    assert not high.any()
    nothing = fine_mask(frames, np.zeros_like(masks), latents, mini, threshold=1e-6, norm=norm)
    assert not nothing.any()
