"""Webhooks: what a caller is sent when a job is over, signed as standardwebhooks.com says."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dubmill.client import webhook_signature
from dubmill.serving.outbound import Outbound

INTERVAL_SECONDS, MAX_ATTEMPTS, BACKOFF = 2.0, 8, 2.5  # retries over about 20 minutes


@dataclass(frozen=True)
class Webhooks:
    """Sends signed messages to the hosts that may be called."""

    outbound: Outbound
    secret: str

    def send(self, url: str, job_id: str, message: Mapping[str, Any]) -> None:
        """Send one message; its id is the job's, so that a receiver can tell a repeated one.

        Raises:
            ForbiddenSourceError: the URL may not be called.
            ServiceUnavailableError: the receiver did not answer with 2xx.
        """
        body, timestamp = json.dumps(message).encode(), str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "webhook-id": job_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": webhook_signature(self.secret, job_id, timestamp, body),
        }
        self.outbound.post(url, body, headers)


def message_of(job_id: str, fields: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What a webhook says about a job that is over."""
    is_done = "problem" not in outcome
    data = {"id": job_id, "state": "done" if is_done else "failed", "reference": fields["reference"]}
    links = {"self": f"/v1/dubs/{job_id}"} | ({"result": f"/v1/dubs/{job_id}/result"} if "sha256" in outcome else {})
    more = {"result": dict(outcome)} if is_done else {"problem": dict(outcome["problem"])}
    return {"type": f"dub.{data['state']}", "data": {**data, "links": links, **more}}
