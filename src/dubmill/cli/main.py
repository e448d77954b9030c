"""The command `dubmill`: every step by its word, a dub without a server, the server, and looking into artifacts."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dubmill.cli import adapter as adapter_commands
from dubmill.cli import dub as dub_command
from dubmill.cli import plan, script
from dubmill.errors import DubmillError, OutOfRoom, UsageError

if TYPE_CHECKING:
    from dubmill.artifacts.store import Artifact, Part
    from dubmill.config.params import Params

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.add_typer(adapter_commands.app, name="adapter")

Folder = Path  # of a sealed artifact
BackboneDir = Annotated[Folder, typer.Option("--backbone", help="sealed backbone")]
PromptsDir = Annotated[Folder, typer.Option("--prompts", help="sealed prompts")]
ClipsDir = Annotated[Folder, typer.Option("--clips", help="sealed switch clips")]
PairsDir = Annotated[Folder, typer.Option("--pairs", help="sealed pairs")]
LatentsDir = Annotated[Folder, typer.Option("--latents", help="sealed latents")]
AdapterDir = Annotated[Folder, typer.Option("--adapter", help="sealed adapter")]
DubsDir = Annotated[Folder, typer.Option("--dubs", help="sealed dubs")]
ReportDir = Annotated[Folder, typer.Option("--report", help="sealed report")]
RegisteredDir = Annotated[Folder, typer.Option("--registered", help="folder of model_version.json")]
Out = Annotated[Path, typer.Option("--out", help="where to put the result")]
ParamsFile = Annotated[Path, typer.Option("--params", help="values of every section")]
Overlays = Annotated[list[Path], typer.Option("--overlay", help="preset, or file of what differs; may be repeated")]
Shard = Annotated[
    str, typer.Option("--shard", help="I/N: make part I of N alone, I from 0; without it make the rest, and seal")
]
Again = Annotated[bool, typer.Option("--again", help="do it again if it is done, or was begun by other code")]
PARAMS = Path("params.yaml")
NO_OVERLAYS: list[Path] = []


@dataclass(frozen=True)
class Given:
    """What every step is given besides its artifacts."""

    out: Path
    params: Path
    overlays: list[Path]
    again: bool


def _sections(given: Given) -> Params:
    from dubmill.config.params import load

    return load(given.params, *given.overlays)


def _open(**folders: Path) -> list[Artifact]:
    """The artifacts in `folders`, each of the kind its name says."""
    from dubmill.artifacts import store

    kinds = {
        "backbone": store.Backbone,
        "prompts": store.PromptSet,
        "clips": store.ClipSet,
        "pairs": store.PairSet,
        "latents": store.LatentSet,
        "adapter": store.Adapter,
        "dubs": store.DubSet,
        "report": store.Report,
    }
    return [kinds[name].open(folder) for name, folder in folders.items()]


def _step(word: str, given: Given, *more: Any, shard: str = "", **folders: Path) -> Any:  # noqa: ANN401 (whatever the step returns)
    """Run step `word` on the artifacts in `folders` and say what came of it; `more` comes before the section."""
    part = {"part": _part(shard, given)} if shard else {}
    section = getattr(_sections(given), word)
    opened = _open(**folders)
    is_first_process = os.environ.get("RANK", "0") == "0"  # torchrun and accelerate number the processes they start
    if given.again and is_first_process:
        start_over(given.out)
    started = time.monotonic()
    step = getattr(importlib.import_module(f"dubmill.steps.{word}"), word)
    sealed = step(*opened, *more, section, given.out, **part)
    digest = getattr(sealed, "digest", f"part {shard}")[:12]
    if is_first_process:
        typer.echo(f"{word}: {given.out} {digest} in {time.monotonic() - started:.1f} s")
    return sealed


def _part(shard: str, given: Given) -> Part:
    """The part that `--shard I/N` names."""
    from dubmill.artifacts.store import Part

    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or int(found[1]) >= int(found[2]):
        raise UsageError(f"{shard!r} names no part", where="--shard", cure="say I/N with I from 0 to N - 1, as in 0/4")
    if given.again:
        raise UsageError(
            "--again would clear what other tasks made", where="--shard", cure="give an empty --out instead"
        )
    return Part(int(found[1]), int(found[2]))


def start_over(out: Path) -> None:
    """Clear a finished artifact at `out`, and a draft that other code began; a draft of this code stays, to go on from.

    A folder that holds anything else is left alone: the step refuses it.
    """
    from dubmill.artifacts.store import DRAFT, MANIFEST

    marker, code = out.parent / f".{out.name}.code", code_digest()
    begun_here = marker.is_file() and marker.read_text() == code
    is_draft = (out / DRAFT).is_file() and not (out / MANIFEST).is_file()
    if (out / MANIFEST).is_file() or (is_draft and not begun_here):
        shutil.rmtree(out)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(code)


def code_digest() -> str:
    """A digest of the library's sources."""
    from dubmill.artifacts.files import digest_of, sha256_of

    root = Path(__file__).parents[1]
    return digest_of({path.relative_to(root).as_posix(): sha256_of(path) for path in sorted(root.rglob("*.py"))})


