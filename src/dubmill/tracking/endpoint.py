"""Rolls the InferenceService: alias, files and pods change together, or none of them does.

    with rollout(backbone, release, is_champion):
        move the alias

The files of each release have a folder of their own on the volume, so adding them changes nothing. Two annotations of the pods name
the folders, and one server-side apply changes both. A new pod gets requests only after its self-test dub (its readiness probe), and
the old pods serve until then. If the new pods do not become ready, or the alias does not move, the annotations are put back. A
third annotation says that a change is under way: what a killed process left is finished, or put back, by the next call.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dubmill.artifacts.publish import ENDPOINT, MODELS, publish
from dubmill.artifacts.store import Backbone, Release
from dubmill.errors import DubmillError, ServiceUnavailableError, UsageError

if TYPE_CHECKING:
    from dubmill.tracking.registry import Version

API = "DUBMILL_KUBERNETES"  # address of the API, such as that of `kubectl proxy`; empty: the pod's own
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
BACKBONE_FOLDER, RELEASE_FOLDER, UNDER_WAY = (
    f"dubmill/{name}" for name in ("backbone-folder", "release-folder", "under-way")
)
READY_SECONDS = 3600.0  # LTX-2 is read from the volume in up to half an hour
POLL_SECONDS = 5.0
NUM_ATTEMPTS = 5  # of one API call
WAIT_SECONDS = 2.0  # before the second attempt; doubled for each further one

logger = logging.getLogger(__name__)


class RolloutError(DubmillError):
    """The endpoint did not take a release; it serves what it served before."""


@dataclass(frozen=True)
class Folders:
    """Where the pods read from, relative to the volume; both empty before the first roll."""

    backbone: str
    release: str

    @classmethod
    def of(cls, backbone_digest: str, release_digest: str) -> Folders:
        """Returns the folders of a release and its backbone."""
        return cls(f"rolled/{backbone_digest[:32]}/", f"rolled/{release_digest[:32]}/")


class Endpoint:
    """One InferenceService, reached by Kubernetes' API; every call is tried again before it counts as failed."""

    def __init__(self, place: str) -> None:
        self.namespace, _, self.name = place.partition("/")
        if not self.name:
            raise UsageError(f"{ENDPOINT} is {place!r}", cure="set it to namespace/name of the InferenceService")

    def point_to(self, folders: Folders, *, coming_from: Folders | None = None) -> None:
        """Makes the pods read from `folders`; `coming_from` is noted until the next call without it."""
        noted = {UNDER_WAY: json.dumps([coming_from.backbone, coming_from.release])} if coming_from else {}
        pods = {BACKBONE_FOLDER: folders.backbone, RELEASE_FOLDER: folders.release}
        body = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": self.name, "annotations": noted},
            "spec": {"predictor": {"annotations": pods}},
        }
        self._call("PATCH", f"{self._service}?fieldManager=dubmill&force=true", body)

    def state(self) -> tuple[Folders, Folders | None]:
        """Returns where the pods are to read from, and from where before, if a change is under way."""
        service = self._call("GET", self._service)
        pods = service["spec"]["predictor"].get("annotations") or {}
        noted = (service["metadata"].get("annotations") or {}).get(UNDER_WAY)
        now = Folders(pods.get(BACKBONE_FOLDER, ""), pods.get(RELEASE_FOLDER, ""))
        return now, Folders(*json.loads(noted)) if noted else None

    def wait_ready(self, folders: Folders, seconds: float) -> None:
        """Waits until all pods read from `folders` and are ready, as `kubectl rollout status` counts it.

        Raises:
            RolloutError: they are not in time, or Kubernetes gave up.
        """
        deadline = time.monotonic() + seconds
        while not _is_rolled(deployment := self._call("GET", self._deployment), folders):
            gave_up = [one for one in _conditions(deployment) if one.get("reason") == "ProgressDeadlineExceeded"]
            if time.monotonic() > deadline or (gave_up and _is_seen(deployment, folders)):
                raise RolloutError(
                    "the new pods do not become ready", where=f"{self.namespace}/{self.name}", cure="see their log"
                )
            time.sleep(POLL_SECONDS)

    @property
    def _service(self) -> str:
        return f"/apis/serving.kserve.io/v1beta1/namespaces/{self.namespace}/inferenceservices/{self.name}"

    @property
    def _deployment(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}-predictor"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        for attempt in range(NUM_ATTEMPTS):
            try:
                return _request(method, path, body)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} of {method}"
                if error.code < 500 and error.code not in (409, 429):
                    break
            except OSError as error:
                reason = type(error).__name__
            time.sleep(WAIT_SECONDS * 2**attempt)
        raise ServiceUnavailableError(
            f"the Kubernetes API failed ({reason})",
            where=f"{self.namespace}/{self.name}",
            cure="check the account of the run (`promoter`) and its role",
        )


