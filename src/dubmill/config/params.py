"""The meaning of every parameter: type, bound, unit. The values are in params.yaml, once; there are no defaults here.

A section per word of the line. An overlay lists only what differs: a file, or a preset by its name. KFP hands numbers over as floats (8 -> 8.0):
whole floats are taken as integers, 8.5 is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from dubmill.config.overlays import layers_of
from dubmill.config.scorers import ScorersParams
from dubmill.config.section import Cosine, Count, Decibels, NotNegative, Positive, Section, Seed, Share
from dubmill.errors import InvalidParamsError


def _falling(sigmas: list[float]) -> list[float]:
    if sigmas != sorted(set(sigmas), reverse=True) or not all(0 < sigma <= 1 for sigma in sigmas):
        raise ValueError("noise levels fall within (0, 1], without the final 0")
    return sigmas


Sigmas = Annotated[list[float], AfterValidator(_falling)]


def _two_sizes(sizes: list[int]) -> list[int]:
    if not 0 < sizes[0] < sizes[1]:
        raise ValueError("two sizes, the larger one last")
    return sizes


def _two_percentiles(percentiles: list[float]) -> list[float]:
    if not 0 < percentiles[0] < percentiles[1] < 100:
        raise ValueError("two percentiles between 0 and 100, the larger one last")
    return percentiles


Two = Field(min_length=2, max_length=2)


class BackboneParams(Section):
    """Which joint audio-video diffusion model to use."""

    source: Literal["nano", "hub"] = Field(description="nano: embedded; hub: a diffusers LTX-2 repository or folder")
    repo: str = Field(description="hub: repository id or local folder; nano: ignored, keep 'nano'")
    revision: str = Field(
        description="hub: branch, tag or commit, sealed as the commit; nano: ignored, keep 'embedded'"
    )
    licence: str = Field(description="licence id that every derivative carries")
    architecture: Literal["nano", "ltx-2-19b", "ltx-2.3-22b"] = Field(
        description="whose sizes `dubmill plan` counts with"
    )
    upsampler: str = Field(
        description="hub: repo@revision of a latent upsampler in diffusers' layout, if `repo` has none; none: without"
    )
    text_encoder: str = Field(description="where the text encoder comes from; it is in the repository, this names it")
    transformer_bits: Literal[8, 16] = Field(
        description="8: the weights of its blocks' linear layers lie in 8 bits; 16: in bf16 (float32 on a CPU)"
    )
    text_encoder_bits: Literal[8, 16] = Field(description="the same of the text encoder")
    vram_gb: Count | Literal["none"] = Field(
        description="memory of the GPU that the recipe asks for; none: it runs on a CPU"
    )


class PromptsParams(Section):
    """What the synthetic speakers are and say."""

    source: Literal["grammar", "bank", "llm", "footage"] = Field(
        description="grammar: the nano world; bank: LTX-2 paragraphs; llm: an endpoint; footage: own recordings"
    )
    licence: str = Field(description="licence of the prompts' texts, or of the recordings")
    footage: str = Field(description="footage: CSV file, or folder with a manifest.csv (docs/footage.md); else none")
    seed: Seed = Field(description="seed of every draw")
    num_train: Count = Field(description="switch-clip prompts to make pairs from")
    num_heldout: Count = Field(description="prompts whose clips are kept for evaluation")
    languages: list[str] = Field(min_length=2, description="BCP-47 tags; every ordered pair of two is drawn")
    line_seconds: Positive = Field(
        description="bank, llm: seconds that a spoken line has, half a switch clip; grammar: ignored"
    )
    llm_url: str = Field(description="llm: base URL of an OpenAI-compatible endpoint")
    llm_model: str = Field(description="llm: model name")
    llm_attempts: Count = Field(
        description="llm: times an answer that breaks the schema is asked again before it is dropped"
    )


class SamplingParams(Section):
    """How a generation is sampled; the released figures are in docs."""

    num_steps: Count = Field(description="denoising steps; not read where sigmas are given")
    sigmas: Sigmas = Field(description="noise levels, falling, without the final 0; empty: the backbone's own")
    shift_tokens: Literal["clip"] | int = Field(
        description="video tokens, > 0, that the noise schedule is shifted for; clip: those of the clip itself"
    )
    negative_prompt: str = Field(description="prompt that classifier-free guidance moves away from; may be empty")
    video_guidance: Positive = Field(description="classifier-free guidance of the video; 1 is off")
    audio_guidance: Positive = Field(description="classifier-free guidance of the audio; 1 is off")
    video_stg: float = Field(ge=0, description="spatio-temporal guidance of the video; 0 is off")
    audio_stg: float = Field(ge=0, description="spatio-temporal guidance of the audio; 0 is off")
    stg_blocks: list[int] = Field(description="transformer blocks that spatio-temporal guidance perturbs, from 0")
    video_modality: Positive = Field(description="guidance of the video away from one deaf to the audio; 1 is off")
    audio_modality: Positive = Field(description="guidance of the audio away from one blind to the video; 1 is off")
    video_rescale: Share = Field(description="how far the guided video is rescaled to the spread of the unguided")
    audio_rescale: Share = Field(description="how far the guided audio is rescaled to the spread of the unguided")

    @model_validator(mode="after")
    def _shifts_for_tokens(self) -> Self:
        if self.shift_tokens != "clip" and self.shift_tokens < 1:
            raise ValueError("shift_tokens is clip or a number of tokens")
        return self

    @model_validator(mode="after")
    def _perturbs_something(self) -> Self:
        if (self.video_stg or self.audio_stg) and not self.stg_blocks:
            raise ValueError("spatio-temporal guidance needs stg_blocks")
        return self


class SecondStageParams(Section):
    """The dub made once more at twice the size from its upsampled latents; its sound stays."""

    sigmas: Sigmas = Field(description="noise levels, falling, without the final 0; empty: one stage only")
    keep_adapter: bool = Field(description="whether the dubbing adapter is on in the second stage too")
    lora: str = Field(description="a LoRA file that is on in the second stage only, or 'none'")


class DubSamplingParams(SamplingParams):
    """How a dub is sampled."""

    first_frame: bool = Field(description="whether the source's first frame is given clean as the dub's")
    second_stage: SecondStageParams = Field(description="twice the size, where the backbone has a latent upsampler")


class SynthesizeParams(Section):
    """Generation of switch clips, whose speaker changes language half-way."""

    seed: Seed
    num_frames: Count = Field(description="frames of a switch clip: 2 x temporal ratio x k + 1")
    height: Count = Field(description="pixels")
    width: Count = Field(description="pixels")
    frame_rate: Positive = Field(description="frames per second")
    batch_size: Count = Field(description="clips generated at once")
    sampling: SamplingParams


class WorldParams(Section):
    """How hard the films of the nano world are, for trials of robustness; nano is trained without any of it."""

    head_turn: Share = Field(description="how far the head turns from side to side; 0: not at all")
    occluder: Share = Field(description="share of the clip for which a hand covers the mouth")
    noise: float = Field(ge=0, description="noise under the speech, RMS as a share of the words'")
    music: float = Field(ge=0, description="music under the speech, RMS as a share of the words'")
    tempo: float = Field(ge=0.5, le=2, description="speed of the speech against the usual")


class InpaintParams(Section):
    """Re-voicing each half of a switch clip into the other half's language."""

    source: Literal["self-made", "world", "footage"] = Field(
        description="self-made: inpainted clips; world: exact pairs (nano only); footage: recordings in two languages"
    )
    seed: Seed
    batch_size: Count = Field(description="clips inpainted at once")
    mask_threshold: Positive = Field(
        description="latent residual above which a token counts as touched by the mouth (method: 0.1)"
    )
    mask_norm: Literal["max", "mean"] = Field(
        description="how the residual is reduced over channels, in units of the latent's std"
    )
    mouth_margin: Share = Field(description="widening of the mouth box, as a share of its size, before it is filled")
    world: WorldParams = Field(
        description="the films of the nano world: its held-out pairs, and all pairs of source world"
    )
    lip_augmentation_share: Share = Field(
        description="share of clips whose mouth is inpainted again, over-articulated, to the first pass's sound"
    )
    resamplings: Count = Field(description="times each step is re-noised and repeated (1: none), as in RePaint")
    sampling: SamplingParams


