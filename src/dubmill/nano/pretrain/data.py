"""Seeded clips of the world, as tensors, for every part that trains on it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from dubmill.nano import mel
from dubmill.nano.face import FRAME_SIZE
from dubmill.nano.lexicon import SAMPLE_RATE_HZ
from dubmill.nano.splits import Split, split_of
from dubmill.nano.world import Film, Puppet, babble, film, halves, puppet, random_phrases


@dataclass(frozen=True)
class Take:
    """A film and the puppet in it."""

    puppet: Puppet
    film: Film


def take(seed: int, *, is_half: bool = False, is_drawn: bool = True) -> Take:
    """The clip of this seed, or one of its halves, in an order of words that the seed's split allows.

    Sound alone is ten times quicker than drawing.
    """
    rng = np.random.default_rng([seed, 13])
    who = puppet(seed)
    phrases = random_phrases(rng, is_held_out=split_of(seed).is_held_out)
    clip = film(who, phrases, motion_seed=seed, is_drawn=is_drawn)
    return Take(who, halves(clip)[int(rng.integers(2))] if is_half else clip)


def silent_take(seed: int, *, is_half: bool = False) -> Take:
    """The puppet of this seed, mouthing shapes."""
    clip = babble(puppet(seed), motion_seed=seed)
    return Take(puppet(seed), halves(clip)[seed % 2] if is_half else clip)


def nothing(step: int, rng: np.random.Generator) -> None:
    """The batch of a part that draws from what it holds."""


def training_seeds(rng: np.random.Generator, count: int) -> list[int]:
    """Seeds of `count` clips that no figure is measured on."""
    return rng.integers(Split.PRETRAIN.value.start, Split.PRETRAIN.value.stop, count).tolist()


def training_takes(rng: np.random.Generator, count: int, *, is_half: bool = False, is_drawn: bool = True) -> list[Take]:
    """`count` clips that no figure is measured on."""
    return [take(seed, is_half=is_half, is_drawn=is_drawn) for seed in training_seeds(rng, count)]


def held_out_takes(
    count: int, *, first: int = 0, is_half: bool = False, is_drawn: bool = True, split: Split = Split.HELD_OUT
) -> list[Take]:
    """The same `count` unseen puppets each time."""
    return [take(split.value[first + index], is_half=is_half, is_drawn=is_drawn) for index in range(count)]


def video(takes: list[Take]) -> torch.Tensor:
    """(B, C, F, H, W) in [-1, 1]."""
    frames_BFHWC = torch.from_numpy(np.stack([one.film.frames_FHWC for one in takes]))
    return frames_BFHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def audio(takes: list[Take]) -> torch.Tensor:
    """(B, N) in [-1, 1] at the world's rate."""
    return torch.from_numpy(np.stack([one.film.audio_N for one in takes]))


def heard(takes: list[Take]) -> torch.Tensor:
    """(B, N) the sound at the rate that the audio VAE hears."""
    return resampled(audio(takes))


def resampled(audio_BN: torch.Tensor) -> torch.Tensor:
    """From the world's rate to the audio VAE's, as `dubmill.codec` does it."""
    from scipy.signal import resample_poly

    ratio = Fraction(mel.SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
    heard_BN = resample_poly(audio_BN.numpy(), ratio.numerator, ratio.denominator, axis=1)
    return torch.from_numpy(heard_BN.astype(np.float32))


def mouth_mask(takes: list[Take]) -> torch.Tensor:
    """(B, 1, F, H, W) one inside the true mouth box."""
    return _box_mask(np.stack([one.film.mouth_box_F4 for one in takes]))


def eyes_mask(takes: list[Take]) -> torch.Tensor:
    """(B, 1, F, H, W) one inside the box around both eyes."""
    return _box_mask(np.stack([one.film.eyes_box_F4 for one in takes]))


def _box_mask(box_BF4: np.ndarray) -> torch.Tensor:
    boxes = torch.from_numpy(box_BF4)
    at = torch.arange(FRAME_SIZE) + 0.5
    x0, y0, x1, y1 = (boxes[..., side, None] for side in range(4))
    across, down = (at > x0) & (at < x1), (at > y0) & (at < y1)
    return (down[..., :, None] & across[..., None, :]).float()[:, None]
