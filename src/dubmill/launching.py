"""Runs a step in a Kubeflow task: with a draft that is kept when the pod is lost, and `train` with one process per GPU.

Without Kubeflow: `torchrun --standalone --nproc-per-node N -m dubmill.cli.main step train ...` (docs/scale.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dubmill.artifacts.draft import Draft
from dubmill.artifacts.files import LOSSES_FILE, digest_of, write_atomically
from dubmill.artifacts.manifest import MANIFEST
from dubmill.artifacts.publish import publish
from dubmill.artifacts.references import write_reference
from dubmill.artifacts.store import Adapter, Artifact, Backbone, ClipSet, DubSet, LatentSet, PairSet
from dubmill.cluster import jobs
from dubmill.cluster.progress import reported_progress
from dubmill.config.overlays import SHIPPED_PARAMS, read_yaml
from dubmill.config.params import Section
from dubmill.config.training import TrainParams
from dubmill.errors import DubmillError, InterruptedStepError
from dubmill.tracking.live import live_losses

WORK = "DUBMILL_WORK"  # a folder that is kept when the pod is lost, and that all tasks mount
STAYING = (Backbone, ClipSet, PairSet, LatentSet, DubSet)  # too large to pass through Kubeflow's object store
SHARDS = "DUBMILL_SHARDS"  # jobs.JobSpec of the pods that make the shards of a step; empty: this task makes them
TRAINING = "DUBMILL_TRAINING"  # jobs.JobSpec of the nodes that train; empty: this node trains
SHARDED = {  # inputs of the steps whose shards several pods can make, as `dubmill step` names them
    "synthesize": ("backbone", "prompts"),
    "inpaint": ("backbone", "clips"),
    "dub": ("backbone", "adapter", "pairs"),
}
GRACE_SECONDS = 300  # to write a checkpoint after SIGTERM; the pod's own grace period may be shorter

Kind = TypeVar("Kind", bound=Artifact)


def run_task(step: Callable[..., Kind | Draft[Kind]], inputs: Sequence[Any], out: Path) -> Kind:
    """Runs `step(*inputs, out)` as a task and returns its artifact. With $DUBMILL_WORK set, it is made there.

    KFP retries a task in a new pod with an empty `out`; the draft still has its shards or its checkpoint. Adapters and reports are
    copied to `out`; large artifacts stay, `out` gets a reference, and later tasks with the same inputs find them there. A lock
    lets only one task at a time fill a draft. With $DUBMILL_SHARDS set, pods of an Indexed Job make the shards, and this task seals them.
    """
    home = os.environ.get(WORK, "")
    if not home:
        return _sealed(step(*inputs, out))
    draft = Path(home) / "drafts" / _work_name(step, inputs)
    with _only_task(draft):
        if os.environ.get(SHARDS) and step.__name__ in SHARDED and not (draft / MANIFEST).is_file():
            _make_shards(step.__name__, inputs, draft)
        sealed = _sealed(step(*inputs, draft))
        if isinstance(sealed, STAYING):
            write_reference(out, sealed.path)
            return sealed
        shutil.copytree(draft, out, dirs_exist_ok=True)
        shutil.rmtree(draft)
    return type(sealed).open(out)


def _make_shards(word: str, inputs: Sequence[Any], draft: Path) -> None:
    """Makes the shards of a step in pods of their own, which run `dubmill step` on the shared volume.

    Raises:
        FailedJobError: some shards failed.
    """
    *artifacts, section = inputs
    folder, command = _inputs_folder(draft), ["python3", "-m", "dubmill.cli.main", "step", word]
    for name, artifact in zip(SHARDED[word], artifacts, strict=True):
        command += [f"--{name}", str(_shared(name, artifact, folder))]
    params = folder / "params.json"  # JSON is YAML
    values = read_yaml(SHIPPED_PARAMS) | {word: section.model_dump(mode="json")}  # the command wants every section
    write_atomically(params, json.dumps(values).encode())
    command += ["--params", str(params), "--out", str(draft)]
    jobs.run_shards(_job_name(word, draft), command, jobs.JobSpec.from_json(os.environ[SHARDS]))
    shutil.rmtree(folder)


def _inputs_folder(draft: Path) -> Path:
    folder = draft.with_suffix(".inputs")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _job_name(word: str, draft: Path) -> str:
    """Returns a DNS label with the draft's digest; JobSet refuses more than 48 characters (63 with `-node-0-0-abcde`)."""
    return f"dubmill-{word}-{draft.name.rpartition('-')[2]}"


def _shared(name: str, artifact: Artifact, folder: Path) -> Path:
    """Returns where other pods find an artifact: a small one that only this pod has is copied to the volume."""
    if isinstance(artifact, STAYING):
        return artifact.path
    publish(folder, **{name: artifact.path})
    return folder / name


