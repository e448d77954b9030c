"""The commands `dubmill plan` and `dubmill presets`: what a run will take, and what can be run, before it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dubmill.errors import UsageError


def plan(
    gpu: Annotated[str, typer.Option(help="kind of GPU, as H100-80GB; empty: parameters and disk alone")] = "",
    gpus: Annotated[int, typer.Option(min=1, help="how many of them")] = 1,
    price: Annotated[float, typer.Option(min=0, help="US dollars of one GPU and hour; 0: the table's example")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    check: Annotated[bool, typer.Option("--check", help="hold the counts against the modules (needs torch)")] = False,
    params: Annotated[Path, typer.Option("--params", help="values of every section")] = Path("params.yaml"),
    overlay: Annotated[
        list[Path], typer.Option("--overlay", help="preset, or file of what differs; may be repeated")
    ] = [],  # noqa: B006 (typer reads it, nothing changes it)
) -> None:
    """Memory, time, disk and cost of a run, before a GPU is paid for; refuses what cannot fit and says what would."""
    from rich.console import Console

    from dubmill.config.params import load
    from dubmill.plan import choosing, showing
    from dubmill.plan.architecture import named
    from dubmill.plan.disk import disk_of
    from dubmill.plan.gpus import gpu as known

    values = load(params, *overlay)
    architecture = named(values.backbone.architecture)
    if check:
        _check(architecture.parameters, architecture)
    if not gpu:
        disk = disk_of(values, architecture)
        if as_json:
            typer.echo(json.dumps({"parameters": architecture.parameters, "disk_bytes": disk}, indent=1))
        else:
            showing.show_needs(values, architecture, disk, Console())
        return
    kind = known(gpu)
    made = choosing.plan(choosing.Asked(values, architecture, kind, gpus, price or kind.price))
    if as_json:
        typer.echo(json.dumps(showing.as_data(made), indent=1))
    else:
        showing.show(made, Console())


def _check(expected: dict[str, int], architecture: object) -> None:
    from dubmill.plan.sizes import counted

    found = counted(architecture)
    if found != expected:
        wrong = [part for part in expected if found[part] != expected[part]]
        raise UsageError(
            f"the modules have other sizes than the plan counts with ({', '.join(wrong)})",
            where="dubmill plan --check",
            cure="the installed diffusers differs from the one this was made with",
        )
    typer.echo("the modules on the meta device have the parameters that the plan counts with", err=True)


def presets() -> None:
    """The presets: what each is, and what it stands on."""
    from rich.console import Console
    from rich.table import Table

    from dubmill.config.overlays import preset_names, preset_values

    table = Table(title="presets, for --overlay NAME")
    for name in ("name", "what", "repository and revision", "licence", "text encoder", "GPU"):
        table.add_column(name, overflow="fold")
    for name in preset_names():
        what, backbone = preset_values(name, "backbone")
        stands_on = f"{backbone['repo']}\n{backbone['revision']}"
        table.add_row(name, what, stands_on, backbone["licence"], backbone["text_encoder"], f"{backbone['vram_gb']} GB")
    Console().print(table)
