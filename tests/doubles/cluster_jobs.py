"""Indexed Jobs and TrainJobs of the Kubernetes API, on loopback: each look at one runs one pod.

Rules (kubernetes.io, "Jobs", "Pod failure policy", "Backoff limit per index"): with Ignore on DisruptionTarget a pod that the cluster took
away counts as nothing; FailIndex ends an index by exit code; an index is tried backoffLimitPerIndex + 1 times; the Job ends as Complete when
all indexes succeeded, and as Failed, with `failedIndexes`, when all indexes ended and some failed. A suspended Job starts nothing until
Kueue, which the API server asks, clears `suspend`. Pods of a Job that is deleted go on for a while: with propagationPolicy Foreground the Job
stays so long, with Background it is gone at once (kubernetes.io, "Garbage Collection"). JobSet's webhook refuses names whose pods
`<name>-node-0-0-abcde` would exceed 63 characters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doubles.kubernetes_api import KubernetesApi, Refusal

NUM_LOOKS_TO_END = 3  # until the pods of a deleted object are gone
DISRUPTED = -1  # in place of an exit code: the cluster took the pod away
TRAINER = "trainer.kubeflow.org/v1alpha1"


class ClusterJobs(KubernetesApi):
    """The server; `run_pod` gets the command and the index of a pod and returns its exit code, or DISRUPTED."""

    def __init__(self, run_pod: Callable[[list[str], int], int], *, has_trainer: bool = True) -> None:
        super().__init__()
        self.run_pod = run_pod
        if not has_trainer:
            del self.kinds[TRAINER]
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.ending: dict[str, int] = {}  # looks until the pods of a deleted object are gone, by path
        self.num_overlaps = 0  # objects that were created while the pods of the one before ran
        self.num_failures: dict[int, int] = {}

    def apply(
        self, path: str, body: dict[str, Any], manager: str = "dubmill", *, is_forced: bool = True
    ) -> dict[str, Any]:
        if body["kind"] == "TrainJob" and len(body["metadata"]["name"]) > 48:
            raise Refusal(422, "admission webhook: the generated pod names are longer than 63 characters")
        if path not in self.objects:
            self.num_overlaps += path in self.ending
            self.num_failures = {}
            self.created.append(body)
        return super().apply(path, body, manager, is_forced=is_forced)

    def delete(self, path: str, policy: str) -> dict[str, Any]:
        found = super().delete(path, policy)
        self.deleted.append(path)
        self.ending.setdefault(path, NUM_LOOKS_TO_END)
        return found

    def look(self, path: str) -> None:
        if path in self.ending:
            self.ending[path] -= 1
            if not self.ending[path]:
                del self.ending[path]
                if path in self.objects:
                    self.drop(path)
        elif path in self.objects:
            self.advance(self.objects[path])

    def advance(self, job: dict[str, Any]) -> None:
        spec, status = job["spec"], job.setdefault("status", {"done": []})
        if spec["suspend"]:  # Kueue admits it
            spec["suspend"] = False
            return
        is_training = job["kind"] == "TrainJob"
        total = 1 if is_training else spec["completions"]
        ended = [*status["done"], *status.get("failed_list", [])]
        index = next((index for index in range(total) if index not in ended), None)
        if index is not None:
            command = [*spec["trainer"]["command"], *spec["trainer"]["args"]] if is_training else command_of(job, index)
            self.count(job, index, self.run_pod(command, index))
        elif failed := status.get("failed_list"):
            status["failedIndexes"] = ",".join(map(str, failed))
            status["conditions"] = [{"type": "Failed", "status": "True", "message": "Job has failed indexes"}]
        else:
            status["conditions"] = [{"type": "Complete", "status": "True"}]

    def count(self, job: dict[str, Any], index: int, code: int) -> None:
        status = job["status"]
        if code == 0:
            status["done"].append(index)
            status["succeeded"] = len(status["done"])
            return
        rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
        is_ignored = any(rule["action"] == "Ignore" and "DisruptionTarget" in str(rule) for rule in rules)
        if code != DISRUPTED or not is_ignored:
            self.num_failures[index] = self.num_failures.get(index, 0) + 1
            is_final = any(code in rule.get("onExitCodes", {}).get("values", []) for rule in rules)
            if is_final or self.num_failures[index] > job["spec"].get("backoffLimitPerIndex", 0):
                status.setdefault("failed_list", []).append(index)


def command_of(job: dict[str, Any], index: int) -> list[str]:
    """The command of one pod, with the variable replaced as the kubelet does."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return [part.replace("$(JOB_COMPLETION_INDEX)", str(index)) for part in container["command"]]
