"""Logs the losses of a training to MLflow while it runs, as a reader of its file: the training knows nothing of it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dubmill.errors import InvalidArtifactError, ServiceUnavailableError, UsageError
from dubmill.tracking.runs import log_losses, open_run
from dubmill.tracking.server import answering, client

EXPERIMENT = "DUBMILL_EXPERIMENT"  # of MLflow; empty: nothing is logged while a training runs
POLL_SECONDS = 15.0

logger = logging.getLogger(__name__)


@contextmanager
def live_losses(path: Path, *, name: str, poll_seconds: float = POLL_SECONDS) -> Iterator[Callable[[str], None]]:
    """Logs the lines of the file `path` to an MLflow run as they come; yields a function that tags the run with its adapter's digest.

    The run stays open: a training that continues after a kill (the same `name`) finds it, and so does `register`, by the adapter's
    digest. Points that are logged twice are stored once. A server that fails never fails the training.
    """
    experiment, is_done, digests = os.environ.get(EXPERIMENT, ""), threading.Event(), list[str]()
    if not experiment:
        yield digests.append
        return
    follower = threading.Thread(
        target=_follow, args=(experiment, path, name, poll_seconds, is_done, digests), daemon=True
    )
    follower.start()
    try:
        yield digests.append
    finally:
        is_done.set()
        follower.join()


def _follow(
    experiment: str, path: Path, name: str, poll_seconds: float, is_done: threading.Event, digests: list[str]
) -> None:
    run, num_logged, is_last = None, 0, False
    while not is_last:
        is_last = is_done.wait(poll_seconds)  # then once more, for the last lines
        try:
            run = run or open_run(experiment, name=name, tags={"training": name})[0]
            if path.is_file():
                num_logged = log_losses(run, path, first=num_logged)
            if digests:
                with answering():
                    client().set_tag(run.info.run_id, "adapter_digest", digests[-1])
        except (ServiceUnavailableError, UsageError, InvalidArtifactError) as error:
            logger.warning("the losses were not logged to MLflow: %s", error.sentence)
