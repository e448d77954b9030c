"""Rolls the InferenceService: alias, files and pods change together, or none of them does.

    with rollout(backbone, release, is_champion):
        move the alias

The files of each release have a folder of their own on the volume, so adding them changes nothing. Two annotations of the pods name
the folders, and one server-side apply changes both. A new pod gets requests only after its self-test dub (its readiness probe), and
the old pods serve until then. If the new pods do not become ready, or the alias does not move, the annotations are put back. A
third annotation says that a change is under way: what a killed process left is finished, or put back, by the next call.

Before that the release can be checked in an InferenceService of its own, the canary, which no user calls. (KServe splits traffic only
in its Knative mode: kserve.github.io, "Canary Rollout Strategy".) With $DUBMILL_GITOPS a change is a commit of a git repository,
which Argo CD or Flux applies; the API is only read.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dubmill.artifacts.publish import ENDPOINT, MODELS, publish
from dubmill.artifacts.store import Backbone, Release
from dubmill.cluster import kubernetes
from dubmill.errors import DubmillError, ServiceUnavailableError, UsageError
from dubmill.tracking import git

if TYPE_CHECKING:
    from dubmill.tracking.registry import Version

GITOPS = "DUBMILL_GITOPS"  # REPOSITORY#BRANCH that holds the endpoint's folders; empty: the API is called
BACKBONE_FOLDER, RELEASE_FOLDER, UNDER_WAY = (
    f"dubmill/{name}" for name in ("backbone-folder", "release-folder", "under-way")
)
READY_SECONDS = 3600.0  # LTX-2 is read from the volume in up to half an hour
REMOVED_SECONDS = 3600.0  # a pod ends after its grace period, half an hour for LTX-2
POLL_SECONDS = 5.0
NOT_OF_CANARY = (
    "--database",
    "--api_keys",
    "--identity_header",
)  # it has a queue of its own; the task that calls it has no key

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
    """One InferenceService, reached by Kubernetes' API."""

    def __init__(self, place: str) -> None:
        self.namespace, _, self.name = place.partition("/")
        if not self.name:
            raise UsageError(f"{ENDPOINT} is {place!r}", cure="set it to namespace/name of the InferenceService")

    def point_to(self, folders: Folders, *, coming_from: Folders | None = None) -> None:
        """Makes the pods read from `folders`; `coming_from` is noted until the next call without it."""
        kubernetes.apply(self.service, self._pointing_to(folders, coming_from))

    def _pointing_to(self, folders: Folders, coming_from: Folders | None) -> dict[str, Any]:
        noted = {UNDER_WAY: json.dumps([coming_from.backbone, coming_from.release])} if coming_from else {}
        return {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": self.name, "annotations": noted},
            "spec": {"predictor": {"annotations": _annotations(folders)}},
        }

    def state(self) -> tuple[Folders, Folders | None]:
        """Returns where the pods are to read from, and from where before, if a change is under way."""
        return _state_in(kubernetes.call("GET", self.service))

    def wait_ready(self, folders: Folders, seconds: float) -> None:
        """Waits until all pods read from `folders` and are ready, as `kubectl rollout status` counts it.

        Raises:
            RolloutError: they are not in time, or Kubernetes gave up.
        """
        deadline = time.monotonic() + seconds
        while not ((deployment := kubernetes.find(self._deployment)) and _is_rolled(deployment, folders)):
            gave_up = [one for one in _conditions(deployment) if one.get("reason") == "ProgressDeadlineExceeded"]
            if time.monotonic() > deadline or (deployment and gave_up and _is_seen(deployment, folders)):
                raise RolloutError(
                    "the new pods do not become ready", where=f"{self.namespace}/{self.name}", cure="see their log"
                )
            time.sleep(POLL_SECONDS)

    @contextmanager
    def canary(self, folders: Folders, seconds: float) -> Iterator[str]:
        """Serves what is in `folders` in an InferenceService of its own during the block; yields its address in the cluster.

        It is a copy of this endpoint's that writes to no volume and takes no job of the endpoint's queue.
        """
        canary = Endpoint(f"{self.namespace}/{self.name}-canary")
        canary.remove()  # left by a killed process
        try:
            body = _canary_of(kubernetes.call("GET", self.service), canary.name, folders)
            kubernetes.apply(canary.service, body)
            canary.wait_ready(folders, seconds)
            yield f"http://{canary.name}-predictor.{self.namespace}"
        finally:
            canary.remove()

    def remove(self) -> None:
        """Deletes the InferenceService and waits until it is gone: one that is being deleted takes no changes."""
        deadline = time.monotonic() + REMOVED_SECONDS
        while kubernetes.find(self.service):
            kubernetes.delete(self.service)
            if time.monotonic() > deadline:
                raise RolloutError("it does not go away", where=self.service, cure="see its events")
            time.sleep(POLL_SECONDS)

    @property
    def service(self) -> str:
        """The path of the InferenceService in the API."""
        return f"/apis/serving.kserve.io/v1beta1/namespaces/{self.namespace}/inferenceservices/{self.name}"

    @property
    def _deployment(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}-predictor"


