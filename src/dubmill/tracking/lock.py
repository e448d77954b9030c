"""A lock in the MLflow registry, so that only one process at a time changes who is champion.

MLflow has no transactions, but the name of a registered model is unique in its database: whoever creates the model
`<name>.promotion-lock` holds the lock, and deletes it afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator

from dubmill.errors import ServiceUnavailableError
from dubmill.tracking.server import answering, client, is_missing, public_uri

logger = logging.getLogger(__name__)

WAIT_SECONDS = (
    3 * 3600.0
)  # a promotion that rolls the endpoint waits for pods that read tens of gigabytes, twice with a canary
POLL_SECONDS = 2.0
STALE_SECONDS = 600.0  # the holder renews its lock; one that was not renewed for so long was left by a killed process
RENEW_SECONDS = 60.0


@contextlib.contextmanager
def promotion_lock(
    name: str,
    *,
    wait_seconds: float = WAIT_SECONDS,
    poll_seconds: float = POLL_SECONDS,
    stale_seconds: float = STALE_SECONDS,
    renew_seconds: float = RENEW_SECONDS,
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
    is_done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lock, renew_seconds, is_done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        is_done.set()
        renewing.join()
        _delete(lock)


def _renew(lock: str, renew_seconds: float, is_done: threading.Event) -> None:
    """Gives the lock a new time of change at intervals; a server that does not answer once is asked again."""
    while not is_done.wait(renew_seconds):
        try:
            with answering():
                client().update_registered_model(
                    lock, description=f"Lock: a promotion is under way at {time.time():.0f}."
                )
        except ServiceUnavailableError as error:
            logger.warning("the promotion lock was not renewed: %s", error.sentence)


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
            found = mlflow.get_registered_model(lock)
            created_ms = found.creation_timestamp or 0
            if time.time() - (found.last_updated_timestamp or created_ms) / 1000 < stale_seconds:
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
