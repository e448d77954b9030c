"""Indexed Jobs and TrainJobs of the Kubernetes API, on loopback: each GET runs one pod.

Rules (kubernetes.io, "Jobs", "Pod failure policy", "Backoff limit per index"): with Ignore on DisruptionTarget a pod that the cluster took
away counts as nothing; FailIndex ends an index by exit code; an index is tried backoffLimitPerIndex + 1 times; the Job ends as Complete when
all indexes succeeded, and as Failed, with `failedIndexes`, when all indexes ended and some failed. A suspended Job starts nothing until
Kueue, which the API server asks, clears `suspend`. A custom resource of a group that is not installed is 404.

A DELETE with propagationPolicy Foreground keeps the object, with a deletionTimestamp, until its pods are gone, and what is applied
meanwhile is lost; with Background the object is gone at once and its pods go on for a while (kubernetes.io, "Garbage Collection"). A name
that is no DNS label is invalid (422), and JobSet's webhook refuses names whose pods `<name>-node-0-0-abcde` would exceed 63 characters.
"""

from __future__ import annotations

import http.server
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from doubles.loopback import Loopback

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NUM_POLLS_TO_END = 3  # GETs until the pods of a deleted object are gone
DISRUPTED = -1  # in place of an exit code: the cluster took the pod away


class ClusterJobs(Loopback):
    """The server; `run_pod` gets the command and the index of a pod and returns its exit code, or DISRUPTED."""

    def __init__(self, run_pod: Callable[[list[str], int], int], *, has_trainer: bool = True) -> None:
        self.run_pod, self.has_trainer = run_pod, has_trainer
        self.jobs: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.ending: dict[str, int] = {}  # GETs until the pods of a deleted object are gone, by path
        self.num_overlaps = 0  # objects that were created while the pods of the one before ran
        self.num_failures: dict[int, int] = {}
        super().__init__(_handler(self))

    def answer(self, method: str, path: str, body: dict[str, Any], query: str = "") -> dict[str, Any] | None:
        if "trainer.kubeflow.org" in path and not self.has_trainer:
            return None
        if path.endswith("/v1alpha1"):
            return {"kind": "APIResourceList"}
        if method == "DELETE":
            return self.delete(path, is_foreground=query == "propagationPolicy=Foreground")
        if method == "GET" and path in self.ending:
            self.end(path)
        elif method == "PATCH" and path in self.ending and path in self.jobs:
            return self.jobs[path]  # what is applied to an object that goes away is lost
        elif method == "PATCH":
            self.num_overlaps += path in self.ending
            self.num_failures = {}
            self.jobs[path] = {**body, "status": {"done": []}}
            self.created.append(body)
        elif path in self.jobs:
            self.advance(self.jobs[path])
        return self.jobs.get(path)

    def delete(self, path: str, *, is_foreground: bool) -> dict[str, Any] | None:
        found = self.jobs.get(path)
        if found is not None:
            self.deleted.append(path)
            self.ending.setdefault(path, NUM_POLLS_TO_END)
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            if not is_foreground:
                del self.jobs[path]
        return found

    def end(self, path: str) -> None:
        self.ending[path] -= 1
        if not self.ending[path]:
            del self.ending[path]
            self.jobs.pop(path, None)

    def advance(self, job: dict[str, Any]) -> None:
        spec, status = job["spec"], job["status"]
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
        elif code != DISRUPTED:
            self.num_failures[index] = self.num_failures.get(index, 0) + 1
            rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
            is_final = any(code in rule.get("onExitCodes", {}).get("values", []) for rule in rules)
            if is_final or self.num_failures[index] > job["spec"].get("backoffLimitPerIndex", 0):
                status.setdefault("failed_list", []).append(index)


def command_of(job: dict[str, Any], index: int) -> list[str]:
    """The command of one pod, with the variable replaced as the kubelet does."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return [part.replace("$(JOB_COMPLETION_INDEX)", str(index)) for part in container["command"]]


def is_valid_name(body: dict[str, Any]) -> bool:
    """Whether the API takes the name of an object, and JobSet that of a TrainJob."""
    name = body["metadata"]["name"]
    return DNS_LABEL.fullmatch(name) is not None and (body["kind"] != "TrainJob" or len(name) <= 48)


def _handler(api: ClusterJobs) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._run({})

        def do_DELETE(self) -> None:
            self._run({})

        def do_PATCH(self) -> None:
            self._run(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _run(self, body: dict[str, Any]) -> None:
            url = urlsplit(self.path)
            if body and not is_valid_name(body):
                self.send_error(422)
                return
            answer = api.answer(self.command, url.path, body, url.query)
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer or {}).encode())

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    return Handler
