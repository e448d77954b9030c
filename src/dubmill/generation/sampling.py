"""Captions to clips, and masked inpainting of given clips, both by `LTX2DubPipeline`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from dubmill.config.params import SamplingParams, SynthesizeParams
from dubmill.generation.codec import decode, encode, shape_of
from dubmill.generation.masks import keep_of
from dubmill.media.clips import Clip
from dubmill.model.latents import Latents
from dubmill.model.load import Modules
from dubmill.model.pipeline import LTX2DubPipeline
from dubmill.model.shapes import latent_shape

Progress = Callable[[float], None]


def pipeline(modules: Modules) -> LTX2DubPipeline:
    """The dubbing pipeline over a backbone's modules, without its progress bar."""
    names = ("scheduler", "vae", "audio_vae", "text_encoder", "tokenizer", "connectors", "transformer", "vocoder")
    made = LTX2DubPipeline(**{name: getattr(modules, name) for name in names})
    made.set_progress_bar_config(disable=True)
    return made


def call_of(sampling: SamplingParams, generators: Sequence[torch.Generator], modules: Modules) -> dict[str, Any]:
    """How the pipeline is called for `sampling`: a generator for each clip, and tokens as the answer."""
    return {
        "num_inference_steps": sampling.num_steps,
        "sigmas": sampling.sigmas or None,
        "guidance_scale": sampling.video_guidance,
        "audio_guidance_scale": sampling.audio_guidance,
        "stg_scale": sampling.video_stg,
        "audio_stg_scale": sampling.audio_stg,
        "spatio_temporal_guidance_blocks": sampling.stg_blocks,
        "modality_scale": sampling.video_modality,
        "audio_modality_scale": sampling.audio_modality,
        "guidance_rescale": sampling.video_rescale,
        "audio_guidance_rescale": sampling.audio_rescale,
        "generator": list(generators),
        "max_sequence_length": modules.max_text_tokens,
        "output_type": "packed",
        "return_dict": False,
    }


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def telling(progress: Progress | None, num_steps: int) -> Callable[..., dict[str, Any]] | None:
    """A callback for the pipeline that tells the share of `num_steps` done, over all calls that it is given to."""
    if progress is None:
        return None
    done = 0

    def tell(pipe: LTX2DubPipeline, index: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        progress(done / num_steps)
        return tensors

    return tell


def size_of(clip: Clip) -> dict[str, Any]:
    """A clip's size as the pipeline is told it."""
    frames, height, width, _ = clip.frames_FHWC.shape
    return {"num_frames": frames, "height": height, "width": width, "frame_rate": float(clip.frame_rate)}


def generate(captions: Sequence[str], seeds: Sequence[int], params: SynthesizeParams, modules: Modules) -> list[Clip]:
    """One clip with sound for each caption.

    Raises:
        InvalidParamsError: the size does not fit the backbone.
    """
    rate = Fraction(params.frame_rate).limit_denominator(1001)
    size = {
        "num_frames": params.num_frames,
        "height": params.height,
        "width": params.width,
        "frame_rate": float(rate),
    }
    shape = latent_shape(**size, geometry=modules.geometry)
    made = pipeline(modules)(list(captions), **size, **call_of(params.sampling, seeded(seeds), modules))
    return decode(Latents(*made), shape, rate, modules)


@dataclass(frozen=True)
class Region:
    """What to make new in a batch: video tokens (B, S) and audio tokens (B, L), True where made new."""

    video_BS: torch.Tensor
    audio_BL: torch.Tensor


def inpaint(
    clips: Sequence[Clip],
    captions: Sequence[str],
    region: Region,
    seeds: Sequence[int],
    sampling: SamplingParams,
    num_resamplings: int,
    modules: Modules,
) -> list[Clip]:
    """The clips with `region` made new under the captions; all else is given clean at every step."""
    context, shape = encode(clips, modules), shape_of(clips[0], modules)
    made = pipeline(modules)(
        list(captions),
        latents=context.video_BSD,
        audio_latents=context.audio_BLD,
        conditioning_mask=keep_of(region.video_BS),
        audio_conditioning_mask=keep_of(region.audio_BL),
        num_resamplings=num_resamplings,
        **size_of(clips[0]),
        **call_of(sampling, seeded(seeds), modules),
    )
    return decode(Latents(*made), shape, clips[0].frame_rate, modules)
