"""Captions to clips, and masked inpainting of clips; the one place that calls `LTX2DubPipeline`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from dubmill.config.params import SynthesizeParams
from dubmill.config.sampling import SamplingParams
from dubmill.generation.codec import decode_clips, shape_of
from dubmill.generation.masks import keep_of
from dubmill.generation.seeds import generators
from dubmill.media.clips import Clip
from dubmill.model.conditioning import ReferenceMode
from dubmill.model.latents import Latents
from dubmill.model.load import Modules
from dubmill.model.loras import activate_loras, sampling_lora_weights
from dubmill.model.memory import explained_out_of_memory
from dubmill.model.pipeline import LTX2DubPipeline, StepCallback
from dubmill.model.shapes import LatentShape, latent_shape, pixel_frames
from dubmill.model.text import TextFeatures, encode_captions

Progress = Callable[[float], None]
CURE = "lower the step's batch_size or the clip's size, or set backbone.transformer_bits: 8"


@dataclass(frozen=True)
class PromptFeatures:
    """Text features of one batch."""

    captions: TextFeatures  # a row for each clip
    negative: TextFeatures  # one row, for classifier-free guidance
    empty: TextFeatures  # one row: the empty caption, under which a cached reference is read


NO_REFERENCE = ReferenceMode(positions="shared", attention="full", isolate_modalities=False)


@dataclass(frozen=True)
class Region:
    """Masks of a batch: True for tokens to generate, False for tokens to keep; video (B, S) and audio (B, L)."""

    video_BS: torch.Tensor
    audio_BL: torch.Tensor


def build_pipeline(modules: Modules) -> LTX2DubPipeline:
    """Returns the dubbing pipeline over the loaded parts, without its progress bar."""

    def part(name: str) -> Any:
        return modules.parts.get(name)  # None if it was not loaded: diffusers lets a pipeline lack parts

    pipe = LTX2DubPipeline(
        scheduler=modules.scheduler,
        vae=part("vae"),
        audio_vae=part("audio_vae"),
        text_encoder=part("text_encoder"),
        tokenizer=modules.tokenizer,
        connectors=part("connectors"),
        transformer=modules.transformer,
        vocoder=part("vocoder"),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encode_prompts(captions: Sequence[str], modules: Modules, *, negative: str) -> PromptFeatures:
    """Returns the text features of a batch's captions, of the negative prompt and of the empty caption."""
    features = encode_captions([*captions, negative, ""], modules)
    rows = list(range(len(captions)))
    return PromptFeatures(features.pick(rows), features.pick([-2]), features.pick([-1]))


@explained_out_of_memory("denoising", CURE)
def sample(
    pipe: LTX2DubPipeline,
    sampling: SamplingParams,
    text: PromptFeatures,
    noise: Sequence[torch.Generator],
    shape: LatentShape,
    frame_rate: float,
    *,
    reference: Latents | None = None,
    mode: ReferenceMode = NO_REFERENCE,
    video_BSD: torch.Tensor | None = None,
    audio_BLD: torch.Tensor | None = None,
    keep_video_BS: torch.Tensor | None = None,
    keep_audio_BL: torch.Tensor | None = None,
    num_resamplings: int = 1,
    on_step: StepCallback | None = None,
) -> Latents:
    """Returns the denoised tokens of a batch; `noise` has a generator for each clip.

    Args:
        reference: the source clips' clean tokens, read as `mode` says.
        video_BSD, audio_BLD: the target's tokens, zero if absent; keep_video_BS, keep_audio_BL: True where they stay.
    """
    assert sampling.lora in ("none", *getattr(pipe.transformer, "peft_config", {})), "add_sampling_lora was not called"
    video, audio = pipe(
        text_features=text.captions,
        negative_text_features=text.negative,
        empty_text_features=text.empty,
        reference_latents=None if reference is None else reference.video_BSD,
        reference_audio_latents=None if reference is None else reference.audio_BLD,
        reference_positions=mode.positions,
        reference_attention=mode.attention,
        isolate_reference=mode.isolate_modalities,
        latents=video_BSD,
        audio_latents=audio_BLD,
        conditioning_mask=keep_video_BS,
        audio_conditioning_mask=keep_audio_BL,
        height=shape.height * pipe.vae_spatial_compression_ratio,
        width=shape.width * pipe.vae_spatial_compression_ratio,
        num_frames=pixel_frames(shape.frames, pipe.vae_temporal_compression_ratio),
        frame_rate=frame_rate,
        num_inference_steps=sampling.num_steps,
        sigmas=sampling.sigmas or None,
        shift_tokens=None if sampling.shift_tokens == "clip" else sampling.shift_tokens,
        guidance_scale=sampling.video_guidance,
        audio_guidance_scale=sampling.audio_guidance,
        stg_scale=sampling.video_stg,
        audio_stg_scale=sampling.audio_stg,
        spatio_temporal_guidance_blocks=sampling.stg_blocks,
        modality_scale=sampling.video_modality,
        audio_modality_scale=sampling.audio_modality,
        guidance_rescale=sampling.video_rescale,
        audio_guidance_rescale=sampling.audio_rescale,
        generator=list(noise),
        num_resamplings=num_resamplings,
        output_type="packed",
        return_dict=False,
        callback_on_step_end=on_step,
    )
    return Latents(video, audio)


def progress_callback(progress: Progress | None, num_steps: int) -> StepCallback | None:
    """Returns a step callback that reports the share of `num_steps` done, counted over all calls that it is given to."""
    if progress is None:
        return None
    num_done = 0

    def on_step(
        pipe: LTX2DubPipeline, index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        nonlocal num_done
        num_done += 1
        progress(num_done / num_steps)
        return tensors

    return on_step


def generate_clips(
    captions: Sequence[str], seeds: Sequence[int], params: SynthesizeParams, modules: Modules
) -> list[Clip]:
    """Returns one clip with audio for each caption.

    Raises:
        InvalidParamsError: the size does not fit the backbone.
    """
    rate = Fraction(params.frame_rate).limit_denominator(1001)
    shape = latent_shape(
        num_frames=params.num_frames,
        height=params.height,
        width=params.width,
        frame_rate=float(rate),
        geometry=modules.geometry,
    )
    text = encode_prompts(captions, modules, negative=params.sampling.negative_prompt)
    activate_loras(modules.transformer, sampling_lora_weights(params.sampling.lora))
    tokens = sample(build_pipeline(modules), params.sampling, text, generators(seeds), shape, float(rate))
    return decode_clips(tokens, shape, rate, modules)


def inpaint_clips(
    clips: Sequence[Clip],
    context: Latents,
    captions: Sequence[str],
    region: Region,
    seeds: Sequence[int],
    sampling: SamplingParams,
    num_resamplings: int,
    modules: Modules,
) -> list[Clip]:
    """Returns the clips with `region` generated anew under the captions; all other tokens stay those of `context`, their latents."""
    shape, rate = shape_of(clips[0], modules), clips[0].frame_rate
    activate_loras(modules.transformer, sampling_lora_weights(sampling.lora))
    tokens = sample(
        build_pipeline(modules),
        sampling,
        encode_prompts(captions, modules, negative=sampling.negative_prompt),
        generators(seeds),
        shape,
        float(rate),
        video_BSD=context.video_BSD,
        audio_BLD=context.audio_BLD,
        keep_video_BS=keep_of(region.video_BS),
        keep_audio_BL=keep_of(region.audio_BL),
        num_resamplings=num_resamplings,
    )
    return decode_clips(tokens, shape, rate, modules)
