"""The MLflow tracking server in use, and one error where it does not answer."""

from __future__ import annotations

import contextlib
import functools
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dubmill.errors import ServiceUnavailableError, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
SQLITE = "sqlite:///"
PROBE_SECONDS = 5.0
CURE = "start the server (`make mlflow`), or set MLFLOW_TRACKING_URI to one that answers"


def tracking_uri() -> str:
    """Returns MLFLOW_TRACKING_URI, or a SQLite file in the working directory; paths of SQLite files become absolute.

    MLflow keeps one open store per URI, so a relative path would stay bound to the first working directory.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def public_uri() -> str:
    """Returns the tracking URI without its secrets, for files and messages."""
    return without_secrets(tracking_uri())


def client() -> MlflowClient:
    """Returns a client of the tracking server and its registry.

    Raises:
        ServiceUnavailableError: nothing answers at the tracking URI. MLflow itself would retry for minutes.
    """
    return _client(tracking_uri())


@functools.cache
def _client(uri: str) -> MlflowClient:
    _probe(uri)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default of 7 retries takes four minutes
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")  # of large files, past the server's proxy
    from mlflow import MlflowClient

    with answering():
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _probe(uri: str) -> None:
    if uri.startswith(("http://", "https://")):
        _probe_http(uri)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).parent.is_dir():
        raise ServiceUnavailableError(
            "there is no such folder for the SQLite file of MLflow", where=public_uri(), cure=CURE
        )


def _probe_http(uri: str) -> None:
    parts = urlsplit(public_uri())
    try:
        with urllib.request.urlopen(f"{parts.geturl().rstrip('/')}/health", timeout=PROBE_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it answers; a proxy may hide /health or ask for a password
            return
        reason: object = f"HTTP {error.code}"
    except urllib.error.URLError as error:
        reason = error.reason
    except (OSError, ValueError) as error:
        reason = error
    raise ServiceUnavailableError(f"the MLflow server does not answer ({reason})", where=public_uri(), cure=CURE)


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Turns MLflow's errors inside the block into one sentence.

    Raises:
        ServiceUnavailableError: the server refused, failed or went away.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ServiceUnavailableError(f"MLflow failed ({reason})", where=public_uri(), cure=CURE) from error


def is_missing(error: Exception) -> bool:
    """Returns whether an MLflow error means that something does not exist."""
    code = getattr(error, "error_code", "")
    return code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and "not found" in str(error))


def artifact_root() -> str | None:
    """Returns the artifact folder of a SQLite store, `mlartifacts` beside the database; None for a server."""
    uri = tracking_uri()
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()
