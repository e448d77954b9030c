"""python -m pipelines compile | run | submit: the same pipeline as YAML, on this machine, or on a cluster."""

from __future__ import annotations

import sys
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dubmill.artifacts.code import code_digest
from dubmill.artifacts.store import Release
from dubmill.config.overlays import read_yaml
from dubmill.config.params import Params, load
from dubmill.errors import DubmillError, UsageError

if TYPE_CHECKING:
    from pipelines.placement import Target

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

CLUSTER_MLFLOW = "http://mlflow.dubmill:5000"
NUM_RETRIES = 2
COMMITTED = Path("params.yaml")

ParamsFile = Annotated[
    Path,
    typer.Option("--params", help="values of every section; a file with some sections only is merged over params.yaml"),
]
Overlays = Annotated[
    list[Path], typer.Option("--overlay", help="preset name, or YAML file with the values that differ; may be repeated")
]
Gpu = Annotated[
    bool | None,
    typer.Option("--gpu/--no-gpu", help="request GPUs; default: as the backbone needs", show_default=False),
]
Mlflow = Annotated[str, typer.Option("--mlflow", envvar="MLFLOW_TRACKING_URI", help="MLflow as the cluster sees it")]
Models = Annotated[str, typer.Option("--models", help="volume claim from which the endpoint reads models; empty: none")]
Work = Annotated[
    str, typer.Option("--work", help="volume claim that keeps unfinished work if a pod is lost; empty: none")
]
TrainGpus = Annotated[int, typer.Option("--train-gpus", min=1, help="GPUs of one node that train together")]


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="the YAML to write")] = Path("build/dubbing.yaml"),
    params: ParamsFile = COMMITTED,
    overlay: Overlays = [],  # noqa: B006 (typer reads it, nothing changes it)
    gpu: Gpu = None,
    mlflow: Mlflow = CLUSTER_MLFLOW,
    models: Models = "models",
    work: Work = "work",
    train_gpus: TrainGpus = 1,
) -> None:
    """Write the pipeline as YAML, to upload by hand or to keep under version control."""
    from pipelines.dubbing import compile_to
    from pipelines.placement import PLACEMENTS

    values = _params(params, overlay)
    target = _cluster_target(values, gpu, train_gpus, mlflow, models, work)
    started = time.process_time()
    compile_to(out, values, target)
    spent = time.process_time() - started
    typer.echo(f"{out}: {len(PLACEMENTS)} tasks, {out.stat().st_size / 1024:.0f} KiB, {spent:.2f} s")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="where KFP keeps every task's outputs")] = Path("work/kfp"),
    work: Annotated[Path, typer.Option(help="where report and release are put at the end")] = Path("work"),
    params: ParamsFile = COMMITTED,
    overlay: Overlays = [],  # noqa: B006
) -> None:
    """Run the pipeline on this machine, one process per task; unchanged tasks are taken from the last run."""
    from pipelines.dubbing import compile_to
    from pipelines.local import FailedTaskError, keep_outputs, rescue_report
    from pipelines.local import run as run_here

    started, package = time.time(), out / "dubbing.yaml"
    compile_to(package, _params(params, overlay), _local_target())
    try:
        report, release = keep_outputs(run_here(package, out), work)
    except FailedTaskError:
        if saved := rescue_report(out, started, work):
            typer.echo(f"look at      {saved}")
        raise
    selftest = Release.open(release).info["selftest"]
    typer.echo(f"\nthe whole pipeline took {time.time() - started:.0f} s")
    typer.echo(f"look at      {report}\nrelease      {release}\nserve it     make serve")
    typer.echo(
        f'dub with it  .venv/bin/dubmill dub {work}/sample.mp4 --to {selftest["language"]} --text "{selftest["text"]}" \\'
    )
    typer.echo(
        f'               --consent "a puppet, it has no objections" --release {release} --backbone {work}/backbone \\'
    )
    typer.echo(f"               --out {work}/dubbed.mp4")