def _request(method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    address, context, headers = os.environ.get(API, ""), None, {"Content-Type": "application/apply-patch+yaml"}
    if not address:
        address = f"https://{os.environ.get('KUBERNETES_SERVICE_HOST')}:{os.environ.get('KUBERNETES_SERVICE_PORT')}"
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        headers["Authorization"] = f"Bearer {(ACCOUNT / 'token').read_text()}"
    data = json.dumps(body).encode() if body is not None else None  # JSON is YAML
    request = urllib.request.Request(address + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:
        return json.loads(answer.read())


def _conditions(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    return deployment.get("status", {}).get("conditions") or []


def _is_seen(deployment: dict[str, Any], folders: Folders) -> bool:
    """Returns whether the Deployment is of `folders`, and its controller has seen that."""
    found = deployment["spec"]["template"]["metadata"].get("annotations") or {}
    is_current = deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return is_current and Folders(found.get(BACKBONE_FOLDER, ""), found.get(RELEASE_FOLDER, "")) == folders


def _is_rolled(deployment: dict[str, Any], folders: Folders) -> bool:
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas")]
    return _is_seen(deployment, folders) and counts == [wanted] * 3


@contextmanager
def rollout(
    folders: Folders, is_champion: Callable[[Folders], bool], *, ready_seconds: float = READY_SECONDS
) -> Iterator[None]:
    """Makes the endpoint serve what is in `folders`, then runs the block; if either fails, the endpoint is put back.

    `is_champion` says whether the alias is at the release of the given folders: an alias that did move keeps the endpoint where it
    is. Without $DUBMILL_ENDPOINT only the block runs.

    Raises:
        RolloutError: the pods with the release did not become ready.
        ServiceUnavailableError: the API does not answer.
    """
    if not os.environ.get(ENDPOINT):
        yield
        return
    endpoint = Endpoint(os.environ[ENDPOINT])
    before = _settle(endpoint, is_champion)
    if before == folders:
        yield
        return
    try:
        endpoint.point_to(folders, coming_from=before)
        endpoint.wait_ready(folders, ready_seconds)
        yield
    except BaseException:  # a SIGTERM too
        _settle(endpoint, is_champion)
        raise
    endpoint.point_to(folders)


def _settle(endpoint: Endpoint, is_champion: Callable[[Folders], bool]) -> Folders:
    """Ends a change that is under way: it stays where the alias moved, else it is put back; returns where the pods read from."""
    now, before = endpoint.state()
    if before is None:
        return now
    kept = now if is_champion(now) else before
    endpoint.point_to(kept)
    logger.warning("a change of the endpoint was ended: it reads from %s", kept.release or "release/")
    return kept


def folders_of(version: Version) -> Folders:
    """Returns the folders of a version that was promoted."""
    return Folders.of(version.tags.get("backbone_digest", ""), version.tags.get("release_digest", ""))


def add_files(backbone: Backbone, release: Release) -> Folders:
    """Copies a release and its backbone to folders of their own on the volume of the endpoint; nothing served changes."""
    folders = Folders.of(backbone.digest, release.digest)
    if os.environ.get(ENDPOINT) and os.environ.get(MODELS):
        volume = Path(os.environ[MODELS])
        publish(volume / folders.backbone, backbone=backbone.path)
        publish(volume / folders.release, release=release.path)
    return folders
