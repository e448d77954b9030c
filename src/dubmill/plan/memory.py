"""Counts the GPU memory that a step takes at its peak, in bytes, for a given set of memory savings."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from dubmill.config.params import Params
from dubmill.plan.architecture import PARTS, Architecture
from dubmill.plan.layers import Int8Layers, Tokens
from dubmill.plan.work import Work, uses_distilled_lora

BF16, FP32 = 2, 4
ADAMW, ADAMW_8BIT = 8, 2  # bytes of the two moments of one parameter
NOT_QUANTIZED = Int8Layers(0, 0)


@dataclass(frozen=True)
class MemorySavings:
    """Which memory savings a step uses; with all of them off it is as fast as it can be."""

    gradient_checkpointing: bool
    adamw_8bit: bool
    batch_of_one: bool
    text_encoder_on_cpu: bool
    text_encoder_int8: bool
    fsdp: bool  # weights, gradients and moments are sharded over the GPUs
    transformer_int8: bool


@dataclass(frozen=True)
class Memory:
    """Bytes at a step's peak, by what they hold."""

    weights: float
    lora: float  # the dubbing adapter, and the distilled LoRA where the step samples with it
    gradients: float
    moments: float
    activations: float  # the transformer's or the video VAE's, whichever are more: they work in turn
    reserve: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(astuple(self))


@dataclass(frozen=True)
class GpuSetup:
    """The GPUs that memory is counted for, and what must stay free on each."""

    num_gpus: int
    context_bytes: float
    margin: float  # factor on activations


def savings_in_params(params: Params) -> MemorySavings:
    """Returns the memory savings that the parameters turn on already."""
    return MemorySavings(
        gradient_checkpointing=params.train.gradient_checkpointing,
        adamw_8bit=params.train.optimizer == "adamw8bit",
        batch_of_one=False,
        text_encoder_on_cpu=False,
        text_encoder_int8=params.backbone.text_encoder_bits == 8,
        fsdp=params.train.parallel == "fsdp",
        transformer_int8=params.backbone.transformer_bits == 8,
    )


def memory_of(
    work: Work, params: Params, architecture: Architecture, savings: MemorySavings, setup: GpuSetup
) -> Memory:
    """Returns the peak of one step on one GPU."""
    precision = architecture.number_bytes / BF16
    share = 1 / work.batch_size if savings.batch_of_one else 1
    denoising = precision * _activations(work, architecture, savings) + _masks(work, params)
    if work.step == "dub" and params.train.reference_attention == "self":
        denoising += precision * _reference_cache(work, architecture)
    vae = architecture.video_vae
    coding = precision * work.num_pixels * (vae.encode_bytes if work.step == "encode" else vae.decode_bytes)
    lora, gradients, moments = _trained(work, params, architecture, savings, setup)
    lora += architecture.distilled_lora_bytes * uses_distilled_lora(work.step, params)
    text_encoder = _text_encoder(work, architecture, savings)  # on the GPU only while captions are encoded
    busy = max(share * max(denoising, coding), text_encoder)
    return Memory(
        weights=_weights(work, architecture, savings, setup),
        lora=lora,
        gradients=gradients,
        moments=moments,
        activations=busy,
        reserve=setup.context_bytes + (setup.margin - 1) * busy,
    )


def dub_clip_bytes(
    architecture: Architecture, tokens: Tokens, num_pixels: int, *, num_samples: int, caches_reference: bool
) -> float:
    """Returns the bytes that each clip of a batch takes while it is dubbed, without a margin; the weights are not counted.

    `tokens` are those of the clip and of its reference, and `num_samples` go through the transformer for it at once.
    """
    work = Work(
        step="dub",
        amount="1 clip",
        tokens=tokens,
        batch_size=1,
        num_samples=num_samples,
        num_pixels=num_pixels,
        flops=0.0,
        parts=PARTS,
        num_parts=1,
    )
    denoising = _sampling_activations(work, architecture)
    if caches_reference:
        denoising += _reference_cache(work, architecture)
    return architecture.number_bytes / BF16 * max(denoising, num_pixels * architecture.video_vae.decode_bytes)


def weight_bytes(count: int, int8_layers: Int8Layers, number_bytes: float) -> float:
    """Returns the bytes of `count` frozen weights; int8 ones take one byte each, and each of their rows a scale of four."""
    return number_bytes * (count - int8_layers.weights) + int8_layers.weights + FP32 * int8_layers.rows


