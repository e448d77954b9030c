"""Noise to tokens, step by step: what stays the same over the steps, one guided velocity, one step down.

Axes: B batch, S video tokens, L audio tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from dubmill.model.attention import perturbed
from dubmill.model.conditioning import SequenceLayout, TextFeatures, predict
from dubmill.model.diffusion import Predictions, Scales, guide, renoise
from dubmill.model.latents import Latents


@dataclass(frozen=True)
class DenoisingJob:
    """One batch to denoise: what is said, what is given clean, what it refers to, how it is steered."""

    text: TextFeatures  # with classifier-free guidance the uncaptioned half first
    layout: SequenceLayout
    reference: Latents | None
    given: Latents  # clean tokens of the target, where `keep` says so
    keep_video_BS: torch.Tensor  # True: this token is given, not generated
    keep_audio_BL: torch.Tensor
    video_scales: Scales
    audio_scales: Scales
    stg_blocks: tuple[int, ...]
    generator: torch.Generator | list[torch.Generator] | None
    num_resamplings: int

    def __len__(self) -> int:
        return len(self.given)

    @property
    def asked(self) -> TextFeatures:
        """The captions alone."""
        return self.text.pick(range(len(self.text) - len(self), len(self.text)))

    def is_guided(self, scale: str, neutral: float) -> bool:
        """Whether this scale of video or audio is not the one that does nothing."""
        return any(getattr(scales, scale) != neutral for scales in (self.video_scales, self.audio_scales))

    def pin(self, state: Latents) -> Latents:
        """The state with every given token at its clean value."""
        return Latents(
            torch.where(self.keep_video_BS[..., None], self.given.video_BSD, state.video_BSD),
            torch.where(self.keep_audio_BL[..., None], self.given.audio_BLD, state.audio_BLD),
        )

    def noise(self) -> Latents:
        """Fresh noise: the video's is drawn first."""
        return Latents(*(self._noise_like(tokens) for tokens in (self.given.video_BSD, self.given.audio_BLD)))

    def _noise_like(self, tokens: torch.Tensor) -> torch.Tensor:
        return randn_tensor(tokens.shape, generator=self.generator, device=tokens.device, dtype=torch.float32)

    def start(self, sigma: torch.Tensor | float) -> Latents:
        """The given tokens at noise level `sigma`, those that are kept clean."""
        noise = self.noise()
        return self.pin(
            Latents(
                sigma * noise.video_BSD + (1 - sigma) * self.given.video_BSD,
                sigma * noise.audio_BLD + (1 - sigma) * self.given.audio_BLD,
            )
        )


def step(transformer: Any, job: DenoisingJob, state: Latents, schedulers: tuple[Any, Any], index: int) -> Latents:
    """The state one step down (video and audio by a scheduler each), re-noised and repeated as often as the job asks."""
    now, after = schedulers[0].sigmas[index], schedulers[0].sigmas[index + 1]
    timestep = schedulers[0].timesteps[index]
    for turn in range(job.num_resamplings):
        velocity = guided_velocity(transformer, job, state, now)
        for scheduler in schedulers:
            scheduler._step_index = index  # a repeated step is the same step
        video = schedulers[0].step(velocity.video_BSD, timestep, state.video_BSD, return_dict=False)[0]
        audio = schedulers[1].step(velocity.audio_BLD, timestep, state.audio_BLD, return_dict=False)[0]
        if turn + 1 < job.num_resamplings and after > 0:
            noise = job.noise()
            video, audio = renoise(video, after, now, noise.video_BSD), renoise(audio, after, now, noise.audio_BLD)
        state = job.pin(Latents(video, audio))
    return state


def guided_velocity(transformer: Any, job: DenoisingJob, state: Latents, sigma: torch.Tensor) -> Latents:
    """Guided velocity of the target: one forward with and without the captions, one more for each other guidance."""
    batch = len(state)
    sigma_video, sigma_audio = (torch.where(keep, 0, sigma) for keep in (job.keep_video_BS, job.keep_audio_BL))

    def forward(text: TextFeatures, *, is_mute: bool = False) -> Latents:
        times = len(text) // batch
        reference = job.reference.repeat(times) if job.layout.is_appended else None
        sigmas = (sigma_video.repeat(times, 1), sigma_audio.repeat(times, 1))
        return predict(transformer, state.repeat(times), reference, *sigmas, text, job.layout, is_mute=is_mute)

    both, strange, mute = forward(job.text), None, None
    if job.is_guided("stg", 0):
        with perturbed(transformer, job.stg_blocks):
            strange = forward(job.asked)
    if job.is_guided("modality", 1):
        mute = forward(job.asked, is_mute=True)
    is_doubled = len(job.text) > batch

    def predictions(modality: str) -> Predictions:
        asked = getattr(both, modality)
        return Predictions(
            asked=asked[-batch:],
            uncaptioned=asked[:batch] if is_doubled else None,
            perturbed=None if strange is None else getattr(strange, modality),
            mute=None if mute is None else getattr(mute, modality),
        )

    return Latents(
        guide(predictions("video_BSD"), job.video_scales, state.video_BSD, sigma_video),
        guide(predictions("audio_BLD"), job.audio_scales, state.audio_BLD, sigma_audio),
    )
