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
    """Sampling of the noise levels (sigmas) of a training."""

    kind: Literal["shifted-logit-normal", "stretched-logit-normal", "two-logit-normals"] = Field(
        description="JUST-DUB-IT's released sampler, LTX-2 trainer 1.2.0's for many tokens, or nano's"
    )
    std: Positive = Field(description="standard deviation of the normal samples, before the sigmoid")
    shift_tokens: Annotated[list[int], Two, AfterValidator(_two_sizes)] = Field(
        description="shifted, stretched: two numbers of target video tokens; for others `shifts` is interpolated linearly"
    )
    shifts: Annotated[list[float], Two] = Field(
        description="shifted, stretched: mean of the normal samples at each of `shift_tokens`"
    )
    percentiles: Annotated[list[float], Two, AfterValidator(_two_percentiles)] = Field(
        description="stretched: percentiles of the shifted samples that are moved to sigma 0 and 1"
    )
    least: float = Field(
        gt=0, lt=1, description="stretched: smallest sigma; lower samples are mirrored at it, uniform ones begin there"
    )
    uniform_share: Share = Field(description="stretched: share of the samples that are replaced by uniform ones")
    means: Annotated[list[float], Two] = Field(
        description="two-logit-normals: means of the two normal distributions; half of the samples come from each"
    )


class ValidationParams(Section):
    """Validation dubs: training pairs dubbed by the adapter during its training, for a person to look at."""

    every_steps: int = Field(ge=0, description="optimizer steps between validations; 0: no validation")
    num_clips: Count = Field(description="number of training pairs to dub, the first ones of the set")
    sampling: SamplingParams


class TrainParams(Section):
    """Fitting one LoRA on reference-conditioned pairs."""

    seed: Seed = Field(description="seed of the first weights, the batches and the noise")
    rank: Count = Field(description="LoRA rank")
    alpha: Positive = Field(description="LoRA scale numerator; the scale is alpha / rank")
    dropout: Share = Field(description="dropout probability of the LoRA layers")
    targets: list[str] = Field(min_length=1, description="suffixes of the linear layers that get a LoRA")
    num_steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(description="samples of a batch; several processes share them")
    accumulate: Count = Field(description="batches per optimizer step")
    learning_rate: Positive = Field(description="peak learning rate of the LoRA weights in no group")
    learning_rate_groups: dict[str, Positive] = Field(
        description="anchored regular expression on a module name -> its own rate"
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(description="decay to zero, after the warm-up")
    num_warmup_steps: int = Field(ge=0, description="optimizer steps of linear warm-up")
    optimizer: Literal["adamw", "adamw8bit"] = Field(description="adamw8bit: moments in 8 bits (CUDA, bitsandbytes)")
    weight_decay: float = Field(ge=0, description="weight decay of AdamW")
    max_grad_norm: Positive = Field(description="norm that gradients are clipped to")
    shared_sigma: bool = Field(description="one sigma for video and audio of a sample (the paper), or one each")
    sigma_sampler: SigmaSamplerParams
    first_frame_probability: Share = Field(description="probability that the first latent frame is given without noise")
    drop_caption_probability: Share = Field(
        description="probability that the caption is replaced by an empty one, for classifier-free guidance"
    )
    reverse_probability: Share = Field(
        description="probability that the counterpart is the reference and the original is the target"
    )
    background_weight: Share = Field(description="loss weight of video tokens outside the face")
    reference_positions: Literal["shared", "negative"] = Field(description="RoPE positions of the reference audio")
    reference_attention: Literal["full", "self"] = Field(
        description="full: reference and target tokens attend to each other; self: reference tokens attend only to themselves,"
        " so that a dub computes their keys and values once"
    )
    isolate_modalities: bool = Field(
        description="in attention between video and audio only target tokens take part, no reference tokens (paper, eq. 2)"
    )
    mixed_precision: Literal["none", "bf16"] = Field(description="none: float32; bf16: bfloat16 autocast")
    gradient_checkpointing: bool = Field(
        description="recompute activations in the backward pass: less memory, more time"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        description="with several processes: ddp: each holds the whole model; fsdp: its weights are sharded over them"
    )
    checkpoint_every: Count = Field(description="optimizer steps between checkpoints")
    keep_checkpoints: Count = Field(description="checkpoints that are kept; older ones are deleted")
    validation: ValidationParams

    @model_validator(mode="after")
    def _self_is_isolated(self) -> Self:
        if self.reference_attention == "self" and not self.isolate_modalities:
            raise ValueError("reference_attention: self needs isolate_modalities: true")
        return self
