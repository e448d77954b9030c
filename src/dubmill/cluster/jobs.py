"""Runs the work of one task in pods of its own: shards as an Indexed Job, training on several nodes as a TrainJob.

A job is named after its work, so a task that was killed and started again finds its job and waits for it. A task that is told to end
(SIGTERM) deletes its job: what the pods finished stays on the shared volume. A job is made anew only when the pods of the one before
are gone, since both would write to the same folder.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

from dubmill.cluster import kubernetes
from dubmill.errors import DubmillError, InterruptedStepError, UsageError

GPU = "nvidia.com/gpu"
NUM_RETRIES = 3  # of each index; disruptions are not counted
KEPT_SECONDS = 24 * 3600  # of a finished job, for its logs
POLL_SECONDS = 15.0
USER = 10001  # of the project's images
USER_ERROR = 2  # exit code of a fault that another attempt does not mend
TRAINING_RUNTIME = "dubmill-train"  # k8s/components/trainer/runtime.yaml
TRAINER_GROUP = "trainer.kubeflow.org"
QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"

logger = logging.getLogger(__name__)


class FailedJobError(DubmillError):
    """A job on the cluster failed."""


@dataclass(frozen=True)
class JobSpec:
    """How many pods a task may start, and what each of them gets."""

    num_pods: int
    image: str
    cores: int
    memory_gib: int
    num_gpus: int  # of each pod
    claim: str  # volume claim that all pods mount
    folder: str  # where they mount it
    queue: str = ""  # LocalQueue of Kueue; empty: Kueue is not used
    priority: str = ""  # WorkloadPriorityClass of Kueue
    code: str = ""  # digest of the library

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Returns the specification as text, for an environment variable."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the job."""
        queue = {QUEUE_LABEL: self.queue} if self.queue else {}
        return {
            "app.kubernetes.io/part-of": "dubmill",
            **queue,
            **({PRIORITY_LABEL: self.priority} if self.priority else {}),
        }

    @property
    def resources(self) -> dict[str, dict[str, str]]:
        """Requests and limits of one pod."""
        memory, gpus = f"{self.memory_gib}Gi", {GPU: str(self.num_gpus)} if self.num_gpus else {}
        return {"requests": {"cpu": str(self.cores), "memory": memory, **gpus}, "limits": {"memory": memory, **gpus}}

    @property
    def environment(self) -> list[dict[str, str]]:
        """Environment variables of a container."""
        values = {"HOME": "/tmp", "HF_HUB_OFFLINE": "1", "DUBMILL_CODE": self.code}  # noqa: S108 (an emptyDir)
        return [{"name": name, "value": value} for name, value in values.items()]


def run_shards(name: str, command: Sequence[str], spec: JobSpec) -> None:
    """Runs `command` in `spec.num_pods` pods, each with `--shard I/N` appended, and waits until all have succeeded.

    Raises:
        FailedJobError: some shards failed; their numbers are named, and the others are kept.
        InterruptedStepError: this task got SIGTERM.
    """
    path = f"/apis/batch/v1/namespaces/{kubernetes.namespace()}/jobs/{name}"
    _run(path, indexed_job(name, command, spec), completed="Complete")


def run_training(name: str, arguments: Sequence[str], spec: JobSpec) -> None:
    """Runs `torchrun ARGUMENTS` on `spec.num_pods` nodes as a TrainJob and waits for its end.

    Raises:
        FailedJobError: it failed.
        InterruptedStepError: this task got SIGTERM; the nodes write a checkpoint.
        UsageError: Kubeflow Trainer is not installed.
    """
    group = f"/apis/{TRAINER_GROUP}/v1alpha1"
    if kubernetes.find(group) is None:
        raise UsageError(
            "Kubeflow Trainer is not installed", where=group, cure="install it, or train on one node: --train-nodes 1"
        )
    path = f"{group}/namespaces/{kubernetes.namespace()}/trainjobs/{name}"
    _run(path, train_job(name, arguments, spec), completed="Complete")


