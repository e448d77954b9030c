"""Flow matching: noising, the weighted loss, noise schedules and guidance.

x_sigma = (1 - sigma) * clean + sigma * noise; the model predicts the velocity noise - clean.
Axes: B batch, S tokens, D numbers per token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift, rescale_noise_cfg

from dubmill.model.latents import Latents

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma_BS: torch.Tensor) -> torch.Tensor:
    """Returns tokens (B, S, D), each at its own noise level."""
    return (1 - sigma_BS[..., None]) * clean + sigma_BS[..., None] * noise


def weighted_loss(velocity: torch.Tensor, target: torch.Tensor, weight_BS: torch.Tensor) -> torch.Tensor:
    """Returns the weighted mean of the tokens' squared errors; a weight of zero leaves a token out."""
    error_BS = ((velocity - target) ** 2).mean(dim=-1)
    return (error_BS * weight_BS).sum() / weight_BS.sum().clamp(min=1e-8)


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of all steps, and the schedulers that take them: one for the video, one for the audio."""

    sigmas: torch.Tensor  # falling, one more than there are steps; the last is 0
    timesteps: torch.Tensor  # 1000 x sigma, one for each step
    video_scheduler: FlowMatchEulerDiscreteScheduler
    audio_scheduler: FlowMatchEulerDiscreteScheduler

    def step(self, index: int, state: Latents, velocity: Latents) -> Latents:
        """Returns the state after step `index`, which may be taken several times."""
        return Latents(
            self._step(self.video_scheduler, index, state.video_BSD, velocity.video_BSD),
            self._step(self.audio_scheduler, index, state.audio_BLD, velocity.audio_BLD),
        )

    def _step(self, scheduler: Any, index: int, state: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        scheduler._step_index = index  # else a repeated step would count on
        return scheduler.step(velocity, self.timesteps[index], state, return_dict=False)[0]


def schedule(
    scheduler: FlowMatchEulerDiscreteScheduler,
    num_steps: int,
    sigmas: Sequence[float] | None,
    num_shift_tokens: int,
    device: torch.device,
) -> NoiseSchedule:
    """Returns the noise levels `sigmas`, or those of `scheduler` for `num_steps`; `scheduler` itself stays as it is.

    A scheduler with dynamic shifting moves its steps towards noise by mu, which is linear in `num_shift_tokens`: 0.95 at
    1,024 and 2.05 at 4,096. LTX-2's released recipes always use 4,096; diffusers uses the clip's own video tokens.

    `sigmas` are used exactly as they are, whatever shift the scheduler is configured with: distilled schedules are
    published without any.
    """
    config: Any = scheduler.config
    if sigmas is not None:
        exact: Any = scheduler.from_config(config, shift=1.0, use_dynamic_shifting=False, shift_terminal=None)
        exact.set_timesteps(sigmas=list(sigmas), device=device)
        return NoiseSchedule(exact.sigmas, exact.timesteps, exact, copy.deepcopy(exact))
    own: Any = copy.deepcopy(scheduler)
    mu = calculate_shift(
        num_shift_tokens,
        config.get("base_image_seq_len", 1024),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.95),
        config.get("max_shift", 2.05),
    )
    own.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=mu, device=device)
    return NoiseSchedule(own.sigmas, own.timesteps, own, copy.deepcopy(own))


@dataclass(frozen=True)
class GuidanceScales:
    """Guidance of one modality."""

    guidance: float  # classifier-free guidance; 1 is off
    stg: float  # spatio-temporal guidance; 0 is off
    modality: float  # guidance away from video and audio predicted without each other; 1 is off
    rescale: float  # 0 is off


@dataclass(frozen=True)
class Predictions:
    """Velocities (B, S, D) of one modality in one step; `None` for a prediction that no guidance needs."""

    conditional: torch.Tensor
    unconditional: torch.Tensor | None  # under the negative prompt
    perturbed: torch.Tensor | None  # with self-attention perturbed in some blocks
    unimodal: torch.Tensor | None  # without attention between video and audio


def guide(
    predictions: Predictions, scales: GuidanceScales, noisy: torch.Tensor, sigma_BS: torch.Tensor
) -> torch.Tensor:
    """Returns the guided velocity (B, S, D).

    cond + (g - 1)(cond - uncond) + stg (cond - perturbed) + (m - 1)(cond - unimodal), then rescaled. Rescaling works on
    the clean tokens that the velocity points at, as in LTX-2's pipelines; a token at sigma 0 gets velocity 0.
    """
    conditional = velocity = predictions.conditional
    for scale, other in (
        (scales.guidance - 1, predictions.unconditional),
        (scales.stg, predictions.perturbed),
        (scales.modality - 1, predictions.unimodal),
    ):
        if other is not None:
            velocity = velocity + scale * (conditional - other)
    if scales.rescale == 0:
        return velocity
    sigma = sigma_BS[..., None]
    clean = rescale_noise_cfg(noisy - sigma * velocity, noisy - sigma * conditional, guidance_rescale=scales.rescale)
    return torch.where(sigma > 0, (noisy - clean) / sigma.clamp(min=1e-8), 0)


def renoise(tokens: torch.Tensor, lower: torch.Tensor, higher: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Returns tokens noised again from noise level `lower` to `higher` (RePaint, in flow-matching terms)."""
    keep = (1 - higher) / (1 - lower)
    return keep * tokens + torch.sqrt((higher**2 - (keep * lower) ** 2).clamp(min=0)) * noise
