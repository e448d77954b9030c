"""Memory of the GPU that a step takes at its peak, in bytes, under given measures against running out of it."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from dubmill.config.params import Params
from dubmill.plan.architecture import Architecture
from dubmill.plan.layers import Packed
from dubmill.plan.work import Work

BF16, FP32 = 2, 4
ADAMW, ADAMW_8BIT = 8, 2  # bytes of the two moments of one parameter
UNPACKED = Packed(0, 0)


@dataclass(frozen=True)
class Measures:
    """How a step is made to fit; all false is as fast as it can be."""

    checkpointing: bool  # blocks are computed again in the backward pass
    adamw_8bit: bool
    one_by_one: bool  # batches of one clip
    text_encoder_off: bool  # on the CPU
    text_encoder_8bit: bool
    fsdp: bool  # weights and what is trained are spread over the GPUs
    base_8bit: bool  # the transformer's frozen weights


@dataclass(frozen=True)
class Memory:
    """Bytes at a step's peak, by what they hold."""

    weights: float
    lora: float
    gradients: float
    moments: float
    activations: float  # the transformer's, or the video VAE's, whichever is more: they work in turn
    reserve: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(astuple(self))


@dataclass(frozen=True)
class Machine:
    """What memory is counted for: how many GPUs, and what must stay free on each."""

    num_gpus: int
    context_bytes: float
    margin: float  # factor on activations


def memory_of(work: Work, params: Params, architecture: Architecture, measures: Measures, machine: Machine) -> Memory:
    """The peak of one step on one GPU."""
    wide = FP32 / BF16 if architecture.name == "nano" else 1  # nano runs in float32
    share = 1 / work.batch_size if measures.one_by_one else 1
    denoising = wide * _activations(work, architecture, measures) + _masks(work, params, architecture, measures)
    vae = architecture.video_vae
    coding = wide * work.pixels * (vae.encode_bytes if work.step == "encode" else vae.decode_bytes)
    busy = share * max(denoising, coding)
    lora, gradients, moments = _trained(work, params, architecture, measures, machine)
    return Memory(
        weights=_weights(work, architecture, measures, machine, wide * BF16),
        lora=lora,
        gradients=gradients,
        moments=moments,
        activations=busy,
        reserve=machine.context_bytes + (machine.margin - 1) * busy,
    )


def weight_bytes(count: int, packed: Packed, number_bytes: float) -> float:
    """Bytes of `count` frozen weights of which the packed ones take one each, and four for the scale of their row."""
    return number_bytes * (count - packed.weights) + packed.weights + FP32 * packed.rows


def _weights(
    work: Work, architecture: Architecture, measures: Measures, machine: Machine, number_bytes: float
) -> float:
    """Bytes of the frozen weights on the GPU."""
    is_packed = {"transformer": measures.base_8bit, "text_encoder": measures.text_encoder_8bit}
    packed = {part: one for part, one in architecture.packed.items() if is_packed[part]}
    parts = {
        part: weight_bytes(architecture.parameters[part], packed.get(part, UNPACKED), number_bytes)
        for part in work.parts
        if not (part == "text_encoder" and measures.text_encoder_off)
    }
    if measures.fsdp and work.step == "train":
        model = architecture.transformer
        block = model.packed_block if measures.base_8bit else UNPACKED
        gathered = 2 * weight_bytes(model.block_parameters, block, number_bytes)  # one block at work, one on its way
        parts["transformer"] = parts["transformer"] / machine.num_gpus + gathered
    return sum(parts.values())


def _trained(
    work: Work, params: Params, architecture: Architecture, measures: Measures, machine: Machine
) -> tuple[float, float, float]:
    """Bytes of the LoRA in float32 with its bf16 copies under mixed precision, of its gradients and moments."""
    count = architecture.transformer.lora_parameters(params.train.rank, params.train.targets)
    if work.step == "dub":
        return float(FP32 * count), 0.0, 0.0
    if work.step != "train":
        return 0.0, 0.0, 0.0
    shares = machine.num_gpus if measures.fsdp else 1
    copies = BF16 * count if params.train.mixed_precision == "bf16" else 0
    moments = count * (ADAMW_8BIT if measures.adamw_8bit else ADAMW)
    return FP32 * count / shares + copies, FP32 * count / shares, moments / shares


def _activations(work: Work, architecture: Architecture, measures: Measures) -> float:
    """Bytes of the transformer's work in bf16."""
    units, model, tokens = architecture.activations, architecture.transformer, work.tokens
    video, audio = BF16 * tokens.video * model.video_width, BF16 * tokens.audio * model.audio_width
    if work.step != "train":
        return work.samples * units.inference * (video + audio)
    block = units.block_video * video + units.block_audio * audio
    around = units.around * (video + audio)
    kept = block + model.num_blocks * (video + audio) if measures.checkpointing else model.num_blocks * block
    return work.samples * (around + kept)


def _masks(work: Work, params: Params, architecture: Architecture, measures: Measures) -> float:
    """Bytes of the masks that keep a reference from the other modality's target, one for every head, both ways."""
    if work.step not in ("train", "dub") or not params.train.isolate_modalities:
        return 0.0
    model = architecture.transformer
    one = 2 * BF16 * model.audio_heads * work.tokens.video * work.tokens.audio * work.samples
    return float(one * (model.num_blocks if work.step == "train" and not measures.checkpointing else 1))
