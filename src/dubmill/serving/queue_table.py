"""The rows of the queue's database as a worker uses them: attributes of its jobs, and what goes back into the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from dbos import DBOSClient
from sqlalchemy import update

from dubmill.serving.database import AWAY, WATCH_SECONDS
from dubmill.serving.jobs import QUEUE
from dubmill.serving.usage import Usage

log = logging.getLogger("dubmill.serving")
Value = TypeVar("Value")

CLAIM_SECONDS = 20.0  # between two looks for claims whose answer was lost


class QueueTable:
    """A job's row in the queue's database, as a runner uses it.

    While the database is away dubs go on, nobody sees their progress, and what has to be known or written waits.
    """

    def __init__(self, client: DBOSClient, executor: str) -> None:
        """`executor` is the name of the worker whose jobs are put back."""
        self._client, self._executor, self._usage = client, executor, Usage(client)

    def set_attributes(self, job_id: str, attributes: Mapping[str, Any]) -> None:
        """Merge `attributes` into the job's, which is only for those who look at it."""
        with suppress(*AWAY):
            self._client.update_workflow_attributes(job_id, dict(attributes), merge=True)

    def is_cancelled(self, job_id: str) -> bool:
        """Whether the caller cancelled the job, or it is gone."""
        try:
            found = self._client.list_workflows(workflow_ids=[job_id], load_input=False, load_output=False)
        except AWAY:
            return False  # it is looked at again soon
        return not found or found[0].status == "CANCELLED"

    def reserve(self, job_id: str, owner: str, seconds: float, limit_seconds: float) -> float:
        """See `Usage.reserve`; waits for the database."""
        return _when_it_answers(lambda: self._usage.reserve(job_id, owner, seconds, limit_seconds))

    def count(self, job_id: str, owner: str, seconds: float) -> None:
        """See `Usage.add`; waits for the database."""
        _when_it_answers(lambda: self._usage.add(job_id, owner, seconds))

    def put_back(self, job_id: str) -> None:
        """Put a job that this worker has, and that is not over, back into the queue, where any worker takes it; this start does not count."""
        rows = self._client._sys_db.tables.workflow_status.c
        own = (rows.workflow_uuid == job_id, rows.executor_id == self._executor, rows.status == "PENDING")
        with self._client._sys_db.engine.begin() as connection:
            connection.execute(
                update(rows.status.table).where(*own).values(recovery_attempts=rows.recovery_attempts - 1)
            )
        self._client._sys_db.reenqueue_for_recovery(job_id, [self._executor], QUEUE)  # the client has no such method

    def put_all_back(self) -> None:
        """Put all that this worker has and that is not over back into its queue: jobs and deliveries of webhooks."""
        for job_id in self.claimed():
            self.put_back(job_id)

    def claimed(self) -> set[str]:
        """What this worker has by the database, and that is not over: jobs and deliveries of webhooks."""
        found = self._client.list_workflows(executor_id=self._executor, status="PENDING", load_input=False)
        return {one.workflow_id for one in found}


class LostClaims:
    """Puts back what the database says this worker has, and what it never began: the answer to its claim was lost.

    What it began stays its own until the database has the outcome, for which that may be waited for long.
    """

    def __init__(self, table: QueueTable) -> None:
        self._table, self._lock = table, threading.Lock()
        self._begun: set[str] = set()
        self._suspects: set[str] = set()  # of the last look: a claim may be about to begin

    def begin(self, job_id: str) -> None:
        """Note that the job begins here."""
        with self._lock:
            self._begun.add(job_id)

    def look(self) -> None:
        """Put back what was claimed and not begun, at this look and at the last one."""
        with self._lock:
            begun = set(self._begun)
        claimed = self._table.claimed()
        with self._lock:
            self._begun -= begun - claimed
            unknown = claimed - self._begun
        for job_id in unknown & self._suspects:
            log.warning("the job %s was claimed and never began; it goes back into the queue", job_id)
            self._table.put_back(job_id)
        self._suspects = unknown

    def watch(self) -> None:
        """Look for ever."""
        while True:
            time.sleep(CLAIM_SECONDS)
            with suppress(*AWAY):
                self.look()


def _when_it_answers(call: Callable[[], Value]) -> Value:
    """What `call` returns once the database answers; `DatabaseWatch` logs that it does not."""
    while True:
        try:
            return call()
        except AWAY:
            time.sleep(WATCH_SECONDS)
