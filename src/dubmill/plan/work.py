"""Counts what each GPU step computes: number of samples, tokens, pixels and FLOPs, and which modules it runs."""

from __future__ import annotations

from dataclasses import dataclass

from dubmill.config.params import Params
from dubmill.config.sampling import DubSamplingParams, SamplingParams
from dubmill.model.shapes import LatentShape, half_frames, latent_shape
from dubmill.plan.architecture import PARTS, Architecture
from dubmill.plan.layers import Tokens

GPU_STEPS = ("synthesize", "inpaint", "encode", "train", "dub")


@dataclass(frozen=True)
class Work:
    """The computation of one step."""

    step: str
    amount: str  # for a person: how many of what
    tokens: Tokens  # of one sample in the largest forward pass of the transformer; no video tokens if it does not run
    batch_size: int
    num_samples: int  # that go through the transformer at once, including those of guidance
    num_pixels: int  # of the clips that go through the video VAE at once; 0 if it does not run
    flops: float  # of the whole step
    parts: tuple[str, ...]  # modules that the step runs
    num_parts: int  # into how many parts it can be divided over GPUs


@dataclass(frozen=True)
class ClipShapes:
    """Sizes of a run's clips: the switch clip, and its halves, which are used for training and dubbing."""

    whole: LatentShape
    half: LatentShape
    num_frames: int
    half_frames: int
    frame_pixels: int
    frame_rate: float

    @property
    def whole_pixels(self) -> int:
        """Number of pixels of a switch clip."""
        return self.num_frames * self.frame_pixels

    @property
    def half_pixels(self) -> int:
        """Number of pixels of a half."""
        return self.half_frames * self.frame_pixels


def clip_shapes(params: Params, architecture: Architecture) -> ClipShapes:
    """Returns the sizes that `synthesize` generates.

    Raises:
        InvalidParamsError: the size does not fit the backbone.
    """
    section, geometry = params.synthesize, architecture.geometry
    num_half_frames = half_frames(section.num_frames, geometry.temporal)
    whole, half = (
        latent_shape(
            num_frames=num_frames,
            height=section.height,
            width=section.width,
            frame_rate=section.frame_rate,
            geometry=geometry,
        )
        for num_frames in (section.num_frames, num_half_frames)
    )
    return ClipShapes(
        whole=whole,
        half=half,
        num_frames=section.num_frames,
        half_frames=num_half_frames,
        frame_pixels=section.height * section.width,
        frame_rate=section.frame_rate,
    )


def work_of(params: Params, architecture: Architecture) -> list[Work]:
    """Returns the work of every GPU step, in the order of the pipeline; all pairs are assumed to pass the gate."""
    clips = clip_shapes(params, architecture)
    return [count(params, architecture, clips) for count in (_synthesize, _inpaint, _encode, _train, _dub)]


def _tokens(shape: LatentShape, architecture: Architecture, *, times: int = 1) -> Tokens:
    """Returns the tokens of one sample; `times` is 2 where a reference of the same size is appended."""
    return Tokens(times * shape.video_tokens, times * shape.audio, architecture.text.tokens)


def _num_at_once(sampling: SamplingParams, batch_size: int) -> int:
    """Returns the samples of the largest forward pass: with guidance, captioned and uncaptioned run together."""
    return batch_size * (2 if _is_guided(sampling.video_guidance, sampling.audio_guidance) else 1)


def num_dub_samples(sampling: DubSamplingParams, batch_size: int) -> int:
    """Returns the samples of a dub's largest forward pass: that of the second stage, where there is one, has no guidance."""
    return batch_size if sampling.second_stage.sigmas else _num_at_once(sampling, batch_size)


def uses_distilled_lora(step: str, params: Params) -> bool:
    """Returns whether a GPU step samples with the backbone's distilled LoRA, in one of its stages or validation dubs."""
    dub, validation = params.dub.sampling, params.train.validation
    loras = {
        "synthesize": [params.synthesize.sampling.lora],
        "inpaint": [params.inpaint.sampling.lora],
        "train": [validation.sampling.lora] if validation.every_steps else [],
        "dub": [dub.lora, dub.second_stage.lora if dub.second_stage.sigmas else "none"],
    }
    return any(lora != "none" for lora in loras.get(step, []))


def _num_forwards(sampling: SamplingParams) -> int:
    """Returns the forward passes of a sample over all sampling steps, one more per step for each guidance in use."""
    guidances = (
        _is_guided(sampling.video_guidance, sampling.audio_guidance),
        bool(sampling.video_stg or sampling.audio_stg),
        _is_guided(sampling.video_modality, sampling.audio_modality),
    )
    return (len(sampling.sigmas) or sampling.num_steps) * (1 + sum(guidances))


def _is_guided(*scales: float) -> bool:
    return any(scale != 1 for scale in scales)


def _caption_flops(architecture: Architecture) -> float:
    """Returns the FLOPs of one caption through the text encoder: two per parameter and token."""
    return 2.0 * architecture.parameters["text_encoder"] * architecture.text.tokens


