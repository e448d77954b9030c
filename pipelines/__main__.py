"""python -m pipelines compile | run | submit: the same pipelines as YAML, on this machine, or on a cluster.

full: prompts to a release. data: prompts to gated pairs. train: a data version to a release. recurring: the same on a schedule,
if data or champion changed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
import yaml

from dubmill.artifacts.code import code_digest
from dubmill.artifacts.store import Release
from dubmill.config.overlays import read_yaml
from dubmill.config.params import Params, load
from dubmill.errors import DubmillError, UsageError
from dubmill.tracking.data_versions import REMOTE
from pipelines.options import (
    Chosen,
    DataBranch,
    DataRemote,
    DataRepository,
    Gitops,
    Gpu,
    Mlflow,
    Models,
    Overlays,
    ParamsFile,
    Pipeline,
    Priority,
    Queue,
    RolledEndpoint,
    Shards,
    TrainGpus,
    TrainNodes,
    Work,
)

if TYPE_CHECKING:
    from pipelines.cluster import Cluster, Run
    from pipelines.placement import Target

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

CLUSTER_MLFLOW = "http://mlflow.dubmill:5000"
NUM_RETRIES = 2
COMMITTED = Path("params.yaml")


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="the YAML to write")] = Path("build/dubbing.yaml"),
    pipeline: Chosen = Pipeline.FULL,
    params: ParamsFile = COMMITTED,
    overlay: Overlays = [],  # noqa: B006 (typer reads it, nothing changes it)
    gpu: Gpu = None,
    mlflow: Mlflow = CLUSTER_MLFLOW,
    models: Models = "models",
    work: Work = "work",
    train_gpus: TrainGpus = 1,
    train_nodes: TrainNodes = 1,
    shards: Shards = 1,
    queue: Queue = "",
    priority: Priority = "",
    endpoint: RolledEndpoint = "",
    gitops: Gitops = "",
    data_repository: DataRepository = "",
    data_branch: DataBranch = "main",
    data_remote: DataRemote = "",
) -> None:
    """Write the pipeline as YAML, to upload by hand or to keep under version control."""
    from pipelines.dubbing import compile_to

    values = _params(params, overlay)
    data = DataPlace(data_repository, data_branch, data_remote)
    target = _cluster_target(
        values,
        gpu,
        Pods(train_gpus, train_nodes, shards, queue, priority),
        mlflow,
        models,
        work,
        Rolled(endpoint, gitops),
        data,
    )
    started = time.process_time()
    compile_to(out, values, target, pipeline)
    spent = time.process_time() - started
    num_tasks = len(next(yaml.safe_load_all(out.read_text()))["deploymentSpec"]["executors"])
    typer.echo(f"{out}: {num_tasks} tasks, {out.stat().st_size / 1024:.0f} KiB, {spent:.2f} s")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="where KFP keeps every task's outputs")] = Path("work/kfp"),
    work: Annotated[Path, typer.Option(help="where report and release are put at the end")] = Path("work"),
    pipeline: Chosen = Pipeline.FULL,
    params: ParamsFile = COMMITTED,
    overlay: Overlays = [],  # noqa: B006
    data_repository: DataRepository = "",
    data_branch: DataBranch = "main",
    data_remote: DataRemote = "",
) -> None:
    """Run a pipeline on this machine, one process per task; unchanged tasks are taken from the last run."""
    from pipelines.dubbing import compile_to
    from pipelines.local import FailedTaskError, keep_outputs, keep_pairs, rescue_report
    from pipelines.local import run as run_here

    if pipeline is Pipeline.RECURRING:
        raise UsageError("a recurring pipeline needs a cluster", cure="run --pipeline train")
    started, package = time.time(), out / f"{pipeline}.yaml"
    os.environ |= {REMOTE: data_remote} if data_remote else {}
    compile_to(package, _params(params, overlay), _local_target(data_repository, data_branch), pipeline)
    try:
        outputs = run_here(package, out)
        if pipeline is Pipeline.DATA:
            typer.echo(f"the pairs    {keep_pairs(outputs, work)}")
            return
        report, release = keep_outputs(outputs, work)
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
    pipeline: Chosen = Pipeline.FULL,
    cron: Annotated[
        str, typer.Option(help="start it on this schedule instead of now: Kubeflow's six fields, seconds first")
    ] = "",
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
    train_nodes: TrainNodes = 1,
    shards: Shards = 1,
    queue: Queue = "",
    priority: Priority = "",
    endpoint: RolledEndpoint = "",
    gitops: Gitops = "",
    data_repository: DataRepository = "",
    data_branch: DataBranch = "main",
    data_remote: DataRemote = "",
) -> None:
    """Upload the pipeline to a cluster, as a new version if code or params changed, and start a run of it."""
    from pipelines.cluster import Cluster, check_schedule
    from pipelines.dubbing import VARIANTS, compile_to
    from pipelines.login import Login, default_token_file

    if cron and wait:
        raise UsageError("a schedule has no end to wait for", cure="leave --wait or --cron out")
    check_schedule(cron)
    values, data = _params(params, overlay), DataPlace(data_repository, data_branch, data_remote)
    target = _cluster_target(
        values,
        gpu,
        Pods(train_gpus, train_nodes, shards, queue, priority),
        mlflow,
        models,
        work,
        Rolled(endpoint, gitops),
        data,
    )
    file = token_file or (None if token or cookie else default_token_file())
    with tempfile.TemporaryDirectory() as folder:  # its own: two calls at once must not upload each other's package
        package = Path(folder) / f"{pipeline}.yaml"
        compile_to(package, values, target, pipeline)
        cluster = Cluster(host, namespace=namespace, login=Login(token=token, cookie=cookie, token_file=file))
        name = VARIANTS[pipeline].name
        started = cluster.start(package, pipeline=name, experiment=experiment, account=account, cron=cron)
    _report(cluster, started, open_page=open_page, wait=wait)


def _report(cluster: Cluster, started: Run, *, open_page: bool, wait: bool) -> None:
    typer.echo(f"version {started.version}{'' if started.is_new_version else ' (was there already)'}")
    typer.echo(started.page)
    if open_page:
        webbrowser.open(started.page)
    if wait:
        cluster.wait(started, tell=typer.echo)


class Pods(NamedTuple):
    """How many pods and GPUs the steps use, and where they queue."""

    train_gpus: int
    train_nodes: int
    num_shards: int
    queue: str
    priority: str


class Rolled(NamedTuple):
    """What a promotion rolls, and how."""

    endpoint: str
    gitops: str


class DataPlace(NamedTuple):
    """Where data versions are kept."""

    repository: str
    branch: str
    remote: str


def _cluster_target(
    params: Params,
    gpu: bool | None,
    pods: Pods,
    mlflow: str,
    models: str,
    work: str,
    rolled: Rolled,
    data: DataPlace,
) -> Target:
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
    if max(pods.num_shards, pods.train_nodes) > 1 and not work:
        raise UsageError(
            "several pods share a volume", cure="name it: --work CLAIM, or leave --shards and --train-nodes out"
        )
    return Target(
        has_gpu=is_needed if gpu is None else gpu,
        train_gpus=pods.train_gpus,
        train_nodes=pods.train_nodes,
        num_shards=pods.num_shards,
        queue=pods.queue,
        priority=pods.priority,
        tracking_uri=mlflow,
        models_claim=models,
        work_claim=work,
        num_retries=NUM_RETRIES,
        code=code_digest(),
        endpoint=rolled.endpoint,
        gitops=rolled.gitops,
        data_repository=data.repository,
        data_branch=data.branch,
        data_remote=data.remote,
    )


def _local_target(data_repository: str, data_branch: str) -> Target:
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
        data_repository=data_repository,
        data_branch=data_branch,
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