def _weights(work: Work, architecture: Architecture, savings: MemorySavings, setup: GpuSetup) -> float:
    """Returns the bytes of the frozen weights on the GPU."""
    number_bytes, model = architecture.number_bytes, architecture.transformer
    is_int8 = {"transformer": savings.transformer_int8, "text_encoder": savings.text_encoder_int8}
    int8_layers = {part: layers for part, layers in architecture.int8_layers.items() if is_int8[part]}
    parts = {
        part: weight_bytes(
            architecture.parameters[part],
            int8_layers.get(part, NOT_QUANTIZED),
            FP32 if part == "vocoder" else number_bytes,  # always float32: bf16 spoils the phases of its spectrum
        )
        for part in work.parts
        if part != "text_encoder"
    }
    if savings.fsdp and work.step == "train":
        block = model.int8_block if savings.transformer_int8 else NOT_QUANTIZED
        gathered = 2 * weight_bytes(model.block_parameters, block, number_bytes)  # one in use, the next prefetched
        parts["transformer"] = parts["transformer"] / setup.num_gpus + gathered
    return sum(parts.values())


def _text_encoder(work: Work, architecture: Architecture, savings: MemorySavings) -> float:
    """Returns the bytes of the text encoder's weights, if captions are encoded on the GPU."""
    if "text_encoder" not in work.parts or savings.text_encoder_on_cpu:
        return 0.0
    int8_layers = architecture.int8_layers["text_encoder"] if savings.text_encoder_int8 else NOT_QUANTIZED
    return weight_bytes(architecture.parameters["text_encoder"], int8_layers, architecture.number_bytes)


def _trained(
    work: Work, params: Params, architecture: Architecture, savings: MemorySavings, setup: GpuSetup
) -> tuple[float, float, float]:
    """Returns bytes of the LoRA (float32, and bf16 copies under mixed precision), its gradients and moments."""
    count = architecture.transformer.num_lora_parameters(params.train.rank, params.train.targets)
    if work.step == "dub":
        return float(FP32 * count), 0.0, 0.0
    if work.step != "train":
        return 0.0, 0.0, 0.0
    num_shards = setup.num_gpus if savings.fsdp else 1
    copies = BF16 * count if params.train.mixed_precision == "bf16" else 0
    moments = count * (ADAMW_8BIT if savings.adamw_8bit else ADAMW)
    return FP32 * count / num_shards + copies, FP32 * count / num_shards, moments / num_shards


def _activations(work: Work, architecture: Architecture, savings: MemorySavings) -> float:
    """Returns the bytes of the transformer's activations in bf16."""
    units, model = architecture.activations, architecture.transformer
    if work.step != "train":
        return _sampling_activations(work, architecture)
    video, audio = _stream_bytes(work, architecture)
    block = units.block_video * video + units.block_audio * audio
    around = units.around * (video + audio)
    inputs = model.num_blocks * (video + audio)
    kept = block + inputs if savings.gradient_checkpointing else model.num_blocks * block
    return work.num_samples * (around + kept)


def _sampling_activations(work: Work, architecture: Architecture) -> float:
    return work.num_samples * architecture.activations.inference * sum(_stream_bytes(work, architecture))


def _reference_cache(work: Work, architecture: Architecture) -> float:
    """Returns the bytes in bf16 of all blocks' keys and values of the references, which are half of the tokens."""
    return work.batch_size * architecture.transformer.num_blocks * sum(_stream_bytes(work, architecture))


def _stream_bytes(work: Work, architecture: Architecture) -> tuple[int, int]:
    """Returns the bytes in bf16 of one sample's video and audio tokens at the width of the transformer."""
    tokens, model = work.tokens, architecture.transformer
    return BF16 * tokens.video * model.video_width, BF16 * tokens.audio * model.audio_width


def _masks(work: Work, params: Params) -> float:
    """Returns the bytes of the masks that isolate a reference from the other modality, one for each direction.

    All layers, samples and heads share them.
    """
    if work.step not in ("train", "dub") or not params.train.isolate_modalities:
        return 0.0
    return float(2 * BF16 * work.tokens.video * work.tokens.audio)
