"""The part of the Kubernetes API that a roll uses, on loopback, with the real rules.

Server-side apply (kubernetes.io, "Server-Side Apply"): a PATCH of `application/apply-patch+yaml` with a fieldManager; fields that this
manager applied before and now leaves out are removed; `generation` grows when the spec changes. A Deployment's `observedGeneration`
lags behind; it is rolled when updatedReplicas, replicas and availableReplicas are all as wanted (kubectl's rollout status); pods that never
become ready end as ProgressDeadlineExceeded while the old ones go on serving. KServe copies the predictor's annotations to the
pod template of the Deployment `<name>-predictor`. An object with a finalizer, as KServe gives it, is still there for a while after a
DELETE, and what is applied meanwhile is lost. Created objects need the fields that the CRD requires, and a DNS label as their name.
"""

from __future__ import annotations

import http.server
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from doubles.cluster_jobs import DNS_LABEL
from doubles.loopback import Loopback

NAME = "dubmill"


class KubernetesApi(Loopback):
    """The server; use it as a context manager. `fault` says for the number of a call: "", "refused" or "lost"."""

    def __init__(self) -> None:
        self.service: dict[str, Any] = {
            "metadata": {"name": NAME, "annotations": {}},
            "spec": {"predictor": {"annotations": {"team": "a"}}},
        }
        self.applied: set[tuple[str, str]] = set()
        self.generation = self.observed = 1
        self.polls = 0  # of the Deployment since its last change
        self.takes_new_releases = True
        self.broken_folders: set[str] = set()  # releases whose self-test fails
        self.fault = lambda number: ""
        self.calls: list[str] = []
        self.canary: dict[str, Any] | None = None
        self.canary_polls = 0
        self.num_canaries = 0
        self.is_canary_deleted = False
        super().__init__(_handler(self))

    @property
    def pods(self) -> dict[str, str]:
        return self.service["spec"]["predictor"]["annotations"]

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        before = dict(self.pods)
        places = {"metadata": self.service["metadata"]["annotations"], "pods": self.pods}
        given = {"metadata": body["metadata"].get("annotations", {}), "pods": body["spec"]["predictor"]["annotations"]}
        now = {(place, key) for place, values in given.items() for key in values}
        for place, key in self.applied - now:
            places[place].pop(key, None)
        for place, values in given.items():
            places[place].update(values)
        self.applied = now
        if self.pods != before:
            self.generation, self.polls = self.generation + 1, 0
        return self.service

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The object at `path` after the call; None where there is none."""
        if f"{NAME}-canary" in path:
            return self.canary_answer(method, path, body)
        if method == "PATCH":
            return self.apply(body)
        return self.deployment() if "/deployments/" in path else self.service

    def canary_answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if self.is_canary_deleted and method == "GET":  # the finalizer is done
            self.canary, self.is_canary_deleted = None, False
            return {"metadata": {"deletionTimestamp": "now"}}
        if method == "PATCH" and self.canary is None:
            assert body["spec"]["predictor"]["minReplicas"] == 1
            self.canary, self.canary_polls = body, 0
            self.num_canaries += 1
        elif method == "DELETE" and self.canary is not None:
            self.is_canary_deleted = True
        if self.canary is None or "/deployments/" not in path:
            return self.canary
        self.canary_polls += 1
        pods = self.canary["spec"]["predictor"]["annotations"]
        is_ready = self.canary_polls > 2 and pods["dubmill/release-folder"] not in self.broken_folders
        status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": int(is_ready)}
        if self.canary_polls > 3 and not is_ready:
            status["conditions"] = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]
        spec = {"replicas": 1, "template": {"metadata": {"annotations": dict(pods)}}}
        return {"metadata": {"generation": 1}, "spec": spec, "status": status} if self.canary_polls > 1 else None

    def deployment(self) -> dict[str, Any]:
        self.polls += 1
        is_new_ready = (
            self.takes_new_releases
            and self.polls > 2
            and self.pods.get("dubmill/release-folder", "") not in self.broken_folders
        )
        self.observed = self.generation if self.polls > 1 else self.observed
        conditions = [{"type": "Available", "status": "True"}]
        if self.polls > 3 and not is_new_ready:
            conditions.append({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"})
        counts = {"replicas": 1 if is_new_ready else 2, "updatedReplicas": 1, "availableReplicas": 1}
        return {
            "metadata": {"generation": self.generation},
            "spec": {"replicas": 1, "template": {"metadata": {"annotations": dict(self.pods)}}},
            "status": {"observedGeneration": self.observed, "conditions": conditions, **counts},
        }


def _handler(api: KubernetesApi) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._run({})

        def do_DELETE(self) -> None:
            self._run({})

        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            query = parse_qs(urlsplit(self.path).query)
            assert self.headers["Content-Type"] == "application/apply-patch+yaml"
            assert query == {"fieldManager": ["dubmill"], "force": ["true"]}
            assert (body["kind"], body["metadata"]["name"]) == (
                "InferenceService",
                self.path.split("?")[0].split("/")[-1],
            )
            assert body["apiVersion"] == "serving.kserve.io/v1beta1"
            assert DNS_LABEL.fullmatch(body["metadata"]["name"])
            self._run(body)

        def _run(self, body: dict[str, Any]) -> None:
            url = urlsplit(self.path)
            api.calls.append(f"{self.command} {url.path}")
            fault = api.fault(len(api.calls))
            if fault == "refused":
                self.send_error(500)
                return
            answer = api.answer(self.command, url.path, body)
            found = json.dumps(answer or {"kind": "Status", "reason": "NotFound"}).encode()
            if fault == "lost":  # it happened, and the answer does not arrive
                self.close_connection = True
                return
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    return Handler
