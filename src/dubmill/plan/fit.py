"""Chooses the memory savings under which each step fits a GPU, in the order of what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dubmill.config.params import Params
from dubmill.errors import GpuMemoryError
from dubmill.plan.architecture import Architecture
from dubmill.plan.disk import disk_of
from dubmill.plan.gpus import Assumptions, Gpu, all_gpus, load_assumptions
from dubmill.plan.host import HostNeeds, host_needs
from dubmill.plan.memory import GpuSetup, Memory, MemorySavings, memory_of, savings_in_params
from dubmill.plan.work import Work, work_of

TERA, GB, HOUR = 1e12, 1e9, 3600
RECOMPUTE_FACTOR = 3 / 2  # gradient checkpointing: two forward passes and a backward one, each of about the same cost


@dataclass(frozen=True)
class Saving:
    """One memory saving: a field of MemorySavings, the steps it can help, and the setting that turns it on."""

    field: str
    steps: tuple[str, ...]
    setting: str
    replaces: str = ""  # a saving that it makes useless
    excluded_by: str = ""  # a saving that it cannot be combined with


SAMPLING = ("synthesize", "inpaint", "dub")
SAVINGS = (
    Saving("batch_of_one", ("synthesize", "inpaint", "encode", "train", "dub"), "{step}.batch_size: 1"),
    Saving("gradient_checkpointing", ("train",), "train.gradient_checkpointing: true"),
    Saving("fsdp", ("train",), "train.parallel: fsdp"),
    Saving("adamw_8bit", ("train",), "train.optimizer: adamw8bit", excluded_by="fsdp"),
    Saving("text_encoder_int8", (*SAMPLING, "encode"), "backbone.text_encoder_bits: 8"),
    Saving(
        "text_encoder_on_cpu", (*SAMPLING, "encode"), "DUBMILL_TEXT_ENCODER=cpu", replaces="text_encoder_int8"
    ),
    Saving("transformer_int8", (*SAMPLING, "train"), "backbone.transformer_bits: 8"),
)  # fmt: skip


@dataclass(frozen=True)
class StepPlan:
    """One step on one kind of GPU."""

    work: Work
    memory: Memory
    savings: tuple[Saving, ...]  # beyond those in the parameters
    seconds: tuple[float, float]  # fastest, slowest
    num_gpus: int  # that can work on it at once

    @property
    def settings(self) -> list[str]:
        """What to set so that the step fits."""
        return [saving.setting.format(step=self.work.step) for saving in self.savings]


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made for."""

    params: Params
    architecture: Architecture
    gpu: Gpu
    num_gpus: int
    price: float  # US dollars for one GPU and hour


@dataclass(frozen=True)
class Plan:
    """GPU steps, CPU memory of all steps, disk, and cost of a run."""

    request: PlanRequest
    steps: tuple[StepPlan, ...]
    host: dict[str, HostNeeds]
    disk: dict[str, int]
    assumed: Assumptions

    @property
    def gpu_hours(self) -> tuple[float, float]:
        """GPU hours of the run, fastest and slowest; a step pays for the GPUs that work on it."""
        low, high = (sum(step.seconds[end] * step.num_gpus for step in self.steps) / HOUR for end in (0, 1))
        return low, high

    @property
    def cost(self) -> tuple[float, float]:
        """US dollars, fastest and slowest."""
        low, high = self.gpu_hours
        return low * self.request.price, high * self.request.price


def make_plan(request: PlanRequest) -> Plan:
    """Returns how each step of a run fits, and what the run takes.

    Raises:
        GpuMemoryError: a step does not fit with all savings; the sentence says what would fit.
    """
    params, architecture = request.params, request.architecture
    steps = tuple(_plan_step(work, request) for work in work_of(params, architecture))
    host = host_needs(params, architecture, num_train_gpus=steps[-2].num_gpus)
    return Plan(request, steps, host, disk_of(params, architecture), load_assumptions())


def fit_memory(work: Work, request: PlanRequest) -> tuple[Memory, MemorySavings, tuple[Saving, ...]]:
    """Returns the step's memory with as many further savings as it needs, sufficient or not, and those savings."""
    assumed = load_assumptions()
    setup = GpuSetup(request.num_gpus, assumed.context_bytes, assumed.margin)
    savings, added = savings_in_params(request.params), ()
    memory = memory_of(work, request.params, request.architecture, savings, setup)
    for saving in SAVINGS:
        if memory.total <= request.gpu.vram_bytes:
            break
        if work.step not in saving.steps or (saving.excluded_by and getattr(savings, saving.excluded_by)):
            continue
        extended = replace(savings, **{saving.field: True})
        smaller = memory_of(work, request.params, request.architecture, extended, setup)
        if smaller.total < memory.total:
            kept = (other for other in added if other.field != saving.replaces)
            savings, memory, added = extended, smaller, (*kept, saving)
    return memory, savings, added


def _plan_step(work: Work, request: PlanRequest) -> StepPlan:
    memory, savings, added = fit_memory(work, request)
    if memory.total > request.gpu.vram_bytes:
        raise GpuMemoryError(
            f"{work.step} needs {memory.total / GB:.0f} GB of the {request.gpu.vram_bytes / GB:.0f} GB of each GPU",
            where=f"{request.num_gpus} x {request.gpu.name}",
            cure=_smallest_change_that_fits(request),
        )
    flops = work.flops
    if work.step == "train" and savings.gradient_checkpointing and not request.params.train.gradient_checkpointing:
        flops *= RECOMPUTE_FACTOR
    num_busy = min(request.num_gpus, work.num_parts)
    is_sharded = work.step == "train" and savings.fsdp
    speed, assumed = request.gpu.tflops * TERA * num_busy, load_assumptions()
    seconds = (flops / speed / assumed.fastest, flops / speed / assumed.slowest)
    return StepPlan(work, memory, added, seconds, request.num_gpus if is_sharded else num_busy)


def _smallest_change_that_fits(request: PlanRequest) -> str:
    """Returns the smallest change under which all steps of the run fit: a larger GPU, or more of this one."""
    larger = (replace(request, gpu=gpu) for gpu in all_gpus() if gpu.vram_bytes > request.gpu.vram_bytes)
    more = (replace(request, num_gpus=count) for count in (2, 4, 8) if count > request.num_gpus)
    kind = next((f"use --gpu {other.gpu.name}" for other in larger if _fits(other)), "")
    count = next((f"use --gpus {other.num_gpus}" for other in more if _fits(other)), "")
    return " or ".join(filter(None, (kind, count))) or "make the clips or train.rank smaller"


def _fits(request: PlanRequest) -> bool:
    works = work_of(request.params, request.architecture)
    return all(fit_memory(work, request)[0].total <= request.gpu.vram_bytes for work in works)
