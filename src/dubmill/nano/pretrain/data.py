"""Renders seeded clips of nano's world as tensors for the trainings of all parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dubmill.nano.world import Puppet, PuppetClip, film, halves, puppet, random_phrases

HELD_OUT_SEED = 10_000_000
"""Puppets and motions from this seed on are never trained on."""


@dataclass(frozen=True)
class Take:
    """A rendered clip and the puppet in it."""

    puppet: Puppet
    film: PuppetClip


def take(seed: int, *, is_half: bool = False, is_drawn: bool = True) -> Take:
    """Returns the clip of this seed, or one of its halves; without pictures (`is_drawn` false) it is ten times quicker."""
    rng = np.random.default_rng([seed, 13])
    who = puppet(seed)
    clip = film(who, random_phrases(rng), motion_seed=seed, is_drawn=is_drawn)
    return Take(who, halves(clip)[int(rng.integers(2))] if is_half else clip)


def training_takes(rng: np.random.Generator, count: int, *, is_half: bool = False, is_drawn: bool = True) -> list[Take]:
    """Returns `count` random clips; none of them is held out."""
    return [take(int(seed), is_half=is_half, is_drawn=is_drawn) for seed in rng.integers(0, HELD_OUT_SEED, count)]


def held_out_takes(count: int, *, first: int = 0, is_half: bool = False) -> list[Take]:
    """Returns `count` held-out clips, the same at each call."""
    return [take(HELD_OUT_SEED + first + index, is_half=is_half) for index in range(count)]


def video(takes: list[Take]) -> torch.Tensor:
    """Returns the pixels (B, C, F, H, W) in [-1, 1]."""
    frames_BFHWC = torch.from_numpy(np.stack([one.film.frames_FHWC for one in takes]))
    return frames_BFHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def audio(takes: list[Take]) -> torch.Tensor:
    """Returns the waveforms (B, N) in [-1, 1]."""
    return torch.from_numpy(np.stack([one.film.audio_N for one in takes]))


def mouth_mask(takes: list[Take]) -> torch.Tensor:
    """Returns a mask (B, 1, F, H, W): 1 inside the true mouth box, 0 outside."""
    box_BF4 = torch.from_numpy(np.stack([one.film.mouth_box_F4 for one in takes]))
    at = torch.arange(64) + 0.5
    x0, y0, x1, y1 = (box_BF4[..., side, None] for side in range(4))
    across, down = (at > x0) & (at < x1), (at > y0) & (at < y1)
    return (down[..., :, None] & across[..., None, :]).float()[:, None]
