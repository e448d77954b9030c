"""A plan for a person, as tables on the terminal, and for a machine, as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from dubmill.config.params import Params
from dubmill.plan.architecture import Architecture
from dubmill.plan.choosing import GB, HOUR, Plan, StepPlan

MINUTE = 60


def as_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data: bytes, seconds, operations, US dollars."""
    asked = plan.asked
    steps = {
        step.work.step: {
            "amount": step.work.amount,
            "flops": step.work.flops,
            "memory_bytes": {**asdict(step.memory), "total": step.memory.total},
            "measures": step.hows,
            "seconds": list(step.seconds),
            "gpus": step.num_gpus,
        }
        for step in plan.steps
    }
    return {
        "architecture": asked.architecture.name,
        "parameters": asked.architecture.parameters,
        "gpu": {**asdict(asked.gpu), "count": asked.num_gpus},
        "steps": steps,
        "disk_bytes": plan.disk,
        "gpu_hours": list(plan.gpu_hours),
        "price": asked.price,
        "cost": list(plan.cost),
        "assumed": asdict(plan.assumed),
    }


def show(plan: Plan, console: Console) -> None:
    """The plan's tables and what it takes for granted."""
    asked, assumed = plan.asked, plan.assumed
    room = asked.gpu.vram_bytes / GB
    table = Table(title=f"{asked.architecture.name} on {asked.num_gpus} x {asked.gpu.name} ({room:.1f} GB each)")
    for name in ("step", "GPU memory", "of it", "time", "GPUs", "to fit"):
        is_text = name in ("step", "of it", "to fit")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for step in plan.steps:
        memory = f"{step.memory.total / GB:.1f} GB"
        told = [f"{step.work.step}\n{step.work.amount}", memory, _parts(step), _time(step.seconds), str(step.num_gpus)]
        table.add_row(*told, "\n".join(step.hows) or "as set")
    console.print(table)
    show_disk(plan.disk, console)
    low, high = plan.gpu_hours
    spent = "US$ {:.0f} to {:.0f}".format(*plan.cost) if asked.price else "give your own --price for a cost"
    console.print(f"whole run: {low:.1f} to {high:.1f} GPU hours, {spent}{_whose_price(plan)}")
    console.print(
        f"Assumed, not measured: {assumed.slowest:.0%} to {assumed.fastest:.0%} of {asked.gpu.tflops:g} TFLOP/s (dense bf16, "
        "the vendor's figure at second hand), "
        f"{assumed.context_bytes / GB:.1f} GB for CUDA and {assumed.margin - 1:.0%} on what comes and goes; all pairs pass "
        "the gate. Steps that take no GPU are left out. docs/plan.md tells how it counts."
    )


def show_needs(params: Params, architecture: Architecture, disk: dict[str, int], console: Console) -> None:
    """What is known without a GPU: parameters and disk."""
    rank, targets = params.train.rank, params.train.targets
    table = Table(title=f"{architecture.name}: parameters")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for part, count in architecture.parameters.items():
        table.add_row(part, f"{count:,}")
    table.add_row(f"LoRA of rank {rank}", f"{architecture.transformer.lora_parameters(rank, targets):,}")
    console.print(table)
    show_disk(disk, console)
    console.print("Name a GPU (--gpu) for memory, time and cost.")


def show_disk(disk: dict[str, int], console: Console) -> None:
    """What the run leaves on disk."""
    table = Table(title="disk")
    table.add_column("what")
    table.add_column("GB", justify="right")
    for what, size in disk.items():
        table.add_row(what, f"{size / GB:,.2f}")
    table.add_row("all", f"{sum(disk.values()) / GB:,.2f}", style="bold")
    console.print(table)


def _parts(step: StepPlan) -> str:
    told = [(name, size / GB) for name, size in asdict(step.memory).items() if size >= GB / 20]
    return "\n".join(f"{name} {size:.1f}" for name, size in told)


def _time(seconds: tuple[float, float]) -> str:
    if seconds[1] < 2 * HOUR:
        return f"{seconds[0] / MINUTE:.1f} - {seconds[1] / MINUTE:.1f} min"
    return f"{seconds[0] / HOUR:.1f} - {seconds[1] / HOUR:.1f} h"


def _whose_price(plan: Plan) -> str:
    asked = plan.asked
    if not asked.price or asked.price != asked.gpu.price:
        return ""
    return f" (an example price: US$ {asked.price:.2f} an hour, {plan.assumed.prices_of}; give your own --price)"
