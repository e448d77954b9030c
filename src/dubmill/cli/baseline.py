"""The commands `dubmill baseline export` and `add`: other dubbing systems in the same report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Compare another dubbing system on the same held-out clips.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command("export")
def export(
    pairs: Annotated[Path, typer.Argument(help="sealed pairs of `dubmill step gate`")],
    out: Annotated[Path, typer.Option(help="folder for the MP4 files and manifest.csv")],
) -> None:
    """Write the held-out clips as MP4 files, with a table of what each has to say."""
    from dubmill.artifacts.store import PairSet
    from dubmill.report.baselines import MANIFEST_FILE, export_heldout

    count = export_heldout(PairSet.open(pairs), out)
    typer.echo(f"baseline: {count} clips in {out}, listed in {out / MANIFEST_FILE}")


@app.command("add")
def add(
    folder: Annotated[Path, typer.Argument(help="folder with manifest.csv (columns pair_id, video) and the dubs")],
    name: Annotated[str, typer.Option(help="name of the system in the report")],
    dubs: Annotated[Path, typer.Option(help="sealed dubs of `dubmill step dub`, or of this command")],
    pairs: Annotated[Path, typer.Option(help="the sealed pairs that were dubbed")],
    out: Annotated[Path, typer.Option(help="new folder for all dubs, for `dubmill step evaluate --dubs`")],
) -> None:
    """Add the dubs of another system to a set of dubs, so that one report compares them all."""
    from dubmill.artifacts.store import DubSet, PairSet
    from dubmill.report.baselines import add_baseline

    sealed = add_baseline(DubSet.open(dubs), PairSet.open(pairs), folder, method=name, out=out)
    typer.echo(f"baseline: {sealed.path} has dubs by {', '.join(sealed.info['methods'])}")
