"""Renders seeded clips of nano's world as tensors for the trainings of all parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dubmill.nano import sketch
from dubmill.nano.puppets import Puppet
from dubmill.nano.world import FULL, PuppetClip, Rendition, film, halves, puppet, random_phrases

SKETCHES, STILL_SKETCHES = Rendition(sketch), Rendition(sketch, is_posed=False)
"""The scenes by plain drawings, with and without the poses and the sizes of their puppets."""

HELD_OUT_SEED = 10_000_000
"""Puppets and motions from this seed on are never trained on."""


@dataclass(frozen=True)
class Take:
    """A rendered clip and the puppet in it."""

    puppet: Puppet
    film: PuppetClip


def take(
    seed: int,
    *,
    is_half: bool = False,
    is_drawn: bool = True,
    rendition: Rendition = FULL,
    frames: slice = slice(None),
) -> Take:
    """Returns the clip of this seed, or one of its halves; without pictures (`is_drawn` false) it is ten times quicker."""
    rng = np.random.default_rng([seed, 13])
    who = puppet(seed)
    clip = film(who, random_phrases(rng), motion_seed=seed, is_drawn=is_drawn, rendition=rendition, frames=frames)
    return Take(who, halves(clip)[int(rng.integers(2))] if is_half else clip)


def training_takes(
    rng: np.random.Generator, count: int, *, is_half: bool = False, is_drawn: bool = True, rendition: Rendition = FULL
) -> list[Take]:
    """Returns `count` random clips; none of them is held out."""
    seeds = rng.integers(0, HELD_OUT_SEED, count)
    return [take(int(seed), is_half=is_half, is_drawn=is_drawn, rendition=rendition) for seed in seeds]


def held_out_takes(
    count: int, *, is_half: bool = False, is_drawn: bool = True, rendition: Rendition = FULL
) -> list[Take]:
    """Returns `count` held-out clips, the same at each call."""
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + count)
    return [take(seed, is_half=is_half, is_drawn=is_drawn, rendition=rendition) for seed in seeds]


def video(takes: list[Take]) -> torch.Tensor:
    """Returns the pixels (B, C, F, H, W) in [-1, 1]."""
    return pixels(np.stack([one.film.frames_FHWC for one in takes]))


def pixels(frames_BFHWC: np.ndarray) -> torch.Tensor:
    """Returns uint8 frames as pixels (B, C, F, H, W) in [-1, 1]."""
    return torch.from_numpy(frames_BFHWC).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def audio(takes: list[Take]) -> torch.Tensor:
    """Returns the waveforms (B, N) in [-1, 1]."""
    return torch.from_numpy(np.stack([one.film.audio_N for one in takes]))


def mouth_mask(takes: list[Take]) -> torch.Tensor:
    """Returns a mask (B, 1, F, H, W): 1 inside the true mouth box, 0 outside."""
    return _box_mask(takes, "mouth_box_F4")


def eyes_mask(takes: list[Take]) -> torch.Tensor:
    """Returns a mask (B, 1, F, H, W): 1 inside the true box of both eyes, 0 outside."""
    return _box_mask(takes, "eyes_box_F4")


def _box_mask(takes: list[Take], boxes: str) -> torch.Tensor:
    box_BF4 = torch.from_numpy(np.stack([getattr(one.film, boxes) for one in takes]))
    at = torch.arange(takes[0].film.frames_FHWC.shape[1]) + 0.5
    x0, y0, x1, y1 = (box_BF4[..., side, None] for side in range(4))
    across, down = (at > x0) & (at < x1), (at > y0) & (at < y1)
    return (down[..., :, None] & across[..., None, :]).float()[:, None]
