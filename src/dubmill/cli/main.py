"""Trains, measures and serves dubbing models, and dubs videos with them."""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from dubmill.cli import adapter, baseline, consent, dub, film, plan, script, step, study
from dubmill.errors import DiskFullError, DubmillError, UsageError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command()(dub.dub)
app.add_typer(film.app, name="film")
app.add_typer(step.app, name="step")
app.add_typer(adapter.app, name="adapter")
app.add_typer(baseline.app, name="baseline")
app.add_typer(study.app, name="study")
app.add_typer(consent.app, name="consent")

ParamsFile = Annotated[Path, typer.Option("--params", help="YAML file with the values of every section")]
Overlays = Annotated[
    list[Path], typer.Option("--overlay", help="preset name, or YAML file with the values that differ; may be repeated")
]
PARAMS = Path("params.yaml")
NO_OVERLAYS: list[Path] = []


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Serve a promoted release through KServe; options: `dubmill serve --help`."""
    from dubmill.serving.server import main as serve_release

    raise typer.Exit(serve_release(context.args))


@app.command()
def rollback(
    ledger: Annotated[
        Path, typer.Option(help="the promotion ledger; `step promote` writes it beside its --out")
    ] = Path("work/promotions.jsonl"),
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
) -> None:
    """Make the previous champion the champion again; `register.model` in params names the model."""
    from dubmill import tracking
    from dubmill.config.params import load
    from dubmill.tracking.ledger import Ledger

    version = tracking.rollback(load(params, *overlay).register.model, Ledger(ledger))
    typer.echo(
        f"rollback: {version.uri} is champion again; an endpoint that DUBMILL_ENDPOINT does not name serves it once its release is copied there"
    )


@app.command()
def look(
    folder: Annotated[Path, typer.Argument(help="an artifact")],
    page: Annotated[
        Path | None, typer.Option(help="write its HTML page, or a contact sheet, here", show_default=False)
    ] = None,
) -> None:
    """Show what is inside an artifact, after checking every digest."""
    from dubmill.artifacts.store import open_any
    from dubmill.report import look

    artifact = open_any(folder)
    artifact.verify()
    _show_markdown(look.markdown(artifact))
    if page is not None:
        look.write_page(artifact, page)
        typer.echo(f"page: {page}")


@app.command()
def params(
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown, the text of docs/params.md")] = False,
) -> None:
    """Show every parameter: its value, its bounds, its meaning."""
    from dubmill.config.params import load
    from dubmill.report.look import params_markdown

    text = params_markdown(load(params, *overlay))
    typer.echo(text, nl=False) if markdown else _show_markdown(text)


app.command()(script.transcribe)
app.command()(script.translate)
app.command()(plan.plan)
app.command()(plan.presets)


def _show_markdown(text: str) -> None:
    """Print Markdown: formatted on a terminal, unchanged elsewhere."""
    if not sys.stdout.isatty():
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def main() -> None:
    """Run the command; an error that the user can correct is one sentence on stderr with exit code 2 (75: run it again)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "alembic", "mlflow", "great_expectations", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(prog_name="dubmill")
    except DubmillError as error:
        typer.echo(error.sentence, err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if not error.filename and error.errno not in FULL_DISK:
            raise
        failure = _file_error(error)
        typer.echo(failure.sentence, err=True)
        sys.exit(failure.exit_code)


def _file_error(error: OSError) -> DubmillError:
    """Returns the error of a file operation as a sentence with the file's name."""
    where = str(error.filename or "")[:200]
    if error.errno in FULL_DISK:
        return DiskFullError("the disk is full", where=where, cure="free room and run the step again")
    return UsageError(f"the file cannot be used ({error.strerror})", where=where, cure="check its place and rights")


if __name__ == "__main__":
    main()
