"""Mouth boxes to latent masks. One polarity everywhere: True (or 1) is the mouth, the part to make new.

Other tools mean the opposite by a mask; whoever crosses over says so by name: `keep_of`, `ltx2_keep_video`.

The video VAE's receptive field is larger than its tokens, so lip motion leaks into the tokens around the lips. The fine
mask finds every token that the mouth touches, by encoding the clip with and without it.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from dubmill.generation.codec import encode_video
from dubmill.model.load import Modules
from dubmill.model.shapes import LatentShape, frames_of_latent

FILL_RGB = (0, 255, 0)  # the paper fills the lip region with green


def widen(boxes_F4: np.ndarray, margin: float, height: int, width: int) -> np.ndarray:
    """Boxes (F, 4) of x0, y0, x1, y1 pixels, each side moved out by `margin` of the box's size, kept in the picture."""
    x0, y0, x1, y1 = boxes_F4.T
    grow_x, grow_y = (x1 - x0) * margin, (y1 - y0) * margin
    wide = np.stack([x0 - grow_x, y0 - grow_y, x1 + grow_x, y1 + grow_y], axis=1)
    return np.clip(wide, 0, [width, height, width, height])


def pixel_mask(boxes_F4: np.ndarray, height: int, width: int) -> np.ndarray:
    """Masks (F, H, W) that are True inside each frame's box."""
    x0, y0, x1, y1 = (boxes_F4[:, side, None, None] for side in range(4))
    row, column = np.mgrid[:height, :width]
    return (column + 1 > x0) & (column < x1) & (row + 1 > y0) & (row < y1)


def token_mask(mask_FHW: np.ndarray, shape: LatentShape, temporal: int) -> np.ndarray:
    """Tokens (S,) that hold any masked pixel: maximum over the frames and the square that a latent covers."""
    spatial = mask_FHW.shape[1] // shape.height
    groups = [mask_FHW[list(frames_of_latent(index, temporal))].any(axis=0) for index in range(shape.frames)]
    cells = np.stack(groups).reshape(shape.frames, shape.height, spatial, shape.width, spatial)
    return cells.any(axis=(2, 4)).reshape(-1)


def fine_mask(
    frames_BFHWC: np.ndarray, masks_BFHW: np.ndarray, modules: Modules, *, threshold: float, norm: str
) -> torch.Tensor:
    """Tokens (B, S) whose latent changes by more than `threshold` when the masked pixels are filled with green.

    The residual is in units of each channel's spread, reduced over channels by `norm`, max or mean; the paper gives the
    threshold 0.1 but not the norm.
    """
    filled = np.where(masks_BFHW[..., None], np.array(FILL_RGB, dtype=np.uint8), frames_BFHWC)
    residual_BSD = (encode_video(frames_BFHWC, modules) - encode_video(filled, modules)).abs()
    reduced_BS = residual_BSD.amax(dim=-1) if norm == "max" else residual_BSD.mean(dim=-1)
    return reduced_BS > threshold


Mask = TypeVar("Mask", np.ndarray, torch.Tensor)


def keep_of(made_new: Mask) -> Mask:
    """The other polarity of a boolean mask: True where a token or pixel is given and stays, not where it is made new."""
    return ~made_new


def ltx2_keep_video(mouth_FHW: np.ndarray, shape: LatentShape, temporal: int) -> np.ndarray:
    """A mask video (F, H, W) uint8 for the `video_mask` column of LTX-2's trainer: 255 is kept, 0 is made new.

    That trainer averages keep over a token's square, takes the maximum of keep over the frames 8i ... 8i+7 and cuts at
    one half. Of a mask that is only turned round it would keep every token that the mouth half covers or leaves for one
    frame, and take the frames of its neighbour in time, since the causal latent i holds 8i-7 ... 8i. So each token's
    square is written as a whole, in all the frames that the trainer groups: kept only where no pixel of the latent's own
    frames is the mouth's, which is the minimum of keep.
    """
    keep = keep_of(token_mask(mouth_FHW, shape, temporal)).reshape(shape.frames, shape.height, shape.width)
    spatial = mouth_FHW.shape[1] // shape.height
    squares = keep.repeat(spatial, axis=1).repeat(spatial, axis=2)
    return squares[np.arange(len(mouth_FHW)) // temporal].astype(np.uint8) * 255