def _work_name(step: Callable[..., Any], inputs: Sequence[Any]) -> str:
    """Returns the name of a step's work, equal for equal inputs, parameters and code."""
    work = [step.__name__, os.environ.get("DUBMILL_CODE", ""), [_identity(one) for one in inputs]]
    return f"{step.__name__}-{digest_of(work)[:32]}"


def _identity(value: Any) -> Any:  # noqa: ANN401 (an artifact, a section, or a plain value)
    if isinstance(value, Artifact):
        return value.digest
    return value.model_dump(mode="json") if isinstance(value, Section) else value


@contextlib.contextmanager
def _only_task(draft: Path) -> Iterator[None]:
    """Waits until no other task fills `draft`; the lock of a killed task is free at once."""
    draft.parent.mkdir(parents=True, exist_ok=True)
    with draft.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sealed(result: Kind | Draft[Kind]) -> Kind:
    assert isinstance(result, Artifact), "a step without --shard seals its output"
    return result


def train_on_all_gpus(backbone: Backbone, latents: LatentSet, params: TrainParams, out: Path) -> Adapter:
    """Runs step `train` with one process per visible GPU, or one process without a GPU; its losses go to MLflow meanwhile.

    Raises:
        DubmillError: see `train_together`, and the step.
    """
    name = _work_name(train_on_all_gpus, [backbone, latents, params])
    with live_losses(out / LOSSES_FILE, name=name) as tag_run:
        adapter = _train(backbone, latents, params, out)
        tag_run(adapter.digest)
    return adapter


def _train(backbone: Backbone, latents: LatentSet, params: TrainParams, out: Path) -> Adapter:
    import torch

    if os.environ.get(TRAINING):
        return _train_on_nodes(backbone, latents, params, out)
    if torch.cuda.device_count() > 1:
        return train_together(backbone, latents, params, out, num_processes=torch.cuda.device_count())
    from dubmill.steps.train import train as step

    return step(backbone, latents, params, out)


def _train_on_nodes(backbone: Backbone, latents: LatentSet, params: TrainParams, out: Path) -> Adapter:
    """Runs step `train` on several nodes as a TrainJob; all of them see `out`, which is on the shared volume."""
    folder = _inputs_folder(out)
    section = folder / "train.json"
    write_atomically(section, params.model_dump_json().encode())
    arguments = ["-m", "dubmill.launching", str(backbone.path), str(latents.path), str(section), str(out)]
    jobs.run_training(_job_name("train", out), arguments, jobs.JobSpec.from_json(os.environ[TRAINING]))
    shutil.rmtree(folder)
    return Adapter.open(out)


def train_together(
    backbone: Backbone, latents: LatentSet, params: TrainParams, out: Path, *, num_processes: int
) -> Adapter:
    """Runs step `train` with `num_processes` processes on this machine.

    Raises:
        InterruptedStepError: they were stopped by SIGTERM and wrote a checkpoint.
        DubmillError: one of them failed; its error message is on stderr.
    """
    with tempfile.TemporaryDirectory() as scratch:
        section = Path(scratch) / "train.json"
        section.write_text(params.model_dump_json())
        torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes))
        work = ("dubmill.launching", str(backbone.path), str(latents.path), str(section), str(out))
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE_SECONDS))
        status, is_stopped = _wait_for([sys.executable, "-m", *torchrun, "-m", *work])
    if is_stopped and status:
        raise InterruptedStepError(
            "stopped by SIGTERM", where=str(out), cure="run the step again; it resumes from the last checkpoint"
        )
    if status:
        raise DubmillError(
            f"one of {num_processes} training processes failed", where=str(out), cure="see its error message above"
        )
    return Adapter.open(out)


def _wait_for(command: list[str]) -> tuple[int, bool]:
    """Returns the command's exit status, and whether this process got SIGTERM (it is forwarded to the command)."""
    process, signals = subprocess.Popen(command), list[int]()
    before = signal.signal(signal.SIGTERM, lambda number, _: (signals.append(number), process.send_signal(number)))
    try:
        return process.wait(), bool(signals)
    finally:
        signal.signal(signal.SIGTERM, before)


def main(backbone: str, latents: str, section: str, out: str) -> None:
    """The main function of each process of `train_together`, and of the nodes of a TrainJob."""
    import logging

    from dubmill.steps.train import train as step

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    params = TrainParams.model_validate_json(Path(section).read_text())
    try:
        with reported_progress(Path(out) / LOSSES_FILE, num_steps=params.num_steps):
            step(Backbone.open(backbone), LatentSet.open(latents), params, Path(out))
    except DubmillError as error:
        sys.stderr.write(f"{error.sentence}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
