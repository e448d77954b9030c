"""Captions to clips, and masked inpainting of given clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from dubmill.backbone import Modules
from dubmill.clips import Clip
from dubmill.codec import decode, encode, shape_of
from dubmill.conditioning import encode_captions, layout
from dubmill.diffusion import Job, sample
from dubmill.masks import keep_of
from dubmill.params import SamplingParams, SynthesizeParams
from dubmill.shapes import latent_shape


def generate(captions: Sequence[str], seeds: Sequence[int], params: SynthesizeParams, modules: Modules) -> list[Clip]:
    """One clip with sound for each caption.

    Raises:
        BadParams: the size does not fit the backbone.
    """
    rate = Fraction(params.frame_rate).limit_denominator(1001)
    shape = latent_shape(
        num_frames=params.num_frames,
        height=params.height,
        width=params.width,
        frame_rate=float(rate),
        geometry=modules.geometry,
    )
    text, empty = encode_captions(captions, modules), encode_captions([""] * len(captions), modules)
    where = layout(shape, float(rate), modules)
    return decode(sample(Job(text, empty, where), params.sampling, seeds, modules), shape, rate, modules)


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
    context, shape, rate = encode(clips, modules), shape_of(clips[0], modules), clips[0].frame_rate
    job = Job(
        text=encode_captions(captions, modules),
        empty=encode_captions([""] * len(captions), modules),
        where=layout(shape, float(rate), modules),
        context=context,
        keep_video_BS=keep_of(region.video_BS),
        keep_audio_BL=keep_of(region.audio_BL),
        num_resamplings=num_resamplings,
    )
    return decode(sample(job, sampling, seeds, modules), shape, rate, modules)
