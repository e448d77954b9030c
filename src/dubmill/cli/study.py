"""The commands `dubmill study new` and `results`: people compare dubs without knowing which method made which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Let people compare dubs without knowing which method made which.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command("new")
def new(
    dubs: Annotated[Path, typer.Option(help="sealed dubs of `dubmill step dub` or `dubmill baseline add`")],
    pairs: Annotated[Path, typer.Option(help="the sealed pairs that were dubbed")],
    against: Annotated[list[str], typer.Option(help="method to compare the adapter with; may be repeated")],
    out: Annotated[Path, typer.Option(help="folder for the page and its key")],
    clips: Annotated[int, typer.Option(min=1, help="held-out clips to show")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="seed of the choice and order of the clips")] = 0,
) -> None:
    """Write a page to send to raters, and the key that stays with you."""
    from dubmill.artifacts.store import DubSet, PairSet
    from dubmill.report.study import KEY, PAGE, make_study

    methods = list(dict.fromkeys(against))
    count = make_study(DubSet.open(dubs), PairSet.open(pairs), methods, clips, seed, out)
    typer.echo(f"study: {count} comparisons in {out / PAGE}; keep {out / KEY} to yourself")


@app.command("results")
def results(
    key: Annotated[Path, typer.Argument(help="key.json of `study new`")],
    answers: Annotated[list[Path], typer.Argument(help="the files that the raters saved")],
) -> None:
    """Print how often the adapter was preferred, with intervals, tests, and how many clips a later study needs."""
    from dubmill.report.study import read_study, study_page

    typer.echo(study_page(read_study(key, answers)), nl=False)
