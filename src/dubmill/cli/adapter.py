"""The commands `dubmill adapter export` and `import`: adapters for other tools, and LoRAs of other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Export a sealed adapter for other tools, or import their LoRA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Tool(StrEnum):
    """The tool that opens the file."""

    diffusers = "diffusers"
    comfyui = "comfyui"


class Precision(StrEnum):
    """The number format of the weights."""

    bf16 = "bf16"
    fp32 = "fp32"


class Positions(StrEnum):
    """The RoPE positions of the reference audio in training."""

    shared = "shared"
    negative = "negative"


@app.command("export")
def export(
    adapter: Annotated[Path, typer.Argument(help="sealed adapter; that of a release is its folder `adapter`")],
    to: Annotated[Tool, typer.Option(help="comfyui: also Lightricks' trainer and pipelines")],
    out: Annotated[Path, typer.Option(help="new folder for the weights, the card and the notice")],
    precision: Annotated[Precision, typer.Option(help="bf16, as published LoRAs have it, or fp32")] = Precision.bf16,
    report: Annotated[
        Path | None, typer.Option(help="sealed report, for the card's figures", show_default=False)
    ] = None,
) -> None:
    """Write a sealed adapter as a folder that diffusers, ComfyUI or Lightricks' tools open."""
    from dubmill.adapters import exchange
    from dubmill.artifacts.store import Adapter, Report

    figures = Report.open(report) if report else None
    weights = exchange.export_adapter(
        Adapter.open(adapter), out, tool=to.value, precision=precision.value, report=figures
    )
    typer.echo(f"adapter: {weights} ({weights.stat().st_size / 2**20:,.1f} MiB, {precision.value}), with its card")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="LoRA in diffusers' or Lightricks' naming (.safetensors)")],
    backbone: Annotated[Path, typer.Option(help="sealed backbone it was trained on")],
    out: Annotated[Path, typer.Option(help="folder for the sealed adapter")],
    reference_positions: Annotated[
        Positions | None, typer.Option(help="Dub-It for LTX-2.3: negative; JUST-DUB-IT: shared", show_default=False)
    ] = None,
    isolate_modalities: Annotated[
        bool | None,
        typer.Option(help="hide each reference from the other modality (JUST-DUB-IT) or not", show_default=False),
    ] = None,
    languages: Annotated[
        list[str] | None,
        typer.Option(help="language that it dubs into, a BCP-47 tag; may be repeated", show_default=False),
    ] = None,
) -> None:
    """Import a LoRA of another tool as a sealed adapter; the options give settings that its file does not contain."""
    from dubmill.adapters import exchange
    from dubmill.artifacts.store import Backbone

    positions = reference_positions.value if reference_positions else None
    hints = exchange.AdapterHints(positions, isolate_modalities, languages or None)
    adapter = exchange.import_lora(file, Backbone.open(backbone), hints, out)
    info = adapter.info
    typer.echo(f"adapter: {out} {adapter.digest[:12]}, rank {info['rank']}, {info['reference_positions']} positions")
