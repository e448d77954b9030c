"""A Kubernetes API with KServe and its endpoint `dubmill`: an InferenceService becomes a Deployment, which is rolled while it is looked at.

KServe copies the predictor's annotations to the pod template of the Deployment `<name>-predictor`, which is not there at once, and gives its
objects a finalizer. A Deployment's `observedGeneration` lags behind; it is rolled when updatedReplicas, replicas and availableReplicas
are all as wanted (kubectl's rollout status); pods that never become ready end as ProgressDeadlineExceeded while the old ones go on serving.
"""

from __future__ import annotations

import copy
from typing import Any

from doubles.kubernetes_api import KubernetesApi

NAME = "dubmill"
SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/dubmill/inferenceservices"
DEPLOYMENTS = "/apis/apps/v1/namespaces/dubmill/deployments"


class KServe(KubernetesApi):
    """The server; `broken_folders` are releases whose self-test fails."""

    def __init__(self) -> None:
        super().__init__()
        self.takes_new_releases = True
        self.broken_folders: set[str] = set()
        self.num_canaries = 0
        self.looks: dict[str, int] = {}  # at each Deployment since its last change
        body = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
        body |= {"metadata": {"name": NAME}, "spec": {"predictor": {"annotations": {"team": "a"}}}}
        self.apply(f"{SERVICES}/{NAME}", body, "kubectl")

    @property
    def service(self) -> dict[str, Any]:
        return self.objects[f"{SERVICES}/{NAME}"]

    @property
    def notes(self) -> dict[str, str]:
        """Annotations of the InferenceService."""
        return self.service["metadata"].get("annotations", {})

    @property
    def pods(self) -> dict[str, str]:
        """Annotations of its pods."""
        return self.service["spec"]["predictor"]["annotations"]

    @property
    def canary(self) -> dict[str, Any] | None:
        return self.objects.get(f"{SERVICES}/{NAME}-canary")

    def apply(
        self, path: str, body: dict[str, Any], manager: str = "dubmill", *, is_forced: bool = True
    ) -> dict[str, Any]:
        is_new, place = path not in self.objects, self._deployment_of(path)
        if place in self.looks:  # KServe has seen the change before this one, the Deployment's controller maybe not
            self.store(place, self.deployment(place, 2))
        before = None if is_new else self.objects[path]["metadata"]["generation"]
        found = super().apply(path, body, manager, is_forced=is_forced)
        if is_new:
            self.objects[path]["metadata"]["finalizers"] = ["inferenceservice.finalizers"]
            self.num_canaries += path.endswith("-canary")
        if found["metadata"]["generation"] != before:
            self.looks[place] = 0
        return found

    def look(self, path: str) -> None:
        if path.startswith(SERVICES):
            if path in self.objects and "deletionTimestamp" in self.objects[path]["metadata"]:
                ended = self.looks.pop(self._deployment_of(path), None) is None  # then its finalizer is done
                self.objects.pop(self._deployment_of(path), None)
                if ended:
                    self.drop(path)
        elif path in self.looks:
            self.looks[path] += 1
            if self.looks[path] > 1:  # until then KServe has not seen the change
                self.store(path, self.deployment(path, self.looks[path]))

    def deployment(self, path: str, looks: int) -> dict[str, Any]:
        """The Deployment as it is after some looks."""
        name = path.rpartition("/")[2]
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}}
        found = copy.deepcopy(self.objects.get(path)) or self._created(path, body)
        pods = dict(self.objects[f"{SERVICES}/{name.removesuffix('-predictor')}"]["spec"]["predictor"]["annotations"])
        spec = {"replicas": 1, "template": {"metadata": {"annotations": pods}}}
        generation = found["metadata"]["generation"] + (found.get("spec") != spec)
        is_ready = (
            looks > 3 and self.takes_new_releases and pods.get("dubmill/release-folder") not in self.broken_folders
        )
        has_old_pod = generation > 1 and not is_ready
        conditions = [{"type": "Available", "status": "True"}]
        if looks > 4 and not is_ready:
            conditions.append({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"})
        status = {"observedGeneration": generation, "conditions": conditions, "replicas": 1 + has_old_pod}
        status |= {"updatedReplicas": 1, "availableReplicas": int(is_ready or has_old_pod)}
        if looks == 2:  # the Deployment's controller has not seen the change: all is as it was
            status = found.get("status", {})
        return found | {"spec": spec, "status": status}

    def _deployment_of(self, path: str) -> str:
        return f"{DEPLOYMENTS}/{path.rpartition('/')[2]}-predictor"