def _synthesize(params: Params, architecture: Architecture, clips: ClipShapes) -> Work:
    section, vae = params.synthesize, architecture.video_vae
    num_clips = params.prompts.num_train + params.prompts.num_heldout
    tokens = _tokens(clips.whole, architecture)
    denoising = _num_forwards(section.sampling) * architecture.transformer.forward_flops(tokens)
    one = denoising + clips.whole_pixels * vae.decode_flops + 2 * _caption_flops(architecture)
    return Work(
        step="synthesize",
        amount=f"{num_clips} clips",
        tokens=tokens,
        batch_size=section.batch_size,
        num_samples=_num_at_once(section.sampling, section.batch_size),
        num_pixels=section.batch_size * clips.whole_pixels,
        flops=num_clips * one,
        parts=PARTS,
        num_parts=_num_batches(num_clips, section.batch_size),
    )


def _inpaint(params: Params, architecture: Architecture, clips: ClipShapes) -> Work:
    section, vae = params.inpaint, architecture.video_vae
    num_clips = params.prompts.num_train + params.prompts.num_heldout
    passes = 2 * num_clips * (1 + section.lip_augmentation_share)
    tokens = _tokens(clips.whole, architecture)
    denoising = section.resamplings * _num_forwards(section.sampling) * architecture.transformer.forward_flops(tokens)
    coding = clips.whole_pixels * (3 * vae.encode_flops + vae.decode_flops)  # the clip, and twice for its mask
    return Work(
        step="inpaint",
        amount=f"{2 * num_clips} halves",
        tokens=tokens,
        batch_size=section.batch_size,
        num_samples=_num_at_once(section.sampling, section.batch_size),
        num_pixels=section.batch_size * clips.whole_pixels,
        flops=passes * (denoising + coding + 2 * _caption_flops(architecture)),
        parts=PARTS,
        num_parts=_num_batches(num_clips, section.batch_size),
    )


def _encode(params: Params, architecture: Architecture, clips: ClipShapes) -> Work:
    num_sides = 4 * params.prompts.num_train  # two pairs of a clip, two sides of a pair
    one = clips.half_pixels * architecture.video_vae.encode_flops + _caption_flops(architecture)
    return Work(
        step="encode",
        amount=f"{num_sides} clips",
        tokens=Tokens(0, 0, architecture.text.tokens),
        batch_size=params.encode.batch_size,
        num_samples=0,
        num_pixels=params.encode.batch_size * clips.half_pixels,
        flops=num_sides * one,
        parts=tuple(part for part in PARTS if part not in ("transformer", "vocoder")),
        num_parts=1,
    )


def _train(params: Params, architecture: Architecture, clips: ClipShapes) -> Work:
    section = params.train
    tokens = _tokens(clips.half, architecture, times=2)
    one = architecture.transformer.train_flops(
        tokens, section.rank, section.targets, checkpointing=section.gradient_checkpointing
    )
    return Work(
        step="train",
        amount=f"{section.num_steps} steps",
        tokens=tokens,
        batch_size=section.batch_size,
        num_samples=section.batch_size,
        num_pixels=0,
        flops=section.num_steps * section.accumulate * section.batch_size * one
        + _validation_flops(params, architecture, clips),
        parts=("transformer",),
        num_parts=section.batch_size,
    )


def _validation_flops(params: Params, architecture: Architecture, clips: ClipShapes) -> float:
    """Returns the FLOPs of the validation dubs: each is sampled, and it and its reference are decoded."""
    section = params.train.validation
    if not section.every_steps:
        return 0.0
    tokens = _tokens(clips.half, architecture, times=2)
    denoising = _num_forwards(section.sampling) * architecture.transformer.forward_flops(tokens)
    one = denoising + 2 * clips.half_pixels * architecture.video_vae.decode_flops
    return params.train.num_steps // section.every_steps * min(section.num_clips, 2 * params.prompts.num_train) * one


def _dub(params: Params, architecture: Architecture, clips: ClipShapes) -> Work:
    section, vae, model = params.dub, architecture.video_vae, architecture.transformer
    generated = [method for method in section.methods if method in ("adapter", "base")]
    num_clips = 2 * params.prompts.num_heldout
    tokens = _tokens(clips.half, architecture, times=2)
    num_pixels = clips.half_pixels
    second = section.sampling.second_stage.sigmas
    if second:  # the first stage works at half the height and width, the second at the clip's size
        first_tokens = Tokens(tokens.video // 4, tokens.audio, tokens.text)
        flops = float(_num_forwards(section.sampling) * model.forward_flops(first_tokens))
        flops += len(second) * model.forward_flops(tokens)
    else:
        flops = float(_num_forwards(section.sampling) * model.forward_flops(tokens))
    coding = num_pixels * (vae.encode_flops + vae.decode_flops) + 2 * _caption_flops(architecture)
    return Work(
        step="dub",
        amount=f"{num_clips * len(generated)} clips",
        tokens=tokens,
        batch_size=section.batch_size,
        num_samples=num_dub_samples(section.sampling, section.batch_size),
        num_pixels=section.batch_size * num_pixels,
        flops=num_clips * len(generated) * (flops + coding),
        parts=PARTS,
        num_parts=len(generated) * _num_batches(num_clips, section.batch_size),
    )


def _num_batches(count: int, batch_size: int) -> int:
    return -(-count // batch_size)
