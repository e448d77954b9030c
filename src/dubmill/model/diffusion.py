"""Flow matching: noising, its target, the weighted loss, noise schedules and guidance.

x_sigma = (1 - sigma) * clean + sigma * noise; the model predicts the velocity noise - clean.
Axes: B batch, S tokens, D numbers per token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift, rescale_noise_cfg


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma_BS: torch.Tensor) -> torch.Tensor:
    """Tokens (B, S, D) at the noise level of each."""
    return (1 - sigma_BS[..., None]) * clean + sigma_BS[..., None] * noise


def weighted_loss(velocity: torch.Tensor, target: torch.Tensor, weight_BS: torch.Tensor) -> torch.Tensor:
    """Mean squared error over tokens, each by its weight; a weight of zero leaves a token out."""
    error_BS = ((velocity - target) ** 2).mean(dim=-1)
    return (error_BS * weight_BS).sum() / weight_BS.sum().clamp(min=1e-8)


def schedule(
    scheduler: Any, num_steps: int, sigmas: Sequence[float] | None, num_video_tokens: int, device: torch.device
) -> Any:
    """A copy of `scheduler` with its timesteps set: its own for `num_steps`, as LTX2Pipeline sets them, or `sigmas`.

    Given sigmas are used exactly as given, whatever shift the scheduler is configured with: distilled schedules are
    told as they are meant.
    """
    if sigmas is not None:
        plain = {"shift": 1.0, "use_dynamic_shifting": False, "shift_terminal": None}
        exact = scheduler.from_config(scheduler.config, **plain)
        exact.set_timesteps(sigmas=list(sigmas), device=device)
        return exact
    own, config = copy.deepcopy(scheduler), scheduler.config
    shift = calculate_shift(
        num_video_tokens,
        config.get("base_image_seq_len", 1024),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.95),
        config.get("max_shift", 2.05),
    )
    own.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=shift, device=device)
    return own


@dataclass(frozen=True)
class Scales:
    """Guidance of one modality."""

    guidance: float  # classifier-free; 1 is off
    stg: float  # spatio-temporal; 0 is off
    modality: float  # away from picture and sound that do not know of each other; 1 is off
    rescale: float  # 0 is off


@dataclass(frozen=True)
class Predictions:
    """Velocities (B, S, D) of one modality in one step: as asked, and those to steer away from where they were made."""

    asked: torch.Tensor
    uncaptioned: torch.Tensor | None
    perturbed: torch.Tensor | None
    mute: torch.Tensor | None


def guide(made: Predictions, scales: Scales, noisy: torch.Tensor, sigma_BS: torch.Tensor) -> torch.Tensor:
    """Velocity asked + (g - 1)(asked - uncaptioned) + stg (asked - perturbed) + (m - 1)(asked - mute), then rescaled.

    The rescaling is of the clean tokens that the velocity points at, as published; a token at sigma 0 is its own.
    """
    velocity = made.asked
    for scale, other in (
        (scales.guidance - 1, made.uncaptioned),
        (scales.stg, made.perturbed),
        (scales.modality - 1, made.mute),
    ):
        if other is not None:
            velocity = velocity + scale * (made.asked - other)
    if scales.rescale == 0:
        return velocity
    sigma = sigma_BS[..., None]
    asked, guided = noisy - sigma * made.asked, noisy - sigma * velocity
    clean = rescale_noise_cfg(guided, asked, guidance_rescale=scales.rescale)
    return torch.where(sigma > 0, (noisy - clean) / sigma.clamp(min=1e-8), 0)


def renoise(tokens: torch.Tensor, lower: torch.Tensor, higher: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Tokens taken back from noise level `lower` to `higher` (RePaint, in flow-matching terms)."""
    keep = (1 - higher) / (1 - lower)
    return keep * tokens + torch.sqrt((higher**2 - (keep * lower) ** 2).clamp(min=0)) * noise