class Thresholds(Section):
    """The bounds of one level of gates; a pair outside one of them is named by it. Where one is none, nothing is held against it."""

    min_words_right: Share | Literal["none"] = Field(
        description="share of asked words recognised in order, worse of the two clips"
    )
    min_language_right: Share | Literal["none"] = Field(
        description="share of recognised words in the asked language, worse of the two clips"
    )
    min_voice_cosine: Cosine | Literal["none"] = Field(description="cosine of the two voices")
    min_identity_cosine: Cosine | Literal["none"] = Field(description="cosine of the two faces")
    min_sync_correlation: Cosine | Literal["none"] = Field(
        description="mouth opening seen against heard, worse of the two clips"
    )
    min_lse_c: NotNegative | Literal["none"] = Field(
        description="LSE-C: confidence of lip sync, worse of the two clips"
    )
    max_lse_d: NotNegative | Literal["none"] = Field(description="LSE-D: distance of lip sync, worse of the two clips")
    max_sync_offset_frames: NotNegative | Literal["none"] = Field(
        description="offset of the sound in frames, worse of the two clips"
    )
    min_mouth_sharpness: NotNegative | Literal["none"] = Field(
        description="gradient inside the mouth box, counterpart to original"
    )
    min_outside_psnr_db: NotNegative | Literal["none"] = Field(description="likeness outside the mouth box")
    min_mouth_change: Share | Literal["none"] = Field(
        description="mean absolute difference inside the mouth box, 0..1: nothing changed means copied"
    )
    max_old_motion_correlation: Cosine | Literal["none"] = Field(
        description="mouth opening of the one against the other: leakage"
    )
    min_loudness_dbfs: Decibels | Literal["none"] = Field(description="RMS of the quieter clip")
    max_clipped_share: Share | Literal["none"] = Field(description="share of samples at full scale")
    max_duration_gap_ms: NotNegative | Literal["none"] = Field(
        description="picture against sound, and clip against clip"
    )


