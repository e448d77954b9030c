"""Calls the Kubernetes API of the cluster that this pod is in; a call is repeated before it counts as failed."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from dubmill.errors import ServiceUnavailableError

API = "DUBMILL_KUBERNETES"  # address of the API, such as that of `kubectl proxy`; empty: the pod's own
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NUM_ATTEMPTS = 5  # of one call
WAIT_SECONDS = 2.0  # before the second attempt; doubled for each further one
TIMEOUT_SECONDS = 30
MANAGER = "fieldManager=dubmill&force=true"


class MissingObjectError(ServiceUnavailableError):
    """The cluster has no such object."""


def call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the API's answer; a server error, a conflict or no answer is tried again.

    Raises:
        MissingObjectError: there is no such object.
        ServiceUnavailableError: the API refuses, or does not answer.
    """
    reason = ""
    for attempt in range(NUM_ATTEMPTS):
        try:
            return _request(method, path, body)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} of {method}"
            if error.code == 404:
                raise MissingObjectError("there is no such object", where=path, cure="check its name") from error
            if error.code < 500 and error.code not in (409, 429):
                break
        except OSError as error:
            reason = type(error).__name__
        time.sleep(WAIT_SECONDS * 2**attempt)
    raise ServiceUnavailableError(
        f"the Kubernetes API failed ({reason})", where=path, cure="check the account of the run, and its role"
    )


def namespace() -> str:
    """Returns the namespace of this pod."""
    return (ACCOUNT / "namespace").read_text().strip()


def find(path: str) -> dict[str, Any] | None:
    """Returns an object, or None where there is none."""
    try:
        return call("GET", path)
    except MissingObjectError:
        return None


def apply(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Creates or changes an object by server-side apply: fields of ours that `body` leaves out are removed."""
    return call("PATCH", f"{path}?{MANAGER}", body)


def delete(path: str) -> None:
    """Begins to delete an object, if it is there; `find` returns it until all that belongs to it, such as its pods, is gone."""
    try:
        call("DELETE", f"{path}?propagationPolicy=Foreground")
    except MissingObjectError:
        return


def _request(method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    address, context, headers = os.environ.get(API, ""), None, {"Content-Type": "application/apply-patch+yaml"}
    if not address:
        address = f"https://{os.environ.get('KUBERNETES_SERVICE_HOST')}:{os.environ.get('KUBERNETES_SERVICE_PORT')}"
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        headers["Authorization"] = f"Bearer {(ACCOUNT / 'token').read_text()}"
    data = json.dumps(body).encode() if body is not None else None  # JSON is YAML
    request = urllib.request.Request(address + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context) as answer:
        return json.loads(answer.read())
