"""Mouth boxes to latent masks. They have one polarity: True (or 1) is the mouth, the part to generate anew.

Other tools use the opposite polarity; `keep_of` and `ltx2_keep_video` convert.

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
    """Returns boxes (F, 4) of x0, y0, x1, y1 pixels with each side moved out by `margin` of the box's size, clipped to the frame."""
    x0, y0, x1, y1 = boxes_F4.T
    grow_x, grow_y = (x1 - x0) * margin, (y1 - y0) * margin
    wide = np.stack([x0 - grow_x, y0 - grow_y, x1 + grow_x, y1 + grow_y], axis=1)
    return np.clip(wide, 0, [width, height, width, height])


def pixel_mask(boxes_F4: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns masks (F, H, W) that are True inside each frame's box."""
    x0, y0, x1, y1 = (boxes_F4[:, side, None, None] for side in range(4))
    row, column = np.mgrid[:height, :width]
    return (column + 1 > x0) & (column < x1) & (row + 1 > y0) & (row < y1)


def token_mask(mask_FHW: np.ndarray, shape: LatentShape, temporal: int) -> np.ndarray:
    """Returns tokens (S,) that hold any masked pixel: the maximum over the frames and the square that a latent covers."""
    spatial = mask_FHW.shape[1] // shape.height
    groups = [mask_FHW[list(frames_of_latent(index, temporal))].any(axis=0) for index in range(shape.frames)]
    cells = np.stack(groups).reshape(shape.frames, shape.height, spatial, shape.width, spatial)
    return cells.any(axis=(2, 4)).reshape(-1)


def fine_mask(
    frames_BFHWC: np.ndarray,
    masks_BFHW: np.ndarray,
    video_BSD: torch.Tensor,
    modules: Modules,
    *,
    threshold: float,
    norm: str,
) -> torch.Tensor:
    """Returns tokens (B, S) whose latent changes by more than `threshold` when the masked pixels are filled with green.

    `video_BSD` are the latents of the frames as they are. The residual is in units of each channel's spread, reduced over channels by `norm`, max or mean; the paper gives the
    threshold 0.1 but not the norm.
    """
    filled = np.where(masks_BFHW[..., None], np.array(FILL_RGB, dtype=np.uint8), frames_BFHWC)
    residual_BSD = (video_BSD - encode_video(filled, modules)).abs()
    reduced_BS = residual_BSD.amax(dim=-1) if norm == "max" else residual_BSD.mean(dim=-1)
    return reduced_BS > threshold


Mask = TypeVar("Mask", np.ndarray, torch.Tensor)


def keep_of(mask: Mask) -> Mask:
    """Returns a boolean mask in the other polarity: True for a token or pixel that is kept."""
    return ~mask


def ltx2_keep_video(mouth_FHW: np.ndarray, shape: LatentShape, temporal: int) -> np.ndarray:
    """Returns a mask video (F, H, W) uint8 for the `video_mask` column of LTX-2's trainer: 255 is kept, 0 is generated.

    That trainer averages keep over a token's square, takes the maximum of keep over the frames 8i ... 8i+7 and cuts at
    one half. With a mask that is only inverted it would keep every token that the mouth half covers, or leaves for one
    frame, and it would take the frames of the next latent, since the causal latent i holds 8i-7 ... 8i. So each token's
    square is written as a whole, in all the frames that the trainer groups: kept only if no pixel of the latent's own
    frames belongs to the mouth, which is the minimum of keep.
    """
    keep = keep_of(token_mask(mouth_FHW, shape, temporal)).reshape(shape.frames, shape.height, shape.width)
    spatial = mouth_FHW.shape[1] // shape.height
    squares = keep.repeat(spatial, axis=1).repeat(spatial, axis=2)
    return squares[np.arange(len(mouth_FHW)) // temporal].astype(np.uint8) * 255
