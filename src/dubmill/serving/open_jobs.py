"""The open jobs as the API counts them: room for another one, places in the queue, and how old the oldest is."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dubmill.serving.database import AWAY, RetryLaterError

SNAPSHOT_SECONDS = 0.2  # age of the list by which places and waits are counted


class QueueFullError(RetryLaterError):
    """Too many jobs are waiting, in all or of one caller; `retry_after_seconds` is when a place is likely to be free."""

    def __init__(self, what: str, *, where: str = "", cure: str = "", retry_after_seconds: int = 1) -> None:
        super().__init__(what, where=where, cure=cure)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class OpenJob:
    """Who submitted a job that is queued or running, and when (seconds since 1970)."""

    owner: str
    created: float


class OpenJobs:
    """The open jobs in the database as they were about `SNAPSHOT_SECONDS` ago, and those that are submitted here.

    The lock is held for moments only: who asks for a status never waits for a database that writes.
    """

    def __init__(self, count: Callable[[], dict[str, OpenJob]], *, max_waiting: int, max_per_caller: int) -> None:
        """`count` gives the open jobs in the database by id."""
        self._count, self._max_waiting, self._max_per_caller = count, max_waiting, max_per_caller
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self._jobs: dict[str, OpenJob] = {}
        self._unstored: set[str] = set()  # ids of those that have room and are not in the database yet
        self._counted_at = -math.inf
        self.mean_seconds = 1.0  # between the ends of two dubs, as measured lately

    def all(self) -> Sequence[OpenJob]:
        """All open jobs.

        One thread counts them anew, and the others do not wait for it. While the database is away they are as they were.
        """
        if time.monotonic() - self._counted_at > SNAPSHOT_SECONDS and self._counting.acquire(blocking=False):
            try:
                with suppress(*AWAY):
                    self._count_anew()
            finally:
                self._counting.release()
        with self._lock:
            return list(self._jobs.values())

    def add(self, job_id: str, owner: str) -> int:
        """Count a job that is about to be stored; returns how many open jobs its owner has beside it.

        Raises:
            QueueFullError: there is no room for it.
        """
        self.all()
        with self._lock:
            num_all, num_own = len(self._jobs), sum(job.owner == owner for job in self._jobs.values())
            if num_all <= self._max_waiting and num_own < self._max_per_caller:
                self._jobs[job_id] = OpenJob(owner, time.time())
                self._unstored.add(job_id)
                return num_own
        seconds = max(1, math.ceil(min(num_all, self._max_waiting) * self.mean_seconds))
        what = f"{num_own} dubs of yours are waiting or running, which is the limit"
        if num_all > self._max_waiting:
            what = f"{num_all} dubs are waiting or running"
        raise QueueFullError(what, cure=f"try again in {seconds} s", retry_after_seconds=seconds)

    def set_stored(self, job_id: str) -> float:
        """From now on the job is in the database, unless it was removed meanwhile; returns the time."""
        with self._lock:
            self._unstored.discard(job_id)
            stored = time.time()
            if job_id in self._jobs:
                self._jobs[job_id] = OpenJob(self._jobs[job_id].owner, stored)
        return stored

    def remove(self, job_id: str) -> None:
        """The job is over, or was not stored."""
        with self._lock:
            self._unstored.discard(job_id)
            self._jobs.pop(job_id, None)

    def _count_anew(self) -> None:
        begun = time.time()
        counted = self._count()
        with self._lock:
            later = {
                job_id: job for job_id, job in self._jobs.items() if job.created > begun or job_id in self._unstored
            }
            self._jobs, self._counted_at = counted | later, time.monotonic()