@app.command()
def backbone(out: Out, params: ParamsFile = PARAMS, overlay: Overlays = NO_OVERLAYS, again: Again = False) -> None:
    """Step: unpack the embedded nano model, or pin a published one."""
    _step("backbone", Given(out, params, overlay, again))


@app.command()
def prompts(out: Out, params: ParamsFile = PARAMS, overlay: Overlays = NO_OVERLAYS, again: Again = False) -> None:
    """Step: structured prompts whose speakers change language half-way."""
    _step("prompts", Given(out, params, overlay, again))


@app.command()
def synthesize(
    backbone: BackboneDir,
    prompts: PromptsDir,
    out: Out,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
    shard: Shard = "",
) -> None:
    """Step: one generated switch clip for each prompt."""
    _step("synthesize", Given(out, params, overlay, again), backbone=backbone, prompts=prompts, shard=shard)


@app.command()
def inpaint(
    backbone: BackboneDir,
    clips: ClipsDir,
    out: Out,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
    shard: Shard = "",
) -> None:
    """Step: bilingual pairs, each half of a clip re-voiced into the other half's language."""
    _step("inpaint", Given(out, params, overlay, again), backbone=backbone, clips=clips, shard=shard)


@app.command()
def gate(
    backbone: BackboneDir,
    pairs: PairsDir,
    out: Out,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
) -> None:
    """Step: the pairs that passed every gate, and the rejects with their reasons."""
    _step("gate", Given(out, params, overlay, again), backbone=backbone, pairs=pairs)


@app.command()
def encode(
    backbone: BackboneDir,
    pairs: PairsDir,
    out: Out,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
) -> None:
    """Step: latents and text features of the accepted pairs, computed once."""
    _step("encode", Given(out, params, overlay, again), backbone=backbone, pairs=pairs)


@app.command()
def train(
    backbone: BackboneDir,
    latents: LatentsDir,
    out: Out,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
) -> None:
    """Step: one LoRA adapter; a killed run goes on from its last checkpoint."""
    _step("train", Given(out, params, overlay, again), backbone=backbone, latents=latents)


@app.command()
def dub(
    out: Out,
    clip: Annotated[
        Path | None, typer.Argument(help="a video file to dub; without it this is the step", show_default=False)
    ] = None,
    to: Annotated[str, typer.Option(help="language to dub into, a BCP-47 tag")] = "",
    text: Annotated[str, typer.Option(help="the words to say; in a longer video shared out over its speech")] = "",
    script: Annotated[
        Path | None, typer.Option(help="SRT or WebVTT of the words to say, for any length", show_default=False)
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="write what is said, as SRT or WebVTT", show_default=False)
    ] = None,
    tone_map: Annotated[bool, typer.Option("--tone-map", help="of a film: bring HDR to standard range")] = False,
    consent: Annotated[str, typer.Option(help="who agreed to be dubbed, in one sentence")] = "",
    face: Annotated[
        str, typer.Option(help="of several: left, right or a number from the left; all: the whole picture is made anew")
    ] = "",
    release: Annotated[Path, typer.Option(help="the promoted release to dub with")] = Path("work/release"),
    seed: Annotated[int, typer.Option(help="seed of the dub")] = 0,
    backbone: Annotated[Path, typer.Option(help="sealed backbone")] = Path("work/backbone"),
    adapter: Annotated[Path | None, typer.Option(help="step: sealed adapter", show_default=False)] = None,
    pairs: Annotated[Path | None, typer.Option(help="step: gated pairs", show_default=False)] = None,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
    shard: Shard = "",
) -> None:
    """Dub a video (CLIP --to --text or --script --consent --out), or, given --adapter and --pairs, the step."""
    if clip is not None:
        places = (release, backbone)
        dub_command.dub(dub_command.Asked(clip, out, to, text, script, captions, tone_map, consent, seed, face, *places))
    elif adapter is None or pairs is None:
        raise UsageError("nothing to dub", where="dubmill dub", cure="name a video file, or give --adapter and --pairs")
    else:
        given = Given(out, params, overlay, again)
        _step("dub", given, backbone=backbone, adapter=adapter, pairs=pairs, shard=shard)


