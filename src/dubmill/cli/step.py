"""The commands `dubmill step <word>`: one step of the pipeline, from sealed artifacts to a sealed artifact."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dubmill.errors import UsageError

if TYPE_CHECKING:
    from dubmill.artifacts.draft import ShardSlice
    from dubmill.artifacts.store import Artifact

app = typer.Typer(
    help="Run one step of the pipeline, from sealed artifacts to a sealed artifact.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

INPUTS = {  # option -> class in artifacts.store, or none for a plain folder; help
    "backbone": ("Backbone", "sealed backbone"),
    "prompts": ("PromptSet", "sealed prompts"),
    "clips": ("ClipSet", "sealed switch clips"),
    "pairs": ("PairSet", "sealed pairs"),
    "latents": ("LatentSet", "sealed latents"),
    "adapter": ("Adapter", "sealed adapter"),
    "dubs": ("DubSet", "sealed dubs"),
    "report": ("Report", "sealed report"),
    "registered": ("", "folder of model_version.json"),
}


@dataclass(frozen=True)
class Step:
    """One step of the pipeline and the options of its command."""

    word: str
    help: str
    inputs: tuple[str, ...] = ()  # keys of `INPUTS`, in the order of the step function's arguments
    more_sections: tuple[str, ...] = ()  # params sections that the step reads besides its own
    has_shards: bool = False  # whether several tasks can share the work
    has_metrics: bool = False  # whether the report's means and curves can be copied out


STEPS = (
    Step("backbone", "Unpack the embedded nano model, or fetch a published one."),
    Step("prompts", "Write structured prompts whose speakers change language half-way."),
    Step("synthesize", "Generate one switch clip for each prompt.", ("backbone", "prompts"), has_shards=True),
    Step(
        "inpaint",
        "Make bilingual pairs: inpaint each half of a clip with speech in the other half's language.",
        ("backbone", "clips"),
        has_shards=True,
    ),
    Step(
        "gate",
        "Accept the pairs that pass every gate, and list the rejects with reasons.",
        ("backbone", "pairs"),
        more_sections=("scorers",),
    ),
    Step("encode", "Encode the accepted pairs as latents and text features.", ("backbone", "pairs")),
    Step("train", "Train one LoRA adapter; a killed run continues from its last checkpoint.", ("backbone", "latents")),
    Step("dub", "Dub the held-out clips by every method.", ("backbone", "adapter", "pairs"), has_shards=True),
    Step(
        "evaluate",
        "Measure the dubs: figures with intervals, paired tests, and a report page.",
        ("backbone", "dubs", "pairs", "adapter"),
        more_sections=("scorers",),
        has_metrics=True,
    ),
    Step("register", "Register a model version in MLflow under the alias challenger.", ("adapter", "report")),
    Step(
        "promote",
        "Make the challenger the champion and write the release to serve, or refuse with reasons.",
        ("backbone", "adapter", "report", "pairs", "registered"),
        more_sections=("register", "scorers"),
    ),
)

COMMON_OPTIONS = {
    "out": (Annotated[Path, typer.Option(help="folder for the result")], inspect.Parameter.empty),
    "params": (Annotated[Path, typer.Option(help="YAML file with the values of every section")], Path("params.yaml")),
    "overlay": (
        Annotated[
            list[Path], typer.Option(help="preset name, or YAML file with the values that differ; may be repeated")
        ],
        list[Path](),
    ),
    "again": (
        Annotated[
            bool,
            typer.Option(
                "--again", help="first delete a finished result, or an unfinished one of another code version"
            ),
        ],
        False,
    ),
}
SHARD_OPTION = Annotated[
    str,
    typer.Option(
        help="I/N: make only every N-th shard from number I on, I from 0 to N-1; without it: make all missing shards, and seal"
    ),
]
METRICS_OPTION = Annotated[
    Path | None, typer.Option(help="folder for the adapter's means and the curves, for DVC", show_default=False)
]


def _signature(step: Step) -> inspect.Signature:
    """Returns the options of a step's command, as typer reads them."""
    options: dict[str, tuple[Any, Any]] = {
        name: (Annotated[Path, typer.Option(help=INPUTS[name][1])], inspect.Parameter.empty) for name in step.inputs
    }
    options |= COMMON_OPTIONS
    if step.has_shards:
        options["shard"] = (SHARD_OPTION, "")
    if step.has_metrics:
        options["metrics"] = (METRICS_OPTION, None)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter(name, keyword, default=default, annotation=kind)
            for name, (kind, default) in options.items()
        ]
    )


