"""Parameters of the step `train`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dubmill.config.sampling import SamplingParams
from dubmill.config.section import Count, Positive, Section, Seed, Share


def _two_sizes(sizes: list[int]) -> list[int]:
    if not 0 < sizes[0] < sizes[1]:
        raise ValueError("two sizes, the larger one last")
    return sizes


def _two_percentiles(percentiles: list[float]) -> list[float]:
    if not 0 < percentiles[0] < percentiles[1] < 100:
        raise ValueError("two percentiles between 0 and 100, the larger one last")
    return percentiles


Two = Field(min_length=2, max_length=2)


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