class GateParams(Section):
    """Which pairs may train an adapter."""

    strict: Thresholds = Field(description="a pair outside these is rejected")
    warning: Thresholds = Field(description="a pair outside these is kept and reported")
    min_accepted_share: Share = Field(description="below this share the step fails")


class EncodeParams(Section):
    """Turning accepted pairs into latents and text features, once."""

    batch_size: Count = Field(description="clips encoded at once")
    face_margin: Share = Field(description="widening of the mouth box to the face region that the loss weighs fully")


class SigmaSamplerParams(Section):
    """How the noise level of a training sample is drawn."""

    kind: Literal["shifted-logit-normal", "stretched-logit-normal", "two-logit-normals"] = Field(
        description="JUST-DUB-IT's released sampler, LTX-2 trainer 1.2.0's for many tokens, or nano's"
    )
    std: Positive = Field(description="spread of the normal draws that the sigmoid is taken of")
    shift_tokens: Annotated[list[int], Two, AfterValidator(_two_sizes)] = Field(
        description="shifted, stretched: two numbers of the target's video tokens, through whose `shifts` a line is laid"
    )
    shifts: Annotated[list[float], Two] = Field(
        description="shifted, stretched: mean of the normal draws at either of `shift_tokens`"
    )
    percentiles: Annotated[list[float], Two, AfterValidator(_two_percentiles)] = Field(
        description="stretched: of the shifted draws, those that become sigma 0 and 1"
    )
    least: float = Field(
        gt=0, lt=1, description="stretched: sigma at which lower ones are mirrored, and where uniform draws begin"
    )
    uniform_share: Share = Field(description="stretched: share of draws replaced by uniform ones")
    means: Annotated[list[float], Two] = Field(
        description="two-logit-normals: means of the normal draws, half by either"
    )


class ValidationParams(Section):
    """What an adapter says while it is trained: training pairs dubbed now and then, to be looked at."""

    every_steps: int = Field(ge=0, description="optimizer steps between; 0: never")
    num_clips: Count = Field(description="training pairs that are dubbed, from the first; all, where there are fewer")
    sampling: SamplingParams