def _command(step: Step) -> Callable[..., None]:
    """Returns the function behind `dubmill step <word>`."""

    def command(**options: Any) -> None:
        inputs = {name: options.pop(name) for name in step.inputs}
        run_step(step, inputs, **options)

    signature = _signature(step)
    command.__signature__ = signature
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    command.__doc__ = step.help
    return command


for _step in STEPS:
    app.command(_step.word)(_command(_step))


def run_step(
    step: Step,
    inputs: dict[str, Path],
    *,
    out: Path,
    params: Path,
    overlay: list[Path],
    again: bool = False,
    shard: str = "",
    metrics: Path | None = None,
) -> None:
    """Run one step on the artifacts in the folders `inputs` and print the digest of what it sealed."""
    from dubmill.config.params import load

    values = load(params, *overlay)
    sections = [getattr(values, word) for word in (*step.more_sections, step.word)]
    shards = {"shard_slice": parse_shard(shard, again=again)} if shard else {}
    opened = [_open(name, folder) for name, folder in inputs.items()]
    is_first_process = os.environ.get("RANK", "0") == "0"  # torchrun and accelerate number the processes they start
    if again and is_first_process:
        start_over(out)
    started = time.monotonic()
    function = getattr(importlib.import_module(f"dubmill.steps.{step.word}"), step.word)
    sealed = function(*opened, *sections, out, **shards)
    if metrics is not None:
        copy_metrics(sealed.path, metrics)
    if is_first_process:
        digest = getattr(sealed, "digest", f"shards {shard}")[:12]
        typer.echo(f"{step.word}: {out} {digest} in {time.monotonic() - started:.1f} s")


def _open(name: str, folder: Path) -> Artifact | Path:
    from dubmill.artifacts import store

    kind = INPUTS[name][0]
    return getattr(store, kind).open(folder) if kind else folder


def parse_shard(text: str, *, again: bool) -> ShardSlice:
    """Returns which shards `--shard I/N` names.

    Raises:
        UsageError: it names none, or stands beside `--again`.
    """
    from dubmill.artifacts.draft import ShardSlice

    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UsageError(
            f"{text!r} names no shards", where="--shard", cure="write I/N with I from 0 to N - 1, as in 0/4"
        )
    if again:
        raise UsageError(
            "--again would clear what other tasks wrote", where="--shard", cure="give an empty --out instead"
        )
    return ShardSlice(int(found[1]), int(found[2]))


def start_over(out: Path) -> None:
    """Delete a finished artifact at `out`, or a draft of another code version; a draft of this code is kept and continued.

    A folder that holds anything else is left alone: the step refuses it.
    """
    from dubmill.artifacts.code import code_digest
    from dubmill.artifacts.draft import DRAFT
    from dubmill.artifacts.manifest import MANIFEST

    marker, code = out.parent / f".{out.name}.code", code_digest()
    begun_here = marker.is_file() and marker.read_text() == code
    is_draft = (out / DRAFT).is_file() and not (out / MANIFEST).is_file()
    if (out / MANIFEST).is_file() or (is_draft and not begun_here):
        shutil.rmtree(out)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(code)


def copy_metrics(report: Path, metrics: Path) -> None:
    """Copy the adapter's means and the curves of a report to the folder `metrics`, where DVC reads them."""
    from dubmill.artifacts.files import METRICS_FILE

    shutil.rmtree(metrics / "plots", ignore_errors=True)
    metrics.mkdir(parents=True, exist_ok=True)
    means = json.loads((report / METRICS_FILE).read_text())["summary"]  # a table that fits a screen
    (metrics / METRICS_FILE).write_text(json.dumps(means, indent=1) + "\n")
    shutil.copytree(report / "plots", metrics / "plots")
