"""Shows a plan as tables on the terminal, or returns it as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from dubmill.config.params import Params
from dubmill.plan.architecture import Architecture
from dubmill.plan.fit import GB, HOUR, Plan, StepPlan
from dubmill.plan.host import HostNeeds

MINUTE = 60


def as_data(plan: Plan) -> dict[str, Any]:
    """Returns the plan as plain data: bytes, seconds, FLOPs, US dollars."""
    request = plan.request
    steps = {
        step.work.step: {
            "amount": step.work.amount,
            "flops": step.work.flops,
            "memory_bytes": {**asdict(step.memory), "total": step.memory.total},
            "settings": step.settings,
            "seconds": list(step.seconds),
            "gpus": step.num_gpus,
        }
        for step in plan.steps
    }
    return {
        "architecture": request.architecture.name,
        "parameters": request.architecture.parameters,
        "gpu": {**asdict(request.gpu), "count": request.num_gpus},
        "steps": steps,
        "host": host_data(plan.host),
        "disk_bytes": plan.disk,
        "gpu_hours": list(plan.gpu_hours),
        "price": request.price,
        "cost": list(plan.cost),
        "assumed": asdict(plan.assumed),
    }


def host_data(host: Mapping[str, HostNeeds]) -> dict[str, dict[str, float]]:
    """Returns CPU memory and disk of each step's task, in bytes."""
    return {step: {**asdict(needs), "memory": needs.memory} for step, needs in host.items()}


def show(plan: Plan, console: Console) -> None:
    """Prints the plan's tables and its assumptions."""
    request, assumed = plan.request, plan.assumed
    gpu_gb = request.gpu.vram_bytes / GB
    table = Table(
        title=f"{request.architecture.name} on {request.num_gpus} x {request.gpu.name} ({gpu_gb:.1f} GB each)"
    )
    for name in ("step", "GPU memory", "of which", "time", "GPUs", "to fit"):
        is_text = name in ("step", "of which", "to fit")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for step in plan.steps:
        memory = f"{step.memory.total / GB:.1f} GB"
        row = [f"{step.work.step}\n{step.work.amount}", memory, _parts(step), _time(step.seconds), str(step.num_gpus)]
        table.add_row(*row, "\n".join(step.settings) or "as set")
    console.print(table)
    show_host(plan.host, console)
    show_disk(plan.disk, console)
    low, high = plan.gpu_hours
    cost = "US$ {:.0f} to {:.0f}".format(*plan.cost) if request.price else "give --price for a cost"
    console.print(f"whole run: {low:.1f} to {high:.1f} GPU hours, {cost}{_price_note(plan)}")
    console.print(
        f"Assumed, not measured: {assumed.slowest:.0%} to {assumed.fastest:.0%} of {request.gpu.tflops:g} TFLOP/s (dense "
        f"bf16, the vendor's figure at second hand), {assumed.context_bytes / GB:.1f} GB for CUDA and "
        f"{assumed.margin - 1:.0%} on activations; all pairs pass the gate. docs/plan.md explains the counts."
    )


def show_without_gpu(
    params: Params, architecture: Architecture, host: Mapping[str, HostNeeds], disk: Mapping[str, int], console: Console
) -> None:
    """Prints what does not depend on the kind of GPU: parameters, CPU memory and disk."""
    rank, targets = params.train.rank, params.train.targets
    table = Table(title=f"{architecture.name}: parameters")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for part, count in architecture.parameters.items():
        table.add_row(part, f"{count:,}")
    table.add_row(f"LoRA of rank {rank}", f"{architecture.transformer.num_lora_parameters(rank, targets):,}")
    console.print(table)
    show_host(host, console)
    show_disk(disk, console)
    console.print("Give --gpu for GPU memory, time and cost.")


def show_host(host: Mapping[str, HostNeeds], console: Console) -> None:
    """Prints CPU memory and disk of each step's task."""
    table = Table(title="CPU memory and disk of each task, in GB")
    table.add_column("step")
    for name in ("CPU memory", "of it weights", "of it data", "inputs on disk", "outputs on disk"):
        table.add_column(name, justify="right")
    for step, needs in host.items():
        sizes = (needs.memory, needs.weights, needs.data, needs.input_disk, needs.output_disk)
        table.add_row(step, *(f"{size / GB:,.1f}" for size in sizes))
    console.print(table)


def show_disk(disk: Mapping[str, int], console: Console) -> None:
    """Prints what the run leaves on disk."""
    table = Table(title="artifacts on disk")
    table.add_column("what")
    table.add_column("GB", justify="right")
    for what, size in disk.items():
        table.add_row(what, f"{size / GB:,.2f}")
    table.add_row("all", f"{sum(disk.values()) / GB:,.2f}", style="bold")
    console.print(table)


def _parts(step: StepPlan) -> str:
    sizes = [(name, size / GB) for name, size in asdict(step.memory).items() if size >= GB / 20]
    return "\n".join(f"{name} {size:.1f}" for name, size in sizes)


def _time(seconds: tuple[float, float]) -> str:
    if seconds[1] < 2 * HOUR:
        return f"{seconds[0] / MINUTE:.1f} - {seconds[1] / MINUTE:.1f} min"
    return f"{seconds[0] / HOUR:.1f} - {seconds[1] / HOUR:.1f} h"


def _price_note(plan: Plan) -> str:
    request = plan.request
    if not request.price or request.price != request.gpu.price:
        return ""
    return (
        f" (an example price: US$ {request.price:.2f} per hour, {plan.assumed.prices_of}; give your own with --price)"
    )
