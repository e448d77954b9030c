"""The notice at the end of a run, posted to an incoming webhook (Slack, Mattermost, Teams: JSON with `text`)."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import Self

WEBHOOK = "DUBMILL_WEBHOOK"  # the address holds a secret, so it is in no message
TIMEOUT_SECONDS = 10
NUM_ATTEMPTS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notice:
    """How a run ended."""

    pipeline: str
    run_id: str
    state: str  # SUCCEEDED | FAILED | CANCELLED
    error: str
    mlflow: str

    @classmethod
    def of(cls, pipeline: str, state: str, error: str) -> Self:
        """Returns the notice of the run that this task belongs to."""
        return cls(pipeline, os.environ.get("KFP_RUN_ID", ""), state, error, os.environ.get("MLFLOW_TRACKING_URI", ""))

    @property
    def text(self) -> str:
        """The notice in one sentence."""
        reason = f": {self.error}" if self.error else ""
        return f"{self.pipeline} {self.run_id} {self.state.lower()}{reason}"

    @property
    def markdown(self) -> str:
        """The notice as a page."""
        rows = "".join(f"| {name} | {value} |\n" for name, value in asdict(self).items() if value)
        return f"# {self.pipeline}: {self.state.lower()}\n\n| | |\n|---|---|\n{rows}"


def send(notice: Notice) -> str:
    """Posts the notice to the address in $DUBMILL_WEBHOOK; returns one sentence about that, without the address.

    A webhook that does not answer is tried again and then given up: a notice never makes a finished run fail.
    """
    address = os.environ.get(WEBHOOK, "").strip()
    if not address:
        return "No webhook is set."
    reason = ""
    for _ in range(NUM_ATTEMPTS):
        reason = _post(address, json.dumps({"text": notice.text, **asdict(notice)}).encode())
        if not reason:
            return "The notice was sent."
    logger.warning("the notice was not sent (%s)", reason)
    return f"The notice was not sent ({reason})."


def _post(address: str, body: bytes) -> str:
    """Returns why the post failed, or an empty string."""
    try:
        request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return type(error).__name__
