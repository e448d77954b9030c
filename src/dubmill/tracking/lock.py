"""A lock in the MLflow registry, so that only one process at a time changes who is champion.

MLflow has no transactions, but the name of a registered model is unique in its database: whoever creates the model
`<name>.promotion-lock` holds the lock, and deletes it afterwards.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator

from dubmill.errors import ServiceUnavailableError
from dubmill.tracking.server import answering, client, is_missing, public_uri

WAIT_SECONDS = 900.0
POLL_SECONDS = 2.0
STALE_SECONDS = 600.0  # a promotion takes seconds under the lock; an older lock was left by a killed process


@contextlib.contextmanager
def promotion_lock(
    name: str,
    *,
    wait_seconds: float = WAIT_SECONDS,
    poll_seconds: float = POLL_SECONDS,
    stale_seconds: float = STALE_SECONDS,
) -> Iterator[None]:
    """Holds the lock of model `name` inside the block; waits for another process that holds it.

    Raises:
        ServiceUnavailableError: another process held the lock all the time, or the server does not answer.
    """
    lock, deadline = f"{name}.promotion-lock", time.monotonic() + wait_seconds
    while not _create(lock):
        if _remove_stale(lock, stale_seconds):
            continue
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(
                f"another promotion of {name!r} is under way", where=public_uri(), cure="try again when it has ended"
            )
        time.sleep(poll_seconds)
    try:
        yield
    finally:
        _delete(lock)


def _create(lock: str) -> bool:
    from mlflow.exceptions import MlflowException

    with answering():
        try:
            client().create_registered_model(lock, description="Lock: a promotion is under way.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
    return True


def _remove_stale(lock: str, stale_seconds: float) -> bool:
    """Removes a lock that a killed process left; returns whether there is none now.

    The lock is renamed first: of several processes only one succeeds, and it puts back a lock that is a new one.
    """
    from mlflow.exceptions import MlflowException

    mlflow = client()
    with answering():
        try:
            created_ms = mlflow.get_registered_model(lock).creation_timestamp or 0
            if time.time() - created_ms / 1000 < stale_seconds:
                return False
            taken = f"{lock}.{uuid.uuid4().hex}"
            mlflow.rename_registered_model(lock, taken)
        except MlflowException as error:
            if not is_missing(error):
                raise
            return True
        if mlflow.get_registered_model(taken).creation_timestamp != created_ms:
            mlflow.rename_registered_model(taken, lock)
            return False
    _delete(taken)
    return True


def _delete(lock: str) -> None:
    from mlflow.exceptions import MlflowException

    with answering():
        try:
            client().delete_registered_model(lock)
        except MlflowException as error:
            if not is_missing(error):
                raise
