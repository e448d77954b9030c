"""Reports the progress of a training to Kubeflow Trainer, which shows it as `status.trainerStatus` of the TrainJob.

Kubeflow Trainer 2.2 and later, with its feature gate TrainJobStatus, gives the pods a URL, a CA certificate and a token (its
proposal 2779). Without them nothing is reported. The training knows nothing of it: its file of losses is read.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

URL = "KUBEFLOW_TRAINER_SERVER_URL"
CA_FILE = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
TOKEN_FILE = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 (the variable that names the file)
POLL_SECONDS = 15.0  # Trainer's guide asks for 5 or more between two reports
TIMEOUT_SECONDS = 5  # of each step of a request: connect, handshake, read
END_SECONDS = 20.0  # in which a request on its way and the last one are over, unless the server is very slow
FAILURES = (
    OSError,
    http.client.HTTPException,
    ValueError,
    KeyError,
)  # ValueError: a line is not JSON; KeyError: a variable is not set
METRICS = ("video", "audio", "total", "lr")  # of a line of the file of losses

logger = logging.getLogger(__name__)


@contextmanager
def reported_progress(losses: Path, *, num_steps: int, poll_seconds: float = POLL_SECONDS) -> Iterator[None]:
    """Reports the last line of the file `losses` to this pod's TrainJob, again and again while the block runs and once at its end.

    Only rank 0 reports, in a thread of its own. Whatever goes wrong there never fails the training, nor changes its outcome. The training waits
    for the last report when it has ended, for at most `END_SECONDS`.
    """
    if not os.environ.get(URL) or os.environ.get("RANK", "0") != "0":
        yield
        return
    report, is_done = _Report(losses, num_steps), threading.Event()

    def follow() -> None:
        while not is_done.wait(poll_seconds):
            report.send()
        report.send()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join(END_SECONDS)


class _Report:
    def __init__(self, losses: Path, num_steps: int) -> None:
        self.losses, self.num_steps = losses, num_steps
        self.first = (num_steps, 0.0)  # step and time from which the rate is measured
        self.num_sent = -1  # the last step that the server took
        self.reason = ""  # of the last warning

    def send(self) -> None:
        """Sends the last step, unless the server has it."""
        try:
            row = self._last_row()
            if row and row["step"] != self.num_sent:
                _post({"trainerStatus": self._status(row)})
                self.num_sent = row["step"]
        except FAILURES as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
            if reason != self.reason:
                logger.warning("the TrainJob does not show the progress of the training: %s", reason)
            self.reason = reason

    def _last_row(self) -> dict[str, Any]:
        lines = self.losses.read_text().rpartition("\n")[0].splitlines() if self.losses.is_file() else []
        row = json.loads(lines[-1]) if lines else {}
        num_done = row.get("step", 0)
        if num_done <= self.first[0]:  # nothing trained since, or a continued run was cut back to its checkpoint
            self.first = (num_done, time.monotonic())
        return row

    def _status(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns a TrainerStatus; the field `lastUpdatedTime` is required, and values of metrics are strings."""
        first_step, started = self.first
        num_trained = row["step"] - first_step
        left_seconds = (
            (time.monotonic() - started) / num_trained * (self.num_steps - row["step"]) if num_trained else None
        )
        return {
            "progressPercentage": 100 * row["step"] // self.num_steps,
            **({} if left_seconds is None else {"estimatedRemainingSeconds": round(left_seconds)}),
            "metrics": [
                {"name": "step", "value": f"{row['step']}"},
                *({"name": name if name == "lr" else f"loss.{name}", "value": f"{row[name]:.6g}"} for name in METRICS),
            ],
            "lastUpdatedTime": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _post(status: dict[str, Any]) -> None:
    """Certificate and token are read for every request, since the kubelet renews both."""
    context = ssl.create_default_context(cafile=os.environ[CA_FILE])
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {Path(os.environ[TOKEN_FILE]).read_text().strip()}",
    }
    request = urllib.request.Request(os.environ[URL], json.dumps(status).encode(), headers)  # noqa: S310 (Trainer's URL)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context):  # noqa: S310
        return
