"""Logs an adapter to an MLflow run: params, figures, loss curves and files."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dubmill.artifacts.files import METRICS_FILE, sha256_of
from dubmill.artifacts.manifest import MANIFEST
from dubmill.artifacts.store import Adapter, Artifact, Report
from dubmill.errors import (
    InterruptedStepError,
    InvalidArtifactError,
    ServiceUnavailableError,
    UsageError,
)
from dubmill.tracking.server import answering, artifact_root, client, is_missing, public_uri

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run

MAX_BATCH = 1000  # metrics per call, MLflow's limit; params: 100
TRAINING_TAG = "training"  # of a run: the name of the training whose losses it shows
MODEL_TAG = "model"  # of a run: the registered model that its version is of
KUBEFLOW_TAG = "kfp_run_id"  # of a run: the Kubeflow run whose pod opened it last; empty: opened outside of Kubeflow
PARAM_NAME = re.compile(r"[\w\-./ :]+")


def open_run(experiment: str, *, name: str, tags: Mapping[str, str]) -> tuple[Run, bool]:
    """Returns the run to log into, and whether the caller closes it.

    It is the run of MLFLOW_RUN_ID, which stays open; else the run of an earlier call with the same tags, which is opened again, where
    it is not that of a finished registration, or of another model's; else a new run. All `tags` are set, and on a run that the caller
    closes also the Kubeflow run that this process belongs to.

    Raises:
        UsageError: MLFLOW_RUN_ID names no run.
        ServiceUnavailableError: the server does not answer.
    """
    mlflow = client()
    with answering():
        if os.environ.get("MLFLOW_RUN_ID"):
            return _given_run(os.environ["MLFLOW_RUN_ID"], tags), False
        experiment_id = _experiment_id(experiment)
        tag_filter = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items() if key != MODEL_TAG)
        tags = {**tags, KUBEFLOW_TAG: os.environ.get("KFP_RUN_ID", "")}
        for run in mlflow.search_runs([experiment_id], tag_filter):
            if _may_continue(run, tags.get(MODEL_TAG)):
                _set_tags(run, tags)  # before: `notify` of the Kubeflow run in the old tag ends what is open
                mlflow.update_run(run.info.run_id, status="RUNNING")
                return run, True
        return mlflow.create_run(experiment_id, run_name=name, tags=tags), True


def _may_continue(run: Run, model: str | None) -> bool:
    """Whether `run` is a training's, or a registration of `model` that did not finish: a version needs its run unchanged."""
    registered = run.data.tags.get(MODEL_TAG)
    if run.info.status == "FINISHED":
        return registered is None and TRAINING_TAG in run.data.tags
    return registered is None or model is None or registered == model


