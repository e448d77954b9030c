"""What each step that wants a GPU has to compute: how often, over how many tokens and pixels, with which modules."""

from __future__ import annotations

from dataclasses import dataclass

from dubmill.config.params import Params, SamplingParams
from dubmill.model.shapes import LatentShape, half_frames, latent_shape
from dubmill.plan.architecture import PARTS, Architecture
from dubmill.plan.layers import Tokens

GPU_STEPS = ("synthesize", "inpaint", "encode", "train", "dub")


@dataclass(frozen=True)
class Work:
    """One step's computation."""

    step: str
    amount: str  # for a person: how many of what
    tokens: Tokens  # of one sample of the largest forward pass; no video tokens where there is none
    batch_size: int
    samples: int  # that go through the transformer at once, guidance among them
    pixels: int  # of the clips that go through the video VAE at once; 0 where none do
    flops: float  # of the whole step
    parts: tuple[str, ...]  # modules that it runs
    num_shares: int  # in how many parts GPUs can share it


@dataclass(frozen=True)
class Clips:
    """The clips of a run: the switch clip, and its halves, which are trained on and dubbed."""

    whole: LatentShape
    half: LatentShape
    num_frames: int
    half_frames: int
    frame_pixels: int
    frame_rate: float

    @property
    def whole_pixels(self) -> int:
        """Pixels of a switch clip."""
        return self.num_frames * self.frame_pixels

    @property
    def half_pixels(self) -> int:
        """Pixels of a half."""
        return self.half_frames * self.frame_pixels


def clips_of(params: Params, architecture: Architecture) -> Clips:
    """The sizes that `synthesize` asks for.

    Raises:
        InvalidParamsError: the size does not fit the backbone.
    """
    asked, geometry = params.synthesize, architecture.geometry
    half = half_frames(asked.num_frames, geometry.temporal)
    shapes = [
        latent_shape(
            num_frames=frames,
            height=asked.height,
            width=asked.width,
            frame_rate=asked.frame_rate,
            geometry=geometry,
        )
        for frames in (asked.num_frames, half)
    ]
    return Clips(*shapes, asked.num_frames, half, asked.height * asked.width, asked.frame_rate)


def work_of(params: Params, architecture: Architecture) -> list[Work]:
    """The work of every GPU step, in the order of the line; all pairs are taken to pass the gate."""
    clips = clips_of(params, architecture)
    makers = (_synthesize, _inpaint, _encode, _train, _dub)
    return [make(params, architecture, clips) for make in makers]


def _tokens(shape: LatentShape, architecture: Architecture, *, times: int = 1) -> Tokens:
    """Tokens of one sample: `times` 2 where a reference of the same size is appended."""
    return Tokens(times * shape.video_tokens, times * shape.audio, architecture.text.tokens)


def _num_at_once(sampling: SamplingParams, batch_size: int) -> int:
    """Samples of the largest forward pass: captioned and uncaptioned go together."""
    return batch_size * (2 if _is_guided(sampling.video_guidance, sampling.audio_guidance) else 1)


def _num_forwards(sampling: SamplingParams) -> int:
    """Forward passes of a sample over all steps, with each guidance that is on."""
    guidances = (
        _is_guided(sampling.video_guidance, sampling.audio_guidance),
        bool(sampling.video_stg or sampling.audio_stg),
        _is_guided(sampling.video_modality, sampling.audio_modality),
    )
    return (len(sampling.sigmas) or sampling.num_steps) * (1 + sum(guidances))


def _is_guided(*scales: float) -> bool:
    return any(scale != 1 for scale in scales)


def _caption_flops(architecture: Architecture) -> float:
    """Operations of one caption through the text encoder: two for each parameter and token."""
    return 2.0 * architecture.parameters["text_encoder"] * architecture.text.tokens


def _synthesize(params: Params, architecture: Architecture, clips: Clips) -> Work:
    asked, vae = params.synthesize, architecture.video_vae
    num_clips = params.prompts.num_train + params.prompts.num_heldout
    tokens = _tokens(clips.whole, architecture)
    denoising = _num_forwards(asked.sampling) * architecture.transformer.forward_flops(tokens)
    one = denoising + clips.whole_pixels * vae.decode_flops + 2 * _caption_flops(architecture)
    return Work(
        step="synthesize",
        amount=f"{num_clips} clips",
        tokens=tokens,
        batch_size=asked.batch_size,
        samples=_num_at_once(asked.sampling, asked.batch_size),
        pixels=asked.batch_size * clips.whole_pixels,
        flops=num_clips * one,
        parts=PARTS,
        num_shares=_num_batches(num_clips, asked.batch_size),
    )