@app.command()
def submit(
    host: Annotated[str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="address of Kubeflow Pipelines")],
    namespace: Annotated[str, typer.Option(help="profile namespace; only where Kubeflow serves many users")] = "",
    experiment: Annotated[str, typer.Option(help="KFP experiment")] = "dubmill",
    account: Annotated[str, typer.Option(help="service account of the tasks; empty: KFP's own")] = "",
    token: Annotated[str, typer.Option(envvar="DUBMILL_KFP_TOKEN", help="bearer token of the login")] = "",
    cookie: Annotated[str, typer.Option(envvar="DUBMILL_KFP_COOKIE", help="cookie of the login: name=value")] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="service account token; default: the pod's own", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="wait for the end; exit code 2 if the run fails")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="open the run's page in a browser")] = False,
    params: ParamsFile = COMMITTED,
    overlay: Overlays = [],  # noqa: B006
    gpu: Gpu = None,
    mlflow: Mlflow = CLUSTER_MLFLOW,
    models: Models = "models",
    work: Work = "work",
    train_gpus: TrainGpus = 1,
) -> None:
    """Upload the pipeline to a cluster, as a new version if code or params changed, and start a run of it."""
    from pipelines.cluster import Cluster, Login, default_token_file
    from pipelines.dubbing import compile_to

    package, values = Path("build/dubbing.yaml"), _params(params, overlay)
    compile_to(package, values, _cluster_target(values, gpu, train_gpus, mlflow, models, work))
    file = token_file or (None if token or cookie else default_token_file())
    cluster = Cluster(host, namespace=namespace, login=Login(token=token, cookie=cookie, token_file=file))
    started = cluster.start(package, experiment=experiment, account=account)
    typer.echo(f"version {started.version}{'' if started.is_new_version else ' (was there already)'}")
    typer.echo(started.page)
    if open_page:
        webbrowser.open(started.page)
    if wait:
        cluster.wait(started, tell=typer.echo)


def _cluster_target(params: Params, gpu: bool | None, train_gpus: int, mlflow: str, models: str, work: str) -> Target:
    """Returns the target on a cluster.

    Raises:
        UsageError: the backbone needs a GPU and none may be requested.
    """
    from pipelines.placement import Target, needs_gpu

    is_needed = needs_gpu(params)
    if is_needed and gpu is False:
        raise UsageError(
            f"{params.backbone.architecture} needs GPUs, and this cluster has none (--no-gpu)",
            cure="leave --no-gpu out, or use the embedded backbone (nano) on a cluster without GPUs",
        )
    return Target(
        has_gpu=is_needed if gpu is None else gpu,
        train_gpus=train_gpus,
        tracking_uri=mlflow,
        models_claim=models,
        work_claim=work,
        num_retries=NUM_RETRIES,
        code=code_digest(),
    )


def _local_target() -> Target:
    from pipelines.placement import Target

    return Target(
        has_gpu=False,
        train_gpus=1,
        tracking_uri="",
        models_claim="",
        work_claim="",
        num_retries=0,
        code=code_digest(),
        is_cluster=False,
    )


def _params(path: Path, overlays: list[Path]) -> Params:
    """Returns the params of a whole file, or of a file with some sections laid over params.yaml.

    Raises:
        InvalidParamsError: also where a rule of promotion names an unknown metric.
    """
    from dubmill.tracking import rules

    is_whole = set(read_yaml(path)) >= set(Params.model_fields)
    params = load(path, *overlays) if is_whole or path == COMMITTED else load(COMMITTED, path, *overlays)
    rules.directions(rules.names_in(params.promote))
    return params


def main() -> None:
    """Runs the command; an error that the user can correct is one sentence and its exit code."""
    try:
        app(prog_name="python -m pipelines")
    except DubmillError as error:
        typer.echo(error.sentence, err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
