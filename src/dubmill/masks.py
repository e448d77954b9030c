"""Mouth boxes to latent masks. One polarity everywhere: True (or 1) is the mouth, the part to make new.

The video VAE's receptive field is larger than its tokens, so lip motion leaks into the tokens around the lips. The fine
mask finds every token that the mouth touches, by encoding the clip with and without it.
"""

from __future__ import annotations

import numpy as np
import torch

from dubmill.backbone import Modules
from dubmill.codec import encode_video
from dubmill.shapes import LatentShape, frames_of_latent

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
