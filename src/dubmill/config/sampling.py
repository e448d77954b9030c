"""Parameters of sampling: denoising steps, noise levels, guidance, and the second stage of a dub."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dubmill.config.section import Count, Positive, Section, Share


def _falling(sigmas: list[float]) -> list[float]:
    if sigmas != sorted(set(sigmas), reverse=True) or not all(0 < sigma <= 1 for sigma in sigmas):
        raise ValueError("noise levels must fall, within (0, 1], without the final 0")
    return sigmas


Sigmas = Annotated[list[float], AfterValidator(_falling)]
Lora = Literal["none", "distilled"]


class SamplingParams(Section):
    """Sampling of generated clips: steps, noise levels and guidance."""

    num_steps: Count = Field(description="denoising steps; ignored if sigmas are given")
    sigmas: Sigmas = Field(description="noise levels, falling, without the final 0; empty: the backbone's own")
    shift_tokens: Literal["clip"] | int = Field(
        description="number of video tokens that the shift of the noise schedule is computed for; clip: the clip's own"
    )
    negative_prompt: str = Field(description="prompt that classifier-free guidance moves away from; may be empty")
    video_guidance: Positive = Field(description="classifier-free guidance of the video; 1 is off")
    audio_guidance: Positive = Field(description="classifier-free guidance of the audio; 1 is off")
    video_stg: float = Field(ge=0, description="spatio-temporal guidance of the video; 0 is off")
    audio_stg: float = Field(ge=0, description="spatio-temporal guidance of the audio; 0 is off")
    stg_blocks: list[int] = Field(description="transformer blocks that spatio-temporal guidance perturbs, from 0")
    video_modality: Positive = Field(
        description="modality guidance: of the video away from a prediction without audio; 1 is off"
    )
    audio_modality: Positive = Field(
        description="modality guidance: of the audio away from a prediction without video; 1 is off"
    )
    lora: Lora = Field(
        description="distilled: the backbone's distilled LoRA, for a few steps without guidance, is active too; none: it is not"
    )
    video_rescale: Share = Field(description="how far the guided video is rescaled to the spread of the unguided")
    audio_rescale: Share = Field(description="how far the guided audio is rescaled to the spread of the unguided")

    @model_validator(mode="after")
    def _shifts_for_tokens(self) -> Self:
        if self.shift_tokens != "clip" and self.shift_tokens < 1:
            raise ValueError("shift_tokens must be clip or a positive number of tokens")
        return self

    @model_validator(mode="after")
    def _perturbs_something(self) -> Self:
        if (self.video_stg or self.audio_stg) and not self.stg_blocks:
            raise ValueError("spatio-temporal guidance needs stg_blocks")
        return self


class SecondStageParams(Section):
    """The second stage: the upsampled latents of the dub denoised again at twice the size; the audio stays."""

    sigmas: Sigmas = Field(description="noise levels, falling, without the final 0; empty: one stage only")
    keep_adapter: bool = Field(description="whether the dubbing adapter is also active in the second stage")
    lora: Lora = Field(description="as in the first stage; each stage has its own")


class DubSamplingParams(SamplingParams):
    """Sampling of a dub."""

    first_frame: bool = Field(description="whether the dub begins with the source's first frame, unchanged")
    second_stage: SecondStageParams = Field(
        description="second stage at twice the size; needs a latent upsampler in the backbone"
    )