@app.command()
def evaluate(
    backbone: BackboneDir,
    dubs: DubsDir,
    pairs: PairsDir,
    adapter: AdapterDir,
    out: Out,
    metrics: Annotated[
        Path | None, typer.Option(help="folder for the adapter's means and the curves, for dvc", show_default=False)
    ] = None,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
) -> None:
    """Step: figures with intervals, paired tests, and a report to look at."""
    given = Given(out, params, overlay, again)
    report = _step("evaluate", given, backbone=backbone, dubs=dubs, pairs=pairs, adapter=adapter)
    if metrics is not None:
        shutil.rmtree(metrics / "plots", ignore_errors=True)
        metrics.mkdir(parents=True, exist_ok=True)
        means = json.loads((report.path / "metrics.json").read_text())["summary"]  # a table that fits a screen
        (metrics / "metrics.json").write_text(json.dumps(means, indent=1) + "\n")
        shutil.copytree(report.path / "plots", metrics / "plots")


@app.command()
def register(
    adapter: AdapterDir,
    report: ReportDir,
    out: Out,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
) -> None:
    """Step: a model version in MLflow, under the alias challenger."""
    _step("register", Given(out, params, overlay, again), adapter=adapter, report=report)


@app.command()
def promote(
    backbone: BackboneDir,
    adapter: AdapterDir,
    report: ReportDir,
    pairs: PairsDir,
    registered: RegisteredDir,
    out: Out,
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    again: Again = False,
) -> None:
    """Step: the release to serve, once the challenger has beaten the champion; else the reasons."""
    given = Given(out, params, overlay, again)
    more = (registered, _sections(given).register)
    _step("promote", given, *more, backbone=backbone, adapter=adapter, report=report, pairs=pairs)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Serve a promoted release through KServe; options: `dubmill serve --help`."""
    from dubmill.serving import main as serve_release

    raise typer.Exit(serve_release(context.args))


@app.command()
def look(
    folder: Annotated[Path, typer.Argument(help="an artifact")],
    page: Annotated[
        Path | None, typer.Option(help="write its HTML page, or a contact sheet, here", show_default=False)
    ] = None,
) -> None:
    """What is inside an artifact, every digest checked."""
    from dubmill.artifacts.store import open_any
    from dubmill.report import look

    artifact = open_any(folder)
    _show_markdown(look.markdown(artifact))
    if page is not None:
        look.page(artifact, page)
        typer.echo(f"page: {page}")


@app.command()
def params(
    params: ParamsFile = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    markdown: Annotated[bool, typer.Option("--markdown", help="as the text of docs/params.md")] = False,
) -> None:
    """Every parameter: its value, its bounds, its meaning."""
    from dubmill.report.look import params_markdown

    text = params_markdown(_sections(Given(Path(), params, overlay, False)))
    typer.echo(text, nl=False) if markdown else _show_markdown(text)


app.command()(script.transcribe)
app.command()(script.translate)
app.command()(plan.plan)
app.command()(plan.presets)


def _show_markdown(text: str) -> None:
    """Drawn on a terminal; as it is where there is none."""
    if not sys.stdout.isatty():
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def main() -> None:
    """Run the command; whatever a person can mend is one sentence on stderr and exit code 2, or 75 to go on later."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "alembic", "mlflow", "great_expectations", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(prog_name="dubmill")
    except DubmillError as error:
        typer.echo(error.sentence, err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = str(error.filename or "")
        typer.echo(
            OutOfRoom("the disk is full", where=where, cure="free room and run the step again").sentence, err=True
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
