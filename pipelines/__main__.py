"""python -m pipelines compile | run | submit: the same pipeline as YAML, on this machine, on a cluster."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

import dubmill
from dubmill.artifacts.store import Release
from dubmill.config.overlays import lay_over, read_yaml
from dubmill.config.params import Params, load, validate
from dubmill.errors import DubmillError

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

CLUSTER_MLFLOW = "http://mlflow.dubmill:5000"

ParamsFile = Annotated[Path, typer.Option("--params", help="values of every section, or an overlay of params.yaml")]
Overlays = Annotated[
    list[Path], typer.Option("--overlay", help="preset, or file of values that differ; may be repeated")
]
Gpu = Annotated[bool, typer.Option("--gpu/--no-gpu", help="ask for GPU pools where a step needs one")]
Mlflow = Annotated[str, typer.Option("--mlflow", envvar="MLFLOW_TRACKING_URI", help="MLflow as the cluster sees it")]

Models = Annotated[str, typer.Option("--models", help="volume claim that the endpoint reads; empty: none")]
Work = Annotated[str, typer.Option("--work", help="volume claim for what a lost pod had half done; empty: none")]
TrainGpus = Annotated[int, typer.Option("--train-gpus", min=1, help="GPUs of one node that train together")]


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="the YAML to write")] = Path("build/dubbing.yaml"),
    params: ParamsFile = Path("params.yaml"),
    overlay: Overlays = [],  # noqa: B006 (typer reads it, nothing changes it)
    gpu: Gpu = True,
    mlflow: Mlflow = CLUSTER_MLFLOW,
    models: Models = "models",
    work: Work = "work",
    train_gpus: TrainGpus = 1,
) -> None:
    """Write the pipeline as YAML, to upload by hand or to keep under version control."""
    from pipelines.dubbing import NEEDS, Target, compile_to

    values, target = _params(params, overlay), Target(gpu, train_gpus, mlflow, models, work, 2, code_digest())
    started = time.process_time()
    compile_to(out, values, target)
    spent = time.process_time() - started
    typer.echo(f"{out}: {len(NEEDS)} tasks, {out.stat().st_size / 1024:.0f} KiB, {spent:.2f} s")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="where KFP keeps every task's outputs")] = Path("work/kfp"),
    work: Annotated[Path, typer.Option(help="where report and release are put at the end")] = Path("work"),
    params: ParamsFile = Path("params.yaml"),
    overlay: Overlays = [],  # noqa: B006
) -> None:
    """Run the pipeline on this machine, one process per task; what is unchanged since the last run is not done again."""
    from pipelines.dubbing import Target, compile_to
    from pipelines.local import TaskFailedError, keep, rescue
    from pipelines.local import run as run_here

    started = time.time()
    compile_to(out / "dubbing.yaml", _params(params, overlay), Target(False, 1, "", "", "", 0, code_digest()))
    try:
        report, release = keep(run_here(out / "dubbing.yaml", out), work)
    except TaskFailedError:
        if saved := rescue(out, started, work):
            typer.echo(f"look at      {saved}")
        raise
    language, text = Release.open(release).info["selftest"].values()
    typer.echo(f"\nthe whole line took {time.time() - started:.0f} s")
    typer.echo(f"look at      {report}\nrelease      {release}\nserve it     make serve")
    typer.echo(f'dub with it  .venv/bin/dubmill dub {work}/sample.mp4 --to {language} --text "{text}" \\')
    typer.echo(
        f'               --consent "a puppet, it has no objections" --release {release} --backbone {work}/backbone \\'
    )
    typer.echo(f"               --out {work}/dubbed.mp4")


@app.command()
def submit(
    host: Annotated[str, typer.Option(help="address of Kubeflow Pipelines")],
    namespace: Annotated[str, typer.Option(help="profile namespace, where KFP runs for many users")] = "",
    experiment: Annotated[str, typer.Option(help="KFP experiment")] = "dubmill",
    account: Annotated[str, typer.Option(help="service account of the tasks; empty: KFP's own")] = "",
    params: ParamsFile = Path("params.yaml"),
    overlay: Overlays = [],  # noqa: B006
    gpu: Gpu = True,
    mlflow: Mlflow = CLUSTER_MLFLOW,
    models: Models = "models",
    work: Work = "work",
    train_gpus: TrainGpus = 1,
) -> None:
    """Upload the pipeline to a cluster as a new version and start a run of it."""
    from pipelines.cluster import start
    from pipelines.dubbing import Target, compile_to

    package = Path("build/dubbing.yaml")
    code = code_digest()
    compile_to(package, _params(params, overlay), Target(gpu, train_gpus, mlflow, models, work, 2, code))
    typer.echo(
        start(package, host=host, namespace=namespace, experiment=experiment, account=account, version=code[:12])
    )


def code_digest() -> str:
    """sha256 over the library's sources and shipped weights: what the tasks would run."""
    root = Path(dubmill.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in (".py", ".safetensors", ".json", ".html"):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _params(path: Path, overlays: list[Path]) -> Params:
    """Params of a whole file; a file with some sections only is laid over params.yaml."""
    base = Path("params.yaml")
    given = read_yaml(path)
    if set(given) >= set(Params.model_fields) or path == base:
        return load(path, *overlays)
    values = lay_over(read_yaml(base), path)
    for overlay in overlays:
        values = lay_over(values, overlay)
    return validate(Params, values, str(path))


def main() -> None:
    """The command; one sentence and exit code 2 for whatever a person can mend."""
    try:
        app(prog_name="python -m pipelines")
    except DubmillError as error:
        typer.echo(error.sentence, err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
