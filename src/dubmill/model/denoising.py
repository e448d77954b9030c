"""The denoising loop's parts: what is fixed over all steps, one guided velocity, and one step.

Axes: B batch, S video tokens, L audio tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers.utils.torch_utils import randn_tensor

from dubmill.model.attention import perturbed_self_attention
from dubmill.model.conditioning import SequenceLayout, predict
from dubmill.model.diffusion import GuidanceScales, NoiseSchedule, Predictions, guide, renoise
from dubmill.model.latents import Latents

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel

    from dubmill.model.text import TextFeatures


@dataclass(frozen=True)
class DenoisingJob:
    """One batch to denoise: captions, clean conditioning tokens, reference and guidance."""

    text: TextFeatures  # with classifier-free guidance the negative prompts' rows come first
    layout: SequenceLayout
    reference: Latents | None
    clean: Latents  # the target's tokens to keep, or to start from
    keep_video_BS: torch.Tensor  # True: this token keeps its clean value
    keep_audio_BL: torch.Tensor
    video_scales: GuidanceScales
    audio_scales: GuidanceScales
    stg_blocks: Sequence[int]
    generator: torch.Generator | list[torch.Generator] | None
    num_resamplings: int

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def captions(self) -> TextFeatures:
        """The captions without the negative prompts."""
        return self.text.pick(range(len(self.text) - len(self), len(self.text)))

    @property
    def has_stg(self) -> bool:
        """Whether video or audio has spatio-temporal guidance."""
        return self.video_scales.stg != 0 or self.audio_scales.stg != 0

    @property
    def has_modality_guidance(self) -> bool:
        """Whether video or audio has modality guidance."""
        return self.video_scales.modality != 1 or self.audio_scales.modality != 1

    def pin(self, state: Latents) -> Latents:
        """Returns the state with every kept token at its clean value."""
        return Latents(
            torch.where(self.keep_video_BS[..., None], self.clean.video_BSD, state.video_BSD),
            torch.where(self.keep_audio_BL[..., None], self.clean.audio_BLD, state.audio_BLD),
        )

    def noise(self) -> Latents:
        """Returns fresh noise; the video's is drawn first."""
        video = self._noise_like(self.clean.video_BSD)
        return Latents(video, self._noise_like(self.clean.audio_BLD))

    def _noise_like(self, tokens: torch.Tensor) -> torch.Tensor:
        return randn_tensor(tokens.shape, generator=self.generator, device=tokens.device, dtype=torch.float32)

    def start(self, sigma: torch.Tensor | float) -> Latents:
        """Returns the clean tokens at noise level `sigma`, except those that are kept."""
        noise = self.noise()
        return self.pin(
            Latents(
                sigma * noise.video_BSD + (1 - sigma) * self.clean.video_BSD,
                sigma * noise.audio_BLD + (1 - sigma) * self.clean.audio_BLD,
            )
        )


def denoising_step(
    transformer: LTX2VideoTransformer3DModel, job: DenoisingJob, state: Latents, schedule: NoiseSchedule, index: int
) -> Latents:
    """Returns the state after step `index`, which is re-noised and repeated `job.num_resamplings` times."""
    sigma, next_sigma = schedule.sigmas[index], schedule.sigmas[index + 1]
    for resampling in range(job.num_resamplings):
        state = schedule.step(index, state, guided_velocity(transformer, job, state, sigma))
        if resampling + 1 < job.num_resamplings and next_sigma > 0:
            noise = job.noise()
            state = Latents(
                renoise(state.video_BSD, next_sigma, sigma, noise.video_BSD),
                renoise(state.audio_BLD, next_sigma, sigma, noise.audio_BLD),
            )
        state = job.pin(state)
    return state


def guided_velocity(
    transformer: LTX2VideoTransformer3DModel, job: DenoisingJob, state: Latents, sigma: torch.Tensor
) -> Latents:
    """Returns the target's guided velocity: one forward for captions and negative prompts, one per other guidance."""
    sigma_video_BS = torch.where(job.keep_video_BS, 0, sigma)
    sigma_audio_BL = torch.where(job.keep_audio_BL, 0, sigma)

    def forward(text: TextFeatures, *, is_unimodal: bool = False) -> Latents:
        times = len(text) // len(state)
        reference = job.reference.repeat(times) if job.reference is not None and job.layout.is_appended else None
        sigmas = (sigma_video_BS.repeat(times, 1), sigma_audio_BL.repeat(times, 1))
        tokens = state.repeat(times)
        return predict(transformer, tokens, reference, *sigmas, text, job.layout, is_unimodal=is_unimodal)

    both, perturbed, unimodal = forward(job.text), None, None
    if job.has_stg:
        with perturbed_self_attention(transformer, job.stg_blocks):
            perturbed = forward(job.captions)
    if job.has_modality_guidance:
        unimodal = forward(job.captions, is_unimodal=True)
    num_clips, has_negative = len(state), len(job.text) > len(state)
    video = Predictions(
        conditional=both.video_BSD[-num_clips:],
        unconditional=both.video_BSD[:num_clips] if has_negative else None,
        perturbed=None if perturbed is None else perturbed.video_BSD,
        unimodal=None if unimodal is None else unimodal.video_BSD,
    )
    audio = Predictions(
        conditional=both.audio_BLD[-num_clips:],
        unconditional=both.audio_BLD[:num_clips] if has_negative else None,
        perturbed=None if perturbed is None else perturbed.audio_BLD,
        unimodal=None if unimodal is None else unimodal.audio_BLD,
    )
    return Latents(
        guide(video, job.video_scales, state.video_BSD, sigma_video_BS),
        guide(audio, job.audio_scales, state.audio_BLD, sigma_audio_BL),
    )
