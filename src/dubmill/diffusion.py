"""Flow matching: noising, its target, the draws of sigma, the weighted loss, and Euler sampling with guidance.

x_sigma = (1 - sigma) * clean + sigma * noise; the model predicts the velocity noise - clean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift

from dubmill.backbone import Modules
from dubmill.codec import Latents
from dubmill.conditioning import Layout, TextFeatures, append, isolated, predict
from dubmill.params import SamplingParams

Progress = Callable[[float], None]


def sample_sigmas(sampler: str, count: int, num_video_tokens: int, generator: torch.Generator) -> torch.Tensor:
    """`count` draws of sigma in (0, 1].

    `shifted-logit-normal`: sigmoid(N(shift, 1)), the shift linear in the target's video tokens from .95 at 1,024 to 2.05
    at 4,096 (JUST-DUB-IT's release). `stretched-logit-normal`: the same spread over (0, 1], see `_stretched`.
    `two-logit-normals`: half N(2.8, 1.2), half N(.4, 1.2), for models so small that words are placed above sigma .95.
    """
    normal = torch.randn(count, generator=generator)
    if sampler in ("shifted-logit-normal", "stretched-logit-normal"):
        shift = calculate_shift(num_video_tokens, 1024, 4096, 0.95, 2.05)
        is_plain = sampler == "shifted-logit-normal"
        return torch.sigmoid(normal + shift) if is_plain else _stretched(normal, shift, generator)
    assert sampler == "two-logit-normals", sampler
    is_high = torch.rand(count, generator=generator) < 0.5
    return torch.sigmoid(normal * 1.2 + torch.where(is_high, 2.8, 0.4))


def _stretched(normal: torch.Tensor, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Shifted draws spread over (0, 1], a tenth of them replaced by uniform ones (LTX-2 trainer 1.2.0's figures).

    At many tokens the shift pushes nearly every draw to 1: the range between the 0.5th and the 99.9th percentile becomes
    0 to 1, and what falls below `least` is mirrored at it.
    """
    least, uniform_share = 1e-3, 0.1
    low, high = torch.sigmoid(torch.tensor([-2.5758, 3.0902], dtype=torch.float64) + shift)
    spread = (torch.sigmoid(normal.double() + shift) - low) / (high - low)  # near 1 float32 has too few steps
    spread = torch.where(spread < least, 2 * least - spread, spread).clamp(max=1).float()
    uniform = least + (1 - least) * torch.rand(len(normal), generator=generator)
    return torch.where(torch.rand(len(normal), generator=generator) < uniform_share, uniform, spread)


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma_BS: torch.Tensor) -> torch.Tensor:
    """Tokens (B, S, D) at the noise level of each."""
    return (1 - sigma_BS[..., None]) * clean + sigma_BS[..., None] * noise


def weighted_loss(velocity: torch.Tensor, target: torch.Tensor, weight_BS: torch.Tensor) -> torch.Tensor:
    """Mean squared error over tokens, each by its weight; a weight of zero leaves a token out."""
    error_BS = ((velocity - target) ** 2).mean(dim=-1)
    return (error_BS * weight_BS).sum() / weight_BS.sum().clamp(min=1e-8)


def sigma_schedule(num_steps: int, num_video_tokens: int, modules: Modules) -> torch.Tensor:
    """The backbone scheduler's own sigmas (steps + 1), from 1 to 0, as LTX2Pipeline sets them."""
    scheduler = copy.deepcopy(modules.scheduler)
    config = scheduler.config
    shift = calculate_shift(
        num_video_tokens,
        config.get("base_image_seq_len", 1024),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.95),
        config.get("max_shift", 2.05),
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=shift)
    return scheduler.sigmas.float()


@dataclass(frozen=True)
class Job:
    """One batch to sample: what is said, what is given clean, and what it refers to."""

    text: TextFeatures
    empty: TextFeatures  # features of the empty caption, for guidance; same batch
    where: Layout
    context: Latents | None = None  # clean tokens of the target, where `keep` says so
    keep_video_BS: torch.Tensor | None = None  # True: this token is given, not generated
    keep_audio_BL: torch.Tensor | None = None
    reference: Latents | None = None
    num_resamplings: int = 1