def _inpaint(params: Params, architecture: Architecture, clips: Clips) -> Work:
    asked, vae = params.inpaint, architecture.video_vae
    num_clips = params.prompts.num_train + params.prompts.num_heldout
    passes = 2 * num_clips * (1 + asked.lip_augmentation_share)
    tokens = _tokens(clips.whole, architecture)
    denoising = asked.resamplings * _num_forwards(asked.sampling) * architecture.transformer.forward_flops(tokens)
    coding = clips.whole_pixels * (3 * vae.encode_flops + vae.decode_flops)  # the clip, and twice for its mask
    return Work(
        step="inpaint",
        amount=f"{2 * num_clips} halves",
        tokens=tokens,
        batch_size=asked.batch_size,
        samples=_num_at_once(asked.sampling, asked.batch_size),
        pixels=asked.batch_size * clips.whole_pixels,
        flops=passes * (denoising + coding + 2 * _caption_flops(architecture)),
        parts=PARTS,
        num_shares=_num_batches(num_clips, asked.batch_size),
    )


def _encode(params: Params, architecture: Architecture, clips: Clips) -> Work:
    num_sides = 4 * params.prompts.num_train  # two pairs of a clip, two sides of a pair
    one = clips.half_pixels * architecture.video_vae.encode_flops + _caption_flops(architecture)
    return Work(
        step="encode",
        amount=f"{num_sides} clips",
        tokens=Tokens(0, 0, architecture.text.tokens),
        batch_size=params.encode.batch_size,
        samples=0,
        pixels=params.encode.batch_size * clips.half_pixels,
        flops=num_sides * one,
        parts=tuple(part for part in PARTS if part not in ("transformer", "vocoder")),
        num_shares=1,
    )


def _train(params: Params, architecture: Architecture, clips: Clips) -> Work:
    asked = params.train
    tokens = _tokens(clips.half, architecture, times=2)
    one = architecture.transformer.train_flops(
        tokens, asked.rank, asked.targets, checkpointing=asked.gradient_checkpointing
    )
    return Work(
        step="train",
        amount=f"{asked.num_steps} steps",
        tokens=tokens,
        batch_size=asked.batch_size,
        samples=asked.batch_size,
        pixels=0,
        flops=asked.num_steps * asked.accumulate * asked.batch_size * one
        + _validation_flops(params, architecture, clips),
        parts=("transformer",),
        num_shares=asked.batch_size,
    )


def _validation_flops(params: Params, architecture: Architecture, clips: Clips) -> float:
    """Operations of the pairs that training dubs to be looked at: each sampled, it and its reference decoded."""
    asked = params.train.validation
    if not asked.every_steps:
        return 0.0
    tokens = _tokens(clips.half, architecture, times=2)
    denoising = _num_forwards(asked.sampling) * architecture.transformer.forward_flops(tokens)
    one = denoising + 2 * clips.half_pixels * architecture.video_vae.decode_flops
    return params.train.num_steps // asked.every_steps * min(asked.num_clips, 2 * params.prompts.num_train) * one


def _dub(params: Params, architecture: Architecture, clips: Clips) -> Work:
    asked, vae, model = params.dub, architecture.video_vae, architecture.transformer
    made = [method for method in asked.methods if method != "cascade"]
    num_clips = 2 * params.prompts.num_heldout
    tokens = _tokens(clips.half, architecture, times=2)
    flops = float(_num_forwards(asked.sampling) * model.forward_flops(tokens))
    pixels, samples = clips.half_pixels, _num_at_once(asked.sampling, asked.batch_size)
    second = asked.sampling.second_stage.sigmas
    if second:  # twice the height and width, without guidance
        tokens, pixels, samples = Tokens(4 * tokens.video, tokens.audio, tokens.text), 4 * pixels, asked.batch_size
        flops += len(second) * model.forward_flops(tokens)
    coding = pixels * (vae.encode_flops + vae.decode_flops) + 2 * _caption_flops(architecture)
    return Work(
        step="dub",
        amount=f"{num_clips * len(made)} clips",
        tokens=tokens,
        batch_size=asked.batch_size,
        samples=samples,
        pixels=asked.batch_size * pixels,
        flops=num_clips * len(made) * (flops + coding),
        parts=PARTS,
        num_shares=len(made) * _num_batches(num_clips, asked.batch_size),
    )


def _num_batches(count: int, batch_size: int) -> int:
    return -(-count // batch_size)
