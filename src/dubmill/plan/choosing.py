"""Which measures make a step fit a GPU, in the order of what they cost; or what would, where none do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dubmill.config.params import Params
from dubmill.errors import GpuMemoryError
from dubmill.plan.architecture import Architecture
from dubmill.plan.disk import disk_of
from dubmill.plan.gpus import Assumptions, Gpu, assumptions, gpus
from dubmill.plan.memory import Machine, Measures, Memory, memory_of
from dubmill.plan.work import Work, work_of

TERA, GB, HOUR = 1e12, 1e9, 3600
RECOMPUTED = 3 / 2  # two forward passes and one backward of about the same cost, against one and one


@dataclass(frozen=True)
class Choice:
    """One measure: which steps it can help, what sets it, which one before it then saves nothing, and which bars it."""

    measure: str
    steps: tuple[str, ...]
    how: str
    instead_of: str = ""
    never_with: str = ""


SAMPLING = ("synthesize", "inpaint", "dub")
LADDER = (
    Choice("one_by_one", ("synthesize", "inpaint", "encode", "train", "dub"), "{step}.batch_size: 1"),
    Choice("checkpointing", ("train",), "train.gradient_checkpointing: true"),
    Choice("fsdp", ("train",), "train.parallel: fsdp"),
    Choice("adamw_8bit", ("train",), "train.optimizer: adamw8bit", never_with="fsdp"),
    Choice("text_encoder_8bit", (*SAMPLING, "encode"), "backbone.text_encoder_bits: 8"),
    Choice("text_encoder_off", (*SAMPLING, "encode"), "DUBMILL_TEXT_ENCODER=cpu", instead_of="text_encoder_8bit"),
    Choice("base_8bit", (*SAMPLING, "train"), "backbone.transformer_bits: 8"),
)


@dataclass(frozen=True)
class StepPlan:
    """One step on one kind of GPU."""

    work: Work
    memory: Memory
    taken: tuple[Choice, ...]
    seconds: tuple[float, float]  # fastest, slowest
    num_gpus: int  # that can work at it at once

    @property
    def hows(self) -> list[str]:
        """What to set for the step to fit."""
        return [choice.how.format(step=self.work.step) for choice in self.taken]


@dataclass(frozen=True)
class Asked:
    """What a plan is made for."""

    params: Params
    architecture: Architecture
    gpu: Gpu
    num_gpus: int
    price: float  # of one GPU and hour


@dataclass(frozen=True)
class Plan:
    """All steps, the disk, and what the run costs."""

    asked: Asked
    steps: tuple[StepPlan, ...]
    disk: dict[str, int]
    assumed: Assumptions

    @property
    def gpu_hours(self) -> tuple[float, float]:
        """GPU hours of the run: a step pays for the GPUs that work at it."""
        low, high = (sum(step.seconds[end] * step.num_gpus for step in self.steps) / HOUR for end in (0, 1))
        return low, high

    @property
    def cost(self) -> tuple[float, float]:
        """US dollars, from the fastest to the slowest."""
        low, high = self.gpu_hours
        return low * self.asked.price, high * self.asked.price


def plan(asked: Asked) -> Plan:
    """How the GPU steps of a run fit.

    Raises:
        GpuMemoryError: a step fits by no measure; the sentence tells what would do.
    """
    steps = tuple(_step(work, asked) for work in work_of(asked.params, asked.architecture))
    return Plan(asked, steps, disk_of(asked.params, asked.architecture), assumptions())


def as_set(params: Params) -> Measures:
    """The measures that the parameters take already."""
    return Measures(
        checkpointing=params.train.gradient_checkpointing,
        adamw_8bit=params.train.optimizer == "adamw8bit",
        one_by_one=False,
        text_encoder_off=False,
        text_encoder_8bit=params.backbone.text_encoder_bits == 8,
        fsdp=params.train.parallel == "fsdp",
        base_8bit=params.backbone.transformer_bits == 8,
    )


def fitted(work: Work, asked: Asked) -> tuple[Memory, Measures, tuple[Choice, ...]]:
    """The step's memory under as many measures of the ladder as it needs, be they enough or not, and which those are."""
    assumed = assumptions()
    machine = Machine(asked.num_gpus, assumed.context_bytes, assumed.margin)
    measures, taken = as_set(asked.params), ()
    memory = memory_of(work, asked.params, asked.architecture, measures, machine)
    for choice in LADDER:
        if memory.total <= asked.gpu.vram_bytes:
            break
        if work.step not in choice.steps or (choice.never_with and getattr(measures, choice.never_with)):
            continue
        helped = replace(measures, **{choice.measure: True})
        less = memory_of(work, asked.params, asked.architecture, helped, machine)
        if less.total < memory.total:
            kept = (one for one in taken if one.measure != choice.instead_of)
            measures, memory, taken = helped, less, (*kept, choice)
    return memory, measures, taken


def _step(work: Work, asked: Asked) -> StepPlan:
    memory, measures, taken = fitted(work, asked)
    if memory.total > asked.gpu.vram_bytes:
        raise GpuMemoryError(
            f"{work.step} needs {memory.total / GB:.0f} GB of the {asked.gpu.vram_bytes / GB:.0f} GB of each GPU",
            where=f"{asked.num_gpus} x {asked.gpu.name}",
            cure=_what_would_do(asked),
        )
    flops = work.flops
    if work.step == "train" and measures.checkpointing and not asked.params.train.gradient_checkpointing:
        flops *= RECOMPUTED
    at_work = min(asked.num_gpus, work.num_shares)
    uses_fsdp = work.step == "train" and measures.fsdp
    speed, assumed = asked.gpu.tflops * TERA * at_work, assumptions()
    seconds = (flops / speed / assumed.fastest, flops / speed / assumed.slowest)
    return StepPlan(work, memory, taken, seconds, asked.num_gpus if uses_fsdp else at_work)


def _what_would_do(asked: Asked) -> str:
    """The least change under which all steps of the run fit: a larger GPU, or more of this one."""
    larger = (replace(asked, gpu=one) for one in gpus() if one.vram_bytes > asked.gpu.vram_bytes)
    more = (replace(asked, num_gpus=count) for count in (2, 4, 8) if count > asked.num_gpus)
    kind = next((f"use --gpu {other.gpu.name}" for other in larger if _fits(other)), "")
    count = next((f"use --gpus {other.num_gpus}" for other in more if _fits(other)), "")
    return " or ".join(filter(None, (kind, count))) or "make the clips or train.rank smaller"


def _fits(asked: Asked) -> bool:
    works = work_of(asked.params, asked.architecture)
    return all(fitted(work, asked)[0].total <= asked.gpu.vram_bytes for work in works)