@torch.no_grad()
def sample(
    job: Job, sampling: SamplingParams, seeds: Sequence[int], modules: Modules, progress: Progress | None = None
) -> Latents:
    """Latents of a job by Euler steps; each clip's noise comes from its own seed, whatever else is in the batch."""
    sigmas = sigma_schedule(sampling.num_steps, job.where.num_video, modules).to(modules.device)
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    state = _noise(job, noise, modules)
    with isolated(modules.transformer, job.where):
        for index in range(sampling.num_steps):
            now, after = sigmas[index], sigmas[index + 1]
            for turn in range(job.num_resamplings):
                state = _step(job, state, now, after, sampling, modules)
                if turn + 1 < job.num_resamplings and after > 0:
                    state = _renoise(state, after, now, _noise(job, noise, modules))
            if progress:
                progress((index + 1) / sampling.num_steps)
    return _with_context(job, state)


def _noise(job: Job, generators: Sequence[torch.Generator], modules: Modules) -> Latents:
    geometry = modules.geometry
    video = [torch.randn(job.where.num_video, geometry.video_channels, generator=one) for one in generators]
    audio = [torch.randn(job.where.num_audio, geometry.audio_channels, generator=one) for one in generators]
    return Latents(torch.stack(video).to(modules.device), torch.stack(audio).to(modules.device))


def _with_context(job: Job, state: Latents) -> Latents:
    """The state with every kept token set to its clean value."""
    if job.context is None:
        return state
    return Latents(
        torch.where(job.keep_video_BS[..., None], job.context.video_BSD, state.video_BSD),
        torch.where(job.keep_audio_BL[..., None], job.context.audio_BLD, state.audio_BLD),
    )


def _token_sigmas(count: int, sigma: torch.Tensor, keep: torch.Tensor | None, total: int, batch: int) -> torch.Tensor:
    """Sigma of each token (B, total): zero where it is kept, and on the reference behind the first `count`."""
    levels = sigma.expand(batch, count) if keep is None else torch.where(keep, torch.zeros_like(sigma), sigma)
    return torch.cat([levels, levels.new_zeros(batch, total - count)], dim=1)


def _step(
    job: Job, state: Latents, now: torch.Tensor, after: torch.Tensor, sampling: SamplingParams, modules: Modules
) -> Latents:
    velocity = _guided(job, _with_context(job, state), now, sampling, modules)
    delta = after - now
    return Latents(state.video_BSD + delta * velocity.video_BSD, state.audio_BLD + delta * velocity.audio_BLD)


def _guided(job: Job, state: Latents, sigma: torch.Tensor, sampling: SamplingParams, modules: Modules) -> Latents:
    """Velocity under classifier-free guidance, one forward of both halves; no second half where guidance is off."""
    batch, where = len(state), job.where
    tokens = append(state, job.reference)
    video = _token_sigmas(where.num_video, sigma, job.keep_video_BS, tokens.video_BSD.shape[1], batch)
    audio = _token_sigmas(where.num_audio, sigma, job.keep_audio_BL, tokens.audio_BLD.shape[1], batch)
    if sampling.video_guidance == 1 and sampling.audio_guidance == 1:
        return predict(modules.transformer, tokens, video, audio, job.text, where)
    twice = Latents(tokens.video_BSD.repeat(2, 1, 1), tokens.audio_BLD.repeat(2, 1, 1))
    both = predict(modules.transformer, twice, video.repeat(2, 1), audio.repeat(2, 1), job.empty.join(job.text), where)
    return Latents(
        _guide(both.video_BSD, sampling.video_guidance, batch), _guide(both.audio_BLD, sampling.audio_guidance, batch)
    )


def _guide(both: torch.Tensor, scale: float, batch: int) -> torch.Tensor:
    plain, asked = both[:batch], both[batch:]
    return plain + scale * (asked - plain)


def _renoise(state: Latents, lower: torch.Tensor, higher: torch.Tensor, noise: Latents) -> Latents:
    """The state taken back from noise level `lower` to `higher` (RePaint, in flow-matching terms)."""
    keep = (1 - higher) / (1 - lower)
    spread = torch.sqrt((higher**2 - (keep * lower) ** 2).clamp(min=0))
    return Latents(keep * state.video_BSD + spread * noise.video_BSD, keep * state.audio_BLD + spread * noise.audio_BLD)
