"""The commands `dubmill plan` (what a run needs) and `dubmill presets` (what can be run)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dubmill.errors import UsageError

if TYPE_CHECKING:
    from dubmill.plan.architecture import Architecture


def plan(
    gpu: Annotated[
        str, typer.Option(help="kind of GPU, such as H100-80GB; empty: parameters, CPU memory and disk only")
    ] = "",
    gpus: Annotated[int, typer.Option(min=1, help="number of GPUs")] = 1,
    price: Annotated[
        float, typer.Option(min=0, help="US dollars for one GPU and hour; 0: the example in the table")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    check: Annotated[bool, typer.Option("--check", help="compare the counts with the modules (needs torch)")] = False,
    params: Annotated[Path, typer.Option("--params", help="YAML file with the values of every section")] = Path(
        "params.yaml"
    ),
    overlay: Annotated[
        list[Path],
        typer.Option("--overlay", help="preset name, or YAML file with the values that differ; may be repeated"),
    ] = [],  # noqa: B006 (typer reads it, nothing changes it)
) -> None:
    """Predict memory, time, disk and cost of a run; if it cannot fit the GPU, say which change would make it fit."""
    from rich.console import Console

    from dubmill.config.params import load
    from dubmill.plan import fit, tables
    from dubmill.plan.architecture import load_architecture
    from dubmill.plan.disk import disk_of
    from dubmill.plan.gpus import gpu_named
    from dubmill.plan.host import host_needs

    values = load(params, *overlay)
    architecture = load_architecture(values.backbone.architecture)
    if check:
        _check_parameters(architecture)
    if not gpu:
        has_gpu = architecture.dtype == "bfloat16"
        disk, host = disk_of(values, architecture), host_needs(values, architecture, has_gpu=has_gpu)
        if as_json:
            counts = {"parameters": architecture.parameters, "host": tables.host_data(host), "disk_bytes": disk}
            typer.echo(json.dumps(counts, indent=1))
        else:
            tables.show_without_gpu(values, architecture, host, disk, Console())
        return
    kind = gpu_named(gpu)
    plan = fit.make_plan(fit.PlanRequest(values, architecture, kind, gpus, price or kind.price))
    if as_json:
        typer.echo(json.dumps(tables.as_data(plan), indent=1))
    else:
        tables.show(plan, Console())


def _check_parameters(architecture: Architecture) -> None:
    from dubmill.plan.sizes import count_parameters

    found = count_parameters(architecture)
    if found != architecture.parameters:
        wrong = [part for part, count in architecture.parameters.items() if found[part] != count]
        raise UsageError(
            f"the modules have other sizes than the plan counts with ({', '.join(wrong)})",
            where="dubmill plan --check",
            cure="the installed diffusers differs from the one this was made with",
        )
    typer.echo("the modules on the meta device have the parameters that the plan counts with", err=True)


def presets() -> None:
    """List the presets with a description and the backbone of each."""
    from rich.console import Console
    from rich.table import Table

    from dubmill.config.overlays import preset_names, preset_values

    table = Table(title="presets, for --overlay NAME")
    for name in ("name", "what", "repository and revision", "licence", "text encoder", "GPU"):
        table.add_column(name, overflow="fold")
    for name in preset_names():
        what, backbone = preset_values(name, "backbone")
        backbone_of = f"{backbone['repo']}\n{backbone['revision']}"
        table.add_row(
            name, what, backbone_of, backbone["licence"], backbone["text_encoder"], f"{backbone['vram_gb']} GB"
        )
    Console().print(table)