class GitEndpoint(Endpoint):
    """An InferenceService whose folders are named by a file in git, which Argo CD or Flux applies; the API is only read."""

    def __init__(self, place: str, repository: str) -> None:
        super().__init__(place)
        self.repository, _, branch = repository.partition("#")
        self.branch, self.file = branch or "main", f"{self.namespace}/{self.name}-release.yaml"

    def point_to(self, folders: Folders, *, coming_from: Folders | None = None) -> None:
        """Commits the file and pushes it; on top of what others pushed in the meantime."""
        text = yaml.safe_dump(self._pointing_to(folders, coming_from), sort_keys=False)
        for _ in range(git.NUM_ATTEMPTS):
            if self._is_committed(text, f"{self.name} serves {folders.release or 'release/'}"):
                return
        raise ServiceUnavailableError("others push all the time", where=self.repository, cure="run it again")

    def _is_committed(self, text: str, message: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            clone = git.clone(self.repository, self.branch, Path(folder))
            (clone / self.file).parent.mkdir(parents=True, exist_ok=True)
            (clone / self.file).write_text(text)
            git.run(clone, "git", "add", self.file)
            if not git.run(clone, "git", "status", "--porcelain"):
                return True
            git.run(clone, "git", *git.IDENTITY, "commit", "-q", "-m", message)
            return git.is_pushed(clone, f"HEAD:refs/heads/{self.branch}")

    def state(self) -> tuple[Folders, Folders | None]:
        """Returns what the newest commit says."""
        with tempfile.TemporaryDirectory() as folder:
            file = git.clone(self.repository, self.branch, Path(folder)) / self.file
            return _state_in(yaml.safe_load(file.read_text()) if file.is_file() else {})


def _annotations(folders: Folders) -> dict[str, str]:
    return {BACKBONE_FOLDER: folders.backbone, RELEASE_FOLDER: folders.release}


def _state_in(service: dict[str, Any]) -> tuple[Folders, Folders | None]:
    pods = service.get("spec", {}).get("predictor", {}).get("annotations") or {}
    noted = (service.get("metadata", {}).get("annotations") or {}).get(UNDER_WAY)
    now = Folders(pods.get(BACKBONE_FOLDER, ""), pods.get(RELEASE_FOLDER, ""))
    return now, Folders(*json.loads(noted)) if noted else None


def _canary_of(service: dict[str, Any], name: str, folders: Folders) -> dict[str, Any]:
    """Returns a copy of an InferenceService for one pod that shares no state and asks for no key, since it is reached from inside only.

    Volumes that it may write are empty folders.
    """
    predictor = copy.deepcopy(service["spec"]["predictor"]) | {"minReplicas": 1, "maxReplicas": 1}
    predictor["annotations"] = (predictor.get("annotations") or {}) | _annotations(folders)
    for volume in predictor.get("volumes", []):
        if "persistentVolumeClaim" in volume and not volume["persistentVolumeClaim"].get("readOnly"):
            del volume["persistentVolumeClaim"]
            volume["emptyDir"] = {}
    for container in predictor.get("containers", []):
        container["args"] = _without(NOT_OF_CANARY, container.get("args", []))
    annotations = service["metadata"].get("annotations") or {}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "annotations": {key: value for key, value in annotations.items() if key.startswith("serving.kserve.io/")},
            "labels": {"networking.kserve.io/visibility": "cluster-local"},  # no route from outside
        },
        "spec": {"predictor": predictor},
    }


def _without(names: tuple[str, ...], arguments: list[str]) -> list[str]:
    """Returns arguments of the server without some of its options, written as `--name=value` or as `--name`, `value`."""
    after = ["", *arguments]  # the argument before each
    pairs = zip(after, arguments, strict=False)
    return [one for before, one in pairs if one.partition("=")[0] not in names and before not in names]


def _conditions(deployment: dict[str, Any] | None) -> list[dict[str, Any]]:
    return (deployment or {}).get("status", {}).get("conditions") or []


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
    folders: Folders,
    is_champion: Callable[[Folders], bool],
    *,
    check: Callable[[str], None] | None = None,
    ready_seconds: float = READY_SECONDS,
) -> Iterator[None]:
    """Makes the endpoint serve what is in `folders`, then runs the block; if either fails, the endpoint is put back.

    `is_champion` says whether the alias is at the release of the given folders: an alias that did move keeps the endpoint where it
    is. `check` gets the address of a canary and raises where it is not good enough: then nothing moves. Without $DUBMILL_ENDPOINT only
    the block runs.

    Raises:
        RolloutError: the pods with the release did not become ready.
        ServiceUnavailableError: the API does not answer.
    """
    if not os.environ.get(ENDPOINT):
        yield
        return
    place, repository = os.environ[ENDPOINT], os.environ.get(GITOPS, "")
    endpoint = GitEndpoint(place, repository) if repository else Endpoint(place)
    before = _settle(endpoint, is_champion)
    if before == folders:
        yield
        return
    if check is not None and not repository:
        with endpoint.canary(folders, ready_seconds) as address:
            check(address)
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
