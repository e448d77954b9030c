"""Logs the losses of a training to MLflow while it runs, as a reader of its file: the training knows nothing of it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dubmill.errors import InvalidArtifactError, ServiceUnavailableError, UsageError
from dubmill.tracking.runs import TRAINING_TAG, close_run, log_losses, open_run
from dubmill.tracking.server import answering, client

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENT = "DUBMILL_EXPERIMENT"  # of MLflow; empty: nothing is logged while a training runs
POLL_SECONDS = 15.0
END_SECONDS = 30.0  # in which the last lines are sent and the run is ended, unless the server is very slow

logger = logging.getLogger(__name__)


@contextmanager
def live_losses(path: Path, *, name: str, poll_seconds: float = POLL_SECONDS) -> Iterator[Callable[[str], None]]:
    """Logs the lines of the file `path` to an MLflow run as they come; yields a function that tags the run with its adapter's digest.

    The run ends as the block does: finished, failed, or killed by SIGTERM. A training that continues (the same `name`) opens it again, and
    so does `register`, by the adapter's digest. Points that are logged twice are stored once. A server that fails never fails the training,
    which waits for it at its end for at most `END_SECONDS`.
    """
    experiment = os.environ.get(EXPERIMENT, "")
    follower = _Follower(experiment, path, name, poll_seconds)
    if not experiment:
        yield follower.digests.append
        return
    follower.start()
    try:
        yield follower.digests.append
    except BaseException as error:
        follower.error = error
        raise
    finally:
        follower.is_done.set()
        follower.join(END_SECONDS)
        if follower.is_alive():
            logger.warning("%s", follower.unsent())


class _Follower(threading.Thread):
    def __init__(self, experiment: str, path: Path, name: str, poll_seconds: float) -> None:
        super().__init__(daemon=True)
        self.experiment, self.path, self.training, self.poll_seconds = experiment, path, name, poll_seconds
        self.is_done, self.digests = threading.Event(), list[str]()
        self.error: BaseException | None = None  # that ended the training
        self.opened: tuple[Run, bool] | None = None
        self.num_logged = 0

    def run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self.is_done.wait(self.poll_seconds)  # then once more, for the last lines
            try:
                self._log()
            except (ServiceUnavailableError, UsageError, InvalidArtifactError) as error:
                logger.warning("the losses were not logged to MLflow: %s", error.sentence)
            finally:
                if is_last:
                    self._close()

    def _log(self) -> None:
        self.opened = self.opened or open_run(self.experiment, name=self.training, tags={TRAINING_TAG: self.training})
        run, _ = self.opened
        if self.path.is_file():
            self.num_logged = log_losses(run, self.path, first=self.num_logged)
        if self.digests:
            with answering():
                client().set_tag(run.info.run_id, "adapter_digest", self.digests[-1])

    def unsent(self) -> str:
        """A sentence on what the server did not take in time."""
        num_lines = self.path.read_text().count("\n") if self.path.is_file() else 0
        missing = f"{num_lines - self.num_logged} of {num_lines} steps of {self.path} are not logged"
        state = f"{missing}, and the run of the training stays open; `register` logs all steps"
        return f"MLflow did not answer within {END_SECONDS:g} s: {state}"

    def _close(self) -> None:
        run, is_ours = self.opened or (None, False)
        if run is None or not is_ours:
            return
        try:
            close_run(run, self.error)
        except ServiceUnavailableError as error:
            logger.warning("the run of the training stays open in MLflow: %s", error.sentence)