class TrainParams(Section):
    """Fitting one LoRA on reference-conditioned pairs."""

    seed: Seed
    rank: Count = Field(description="LoRA rank")
    alpha: Positive = Field(description="LoRA scale numerator; the scale is alpha / rank")
    dropout: Share
    targets: list[str] = Field(min_length=1, description="suffixes of the linear layers that get a LoRA")
    num_steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(description="samples of a batch; several processes share them")
    accumulate: Count = Field(description="batches per optimizer step")
    learning_rate: Positive
    learning_rate_groups: dict[str, Positive] = Field(
        description="anchored regular expression on a module name -> its own rate"
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(description="decay to zero, after the warm-up")
    num_warmup_steps: int = Field(ge=0)
    optimizer: Literal["adamw", "adamw8bit"] = Field(description="adamw8bit: moments in 8 bits (CUDA, bitsandbytes)")
    weight_decay: float = Field(ge=0)
    max_grad_norm: Positive
    shared_sigma: bool = Field(description="one sigma for video and audio of a sample (the paper), or one each")
    sigma_sampler: SigmaSamplerParams
    first_frame_probability: Share = Field(description="chance that the first latent frame is given clean")
    drop_caption_probability: Share = Field(
        description="chance that the caption is emptied, for classifier-free guidance"
    )
    reverse_probability: Share = Field(
        description="chance that the counterpart is the reference and the original the target"
    )
    background_weight: Share = Field(description="loss weight of video tokens outside the face")
    reference_positions: Literal["shared", "negative"] = Field(description="RoPE positions of the reference audio")
    reference_attention: Literal["full", "self"] = Field(
        description="full: reference and target tokens attend to each other; self: reference tokens to themselves alone,"
        " so that a dub computes their keys and values once"
    )
    isolate_modalities: bool = Field(
        description="only noisy video and noisy audio see each other across modalities (paper, eq. 2)"
    )
    mixed_precision: Literal["none", "bf16"]
    gradient_checkpointing: bool
    parallel: Literal["ddp", "fsdp"] = Field(
        description="with several processes: each holds the whole model, or its weights are spread over them"
    )
    checkpoint_every: Count = Field(description="optimizer steps between checkpoints")
    keep_checkpoints: Count
    validation: ValidationParams

    @model_validator(mode="after")
    def _self_is_isolated(self) -> Self:
        if self.reference_attention == "self" and not self.isolate_modalities:
            raise ValueError("reference_attention: self needs isolate_modalities: true")
        return self


class DubParams(Section):
    """Dubbing the held-out clips."""

    seed: Seed
    methods: list[Literal["adapter", "base", "cascade", "ceiling"]] = Field(
        min_length=1,
        description="cascade: the counterpart's speech with the unchanged picture; ceiling: the counterpart; both after"
        " the autoencoders and the vocoder",
    )
    adapter_strength: Positive = Field(description="LoRA weight at inference")
    batch_size: Count
    sampling: DubSamplingParams


class EvaluateParams(Section):
    """Measuring the dubs."""

    seed: Seed
    num_bootstrap: Count = Field(description="resamples behind each interval")
    confidence: Share = Field(description="coverage of the intervals")
    num_showcase: Count = Field(description="held-out clips shown side by side in the report")


class RegisterParams(Section):
    """Where a trained adapter is registered."""

    experiment: str = Field(description="MLflow experiment")
    model: str = Field(description="registered model name")


class PromoteParams(Section):
    """When a challenger becomes champion."""

    improve: list[str] = Field(
        min_length=1, description="metrics of which at least one must be better than the champion's"
    )
    max_regression: dict[str, float] = Field(description="metric -> the most it may get worse, in its own unit")
    min_shares: dict[str, Share] = Field(
        description="metric -> the least share of the way from its floor (mismatched clips) to its ceiling (the true dub"
        " after the autoencoders and the vocoder) that a champion's mean must reach"
    )


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message='Field name "register"')  # the step's word; ABCMeta.register is not used

    class Params(Section):
        """All sections: the steps in the order of the line, then the measuring models."""

        backbone: BackboneParams
        prompts: PromptsParams
        synthesize: SynthesizeParams
        inpaint: InpaintParams
        gate: GateParams
        encode: EncodeParams
        train: TrainParams
        dub: DubParams
        evaluate: EvaluateParams
        register: RegisterParams  # type: ignore[assignment]
        promote: PromoteParams
        scorers: ScorersParams


MODELS = "scorers"  # the one section that is no step of the line: `gate` and `evaluate` read it
STEPS = tuple(name for name in Params.model_fields if name != MODELS)


def load(path: Path, *overlays: Path) -> Params:
    """Params of `path` with each overlay, a file or a preset's name, laid over it in turn.

    Raises:
        InvalidParamsError: see `layers_of` and `validate`; it names the first file with which the values are invalid.
    """
    layers = layers_of(path, overlays)
    try:
        return validate(Params, layers[-1][1], str(path))
    except InvalidParamsError:
        for where, values in layers:
            validate(Params, values, where)
        raise


Kind = TypeVar("Kind", bound=Section)


def validate(kind: type[Kind], data: Mapping[str, Any], where: str) -> Kind:
    """`data` as a section, or one sentence about the first fault.

    Raises:
        InvalidParamsError: a name, type or bound is broken.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])
        given = f" (given: {fault['input']!r})" if not isinstance(fault["input"], Mapping) else ""
        raise InvalidParamsError(
            f"{name}: {fault['msg']}{given}", where=where, cure="see `dubmill params` for the meaning and bounds"
        ) from error