def indexed_job(name: str, command: Sequence[str], spec: JobSpec) -> dict[str, Any]:
    """Returns the Job: one index per shard, retried alone; a pod that the cluster took away does not count as a failure."""
    container = {
        "name": "shard",
        "image": spec.image,
        "command": [*command, "--shard", f"$(JOB_COMPLETION_INDEX)/{spec.num_pods}"],
        "env": spec.environment,
        "resources": spec.resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "work", "mountPath": spec.folder}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        "workingDir": "/tmp",  # noqa: S108
    }
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailIndex", "onExitCodes": {"containerName": "shard", "operator": "In", "values": [USER_ERROR]}},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": spec.labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": spec.num_pods,
            "parallelism": spec.num_pods,
            "backoffLimitPerIndex": NUM_RETRIES,
            "podFailurePolicy": {"rules": rules},
            "suspend": bool(spec.queue),  # Kueue starts it
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": {"app.kubernetes.io/name": "shard"}}, "spec": _pod(spec, container)},
        },
    }


def _pod(spec: JobSpec, container: dict[str, Any]) -> dict[str, Any]:
    gpu_nodes = {
        "nodeSelector": {f"{GPU}.present": "true"},
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **(gpu_nodes if spec.num_gpus else {}),
        "containers": [container],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": spec.claim}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def train_job(name: str, arguments: Sequence[str], spec: JobSpec) -> dict[str, Any]:
    """Returns the TrainJob; the pod of a node is in the TrainingRuntime, and Trainer tells torchrun who the others are (PET_*)."""
    return {
        "apiVersion": f"{TRAINER_GROUP}/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": spec.labels},
        "spec": {
            "runtimeRef": {"apiGroup": TRAINER_GROUP, "kind": "TrainingRuntime", "name": TRAINING_RUNTIME},
            "suspend": bool(spec.queue),
            "trainer": {
                "image": spec.image,
                "numNodes": spec.num_pods,
                "numProcPerNode": max(1, spec.num_gpus),
                "command": ["torchrun"],
                "args": list(arguments),
                "env": spec.environment,
                "resourcesPerNode": spec.resources,
            },
        },
    }


def _run(path: str, body: dict[str, Any], *, completed: str) -> None:
    """Creates an object, or finds the one that is there, and waits until a condition says that it ended."""
    with _deleted_on_sigterm(path):
        found = kubernetes.find(path)
        is_going = found is not None and "deletionTimestamp" in found.get("metadata", {})
        if found is not None and (is_going or _condition(found, "Failed", completed)):  # of an earlier attempt
            _delete(path)
            found = None
        if found is None:
            kubernetes.apply(path, body)
        seen = ""
        while not (ended := _condition(found := _still_there(path), "Failed", completed)):
            if (progress := _progress(found)) != seen:
                logger.info("%s: %s", body["metadata"]["name"], progress)
                seen = progress
            time.sleep(POLL_SECONDS)
    if ended["type"] == "Failed":
        failed = found["status"].get("failedIndexes", "")
        raise FailedJobError(
            f"{ended.get('message', 'it failed')}{f' (shards {failed})' if failed else ''}",
            where=path,
            cure="see the logs of its pods, then run the task again: finished work is kept",
        )


def _still_there(path: str) -> dict[str, Any]:
    found = kubernetes.find(path)
    if found is None:
        raise FailedJobError("the job was deleted", where=path, cure="run the task again: finished work is kept")
    return found


def _condition(found: dict[str, Any], *types: str) -> dict[str, Any] | None:
    conditions = found.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] in types and one["status"] == "True"), None)


def _progress(found: dict[str, Any]) -> str:
    status, spec = found.get("status", {}), found.get("spec", {})
    if spec.get("suspend"):
        return "waits for quota"
    counts = [status, *(status.get("jobsStatus") or [])]
    texts = [f"{sum(one.get(name) or 0 for one in counts)} {name}" for name in ("active", "succeeded", "failed")]
    percentage = (status.get("trainerStatus") or {}).get("progressPercentage")  # see cluster/progress.py
    return ", ".join([*texts, *([] if percentage is None else [f"{percentage} % trained"])])


def _delete(path: str) -> None:
    """Returns when the object and its pods are gone."""
    while kubernetes.find(path):
        kubernetes.delete(path)
        time.sleep(POLL_SECONDS)


@contextmanager
def _deleted_on_sigterm(path: str) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise InterruptedStepError("stopped by SIGTERM", where=path, cure="run the task again; finished work is kept")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except InterruptedStepError:
        kubernetes.delete(path)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