def _set_tags(run: Run, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client().set_tag(run.info.run_id, key, value)


def _given_run(run_id: str, tags: Mapping[str, str]) -> Run:
    from mlflow.exceptions import MlflowException

    mlflow = client()
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        if not is_missing(error):
            raise
        raise UsageError(
            f"there is no MLflow run {run_id} (MLFLOW_RUN_ID)", where=public_uri(), cure="unset or correct it"
        ) from error
    _set_tags(run, tags)
    return run


def _experiment_id(name: str) -> str:
    from mlflow.exceptions import MlflowException

    mlflow = client()
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    try:
        return mlflow.create_experiment(name, artifact_location=artifact_root())
    except MlflowException:
        found = mlflow.get_experiment_by_name(name)  # another process may have created it meanwhile
        if found is None:
            raise
        return found.experiment_id


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every leaf of nested maps as (`a.b.c`, value); a map with names that MLflow refuses is one leaf."""
    for name, inner in value.items():
        path = f"{prefix}{name}"
        if isinstance(inner, Mapping) and inner and all(PARAM_NAME.fullmatch(str(key)) for key in inner):
            yield from flatten(inner, f"{path}.")
        else:
            yield path, inner


def log_params(run: Run, params: Mapping[str, Any], *, prefix: str) -> None:
    """Logs `params` as `<prefix>.<name>`; those that the run already holds must be equal.

    Raises:
        UsageError: the run holds other values (MLFLOW_RUN_ID names other work's, or a registration that did not finish had others).
    """
    from mlflow.entities import Param

    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in flatten(params)}
    new_params = {f"{prefix}.{name}": text[:6000] for name, text in texts.items()}
    other = sorted(name for name, text in new_params.items() if run.data.params.get(name, text) != text)
    if other:
        raise UsageError(
            f"the run already holds other values of {', '.join(other)}",
            where=f"MLflow run {run.info.run_id}",
            cure="unset MLFLOW_RUN_ID, or register with those values or in another experiment",
        )
    new = [Param(name, text) for name, text in new_params.items() if name not in run.data.params]
    with answering():
        for start in range(0, len(new), 100):
            client().log_batch(run.info.run_id, params=new[start : start + 100])


def log_datasets(run: Run, digests: Mapping[str, str], *, source: str) -> None:
    """Logs artifacts as dataset inputs of the run, by kind and digest (of which MLflow keeps 36 characters).

    `source` names the data version that they come from, without secrets; an empty one stands for none.
    """
    from mlflow.entities import Dataset, DatasetInput

    kind = "dvc" if source else "dubmill"
    found = [Dataset(name, digest[:36], kind, json.dumps({"uri": source})) for name, digest in digests.items()]
    with answering():
        client().log_inputs(run.info.run_id, [DatasetInput(dataset) for dataset in found])


def log_losses(run: Run, path: Path, *, first: int = 0) -> int:
    """Logs the curves of a losses.jsonl as `loss.video`, `loss.audio`, `loss.total` and `lr`; returns the number of steps in it.

    The first `first` lines are left out, and so is a last line that is not written to its end. All points have the run's start as their time, so that logging them twice stores them once.

    Raises:
        InvalidArtifactError: a line is not what `train` writes.
    """
    from mlflow.entities import Metric

    try:
        lines = path.read_text().rpartition("\n")[0].splitlines()
        rows = [json.loads(line) for line in lines[first:] if line.strip()]
        points = [
            Metric(name if name == "lr" else f"loss.{name}", float(row[name]), run.info.start_time, int(row["step"]))
            for row in rows
            for name in ("video", "audio", "total", "lr")
            if name in row and math.isfinite(float(row[name]))
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArtifactError(f"not a curve of losses ({error})", where=str(path), cure="train again") from error
    _log_metrics(run, points)
    return len(lines)


def log_figures(run: Run, report: Report) -> None:
    """Logs every finite number of the report's metrics.json as `<path.of.names>`."""
    from mlflow.entities import Metric

    leaves = flatten(json.loads(report.file(METRICS_FILE).read_bytes()))
    now = int(time.time() * 1000)
    numbers = [(name, value) for name, value in leaves if type(value) in (int, float) and math.isfinite(value)]
    _log_metrics(run, [Metric(name, float(value), now, 0) for name, value in numbers if PARAM_NAME.fullmatch(name)])


def _log_metrics(run: Run, points: list[Metric]) -> None:
    mlflow = client()
    with answering():
        for start in range(0, len(points), MAX_BATCH):
            mlflow.log_batch(run.info.run_id, metrics=points[start : start + MAX_BATCH])


def log_adapter(run: Run, adapter: Adapter, card: str) -> str:
    """Stores the sealed adapter, weights of any size included, under `adapter/` of the run; returns the folder's URI.

    Large files go straight to the object store where the server offers it (multipart upload with presigned URLs).

    Raises:
        InvalidArtifactError: what is read back from the store is not what was sent.
    """
    with answering():
        _log_files(run, adapter, "adapter", tuple(adapter.manifest.files))
        client().log_text(run.info.run_id, card, "card.md")  # with figures, unlike the README sealed with the adapter
        for name, digest in adapter.manifest.files.items():
            _check_stored(run, f"adapter/{name}", digest)
    return f"{run.info.artifact_uri or ''}/adapter"


def _check_stored(run: Run, path: str, digest: str) -> None:
    """Reads a stored file back and compares its digest; one file at a time, since each may be gigabytes."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(client().download_artifacts(run.info.run_id, path, folder))
        if sha256_of(stored) != digest:
            raise InvalidArtifactError(
                f"the registry's store holds other bytes of {path} than were sent",
                where=f"MLflow run {run.info.run_id}",
                cure="check the artifact store, then register again",
            )


def log_report(run: Run, report: Report) -> None:
    """Logs the sealed report under `reports/<digest>/` of the run; a run may have several."""
    with answering():
        _log_files(run, report, report_folder(report.digest), tuple(report.manifest.files))


def report_folder(digest: str) -> str:
    """Returns the folder, inside a run, of the report with this digest."""
    return f"reports/{digest[:12]}"


def _log_files(run: Run, artifact: Artifact, folder: str, names: tuple[str, ...]) -> None:
    for name in (*names, MANIFEST):
        parent = (Path(folder) / name).parent.as_posix()
        client().log_artifact(run.info.run_id, str(artifact.file(name)), parent)


def close_run(run: Run, error: BaseException | None = None) -> None:
    """Marks a run as finished; as killed or failed, if `error` ended it."""
    is_stopped = isinstance(error, InterruptedStepError | KeyboardInterrupt | SystemExit)
    status = "FINISHED" if error is None else "KILLED" if is_stopped else "FAILED"
    with answering():
        client().set_terminated(run.info.run_id, status)


def end_runs_of_killed_pods() -> str:
    """Marks the runs that pods of this Kubeflow run left open as killed; returns a sentence about them, or nothing.

    For a task that runs when all others have ended: SIGKILL, a lack of memory or a lost node leave no time to close a run. A run that a pod of
    another Kubeflow run has opened since is left alone. A server that does not answer fails nothing.
    """
    kubeflow_run = os.environ.get("KFP_RUN_ID", "")
    if not kubeflow_run or not os.environ.get("MLFLOW_TRACKING_URI"):
        return ""
    try:
        with answering():
            left_open = f"tags.`{KUBEFLOW_TAG}` = '{kubeflow_run}' and attributes.status = 'RUNNING'"
            runs = client().search_runs([one.experiment_id for one in _experiments()], left_open)
            for run in runs:
                client().set_terminated(run.info.run_id, "KILLED")
    except ServiceUnavailableError as error:
        return f"Runs of killed pods may be open in MLflow: {error.sentence}."
    return f"Runs of killed pods, ended in MLflow: {', '.join(run.info.run_id for run in runs)}." if runs else ""


def _experiments() -> Iterator[Experiment]:
    token: str | None = ""
    while token is not None:
        page = client().search_experiments(page_token=token or None)
        yield from page
        token = page.token or None


@contextmanager
def logged_run(experiment: str, *, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """Yields the run of `open_run` and closes it at the end of the block, with its outcome.

    Raises:
        UsageError, ServiceUnavailableError: see `open_run`.
    """
    run, is_ours = open_run(experiment, name=name, tags=tags)
    try:
        yield run
    except BaseException as error:
        if is_ours:
            with suppress(ServiceUnavailableError):  # often the very reason, and the caller's error says more
                close_run(run, error)
        raise
    if is_ours:
        close_run(run)
