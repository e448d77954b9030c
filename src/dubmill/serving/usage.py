"""Seconds of video dubbed by each caller in a calendar month (UTC): a durable record, and the quota that is held against it."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from dbos import DBOSClient
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from dubmill.serving.database import DUBBED, RetryLaterError, engine_of
from dubmill.serving.job import OPEN

KEPT_SECONDS = 400 * 86400.0  # of an entry: a year and a month
RESERVED = "dubbed_seconds"  # attribute of a job: what it will be counted as


class QuotaExceededError(RetryLaterError):
    """The caller's seconds of this month are used up, or too few for this video; `retry_after_seconds` is when the next begins."""

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        super().__init__(what, where=where, cure=cure)
        self.retry_after_seconds = math.ceil(month_ends(time.time()) - time.time())


@dataclass(frozen=True)
class MonthUsage:
    """What a caller has of this month, in seconds of video; `limit_seconds` is infinite without a quota."""

    dubbed_seconds: float
    open_seconds: float
    limit_seconds: float
    begins: float
    ends: float

    @property
    def left_seconds(self) -> float:
        """What may still be dubbed."""
        return max(0.0, self.limit_seconds - self.dubbed_seconds - self.open_seconds)


class Usage:
    """The record in the queue's database: one row for each job that is done, and an attribute of each that is dubbed now.

    It is counted by job, so that a job that is done again after a kill is counted once; failed and cancelled ones never are.
    """

    def __init__(self, client: DBOSClient) -> None:
        self._client, self._engine = client, engine_of(client)

    def of(self, owner: str, limit_seconds: float) -> MonthUsage:
        """A caller's month; the seconds of open jobs are those whose length is known, from when they were decoded."""
        begins, ends = month_begins(time.time()), month_ends(time.time())
        jobs = self._client.list_workflows(user=owner, status=OPEN, load_input=False, load_output=False)
        reserved = {one.workflow_id: float((one.attributes or {}).get(RESERVED, 0.0)) for one in jobs}
        query = select(DUBBED.c.job, DUBBED.c.seconds).where(DUBBED.c.owner == owner, DUBBED.c.finished >= begins)
        with self._engine.connect() as connection:
            done = {row.job: row.seconds for row in connection.execute(query)}
        still_open = sum(seconds for job, seconds in reserved.items() if job not in done)
        return MonthUsage(sum(done.values()), still_open, limit_seconds, begins, ends)

    def reserve(self, job_id: str, owner: str, seconds: float, limit_seconds: float) -> float:
        """Reserve a job's seconds of its caller's month until it is over; a job that begins again keeps its first number, if it was not refused.

        Two jobs that are reserved in the same moment may both be refused where only one fits, but never both pass.

        Raises:
            QuotaExceededError: too few are left.
        """
        for job in self._client.list_workflows(workflow_ids=[job_id], load_input=False, load_output=False):
            seconds = float((job.attributes or {}).get(RESERVED) or seconds)  # 0 after a refusal
        self._client.update_workflow_attributes(job_id, {RESERVED: seconds}, merge=True)
        if not seconds or math.isinf(limit_seconds):
            return seconds
        usage = self.of(owner, limit_seconds)
        if usage.dubbed_seconds + usage.open_seconds > limit_seconds:
            self._client.update_workflow_attributes(job_id, {RESERVED: 0.0}, merge=True)
            others = usage.dubbed_seconds + usage.open_seconds - seconds
            raise _exceeded(f"{seconds:.1f} s are to be dubbed, and {max(0.0, limit_seconds - others):.1f} s", usage)
        return seconds

    def check(self, owner: str, limit_seconds: float) -> None:
        """Do nothing while a caller has seconds left this month.

        Raises:
            QuotaExceededError: it has none.
        """
        if limit_seconds < math.inf and (usage := self.of(owner, limit_seconds)).left_seconds <= 0.0:
            raise _exceeded("0 s", usage)

    def add(self, job_id: str, owner: str, seconds: float) -> None:
        """Enter a job that is done; nothing happens where it is entered already."""
        row = {"job": job_id, "owner": owner, "seconds": seconds, "finished": time.time()}
        with suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(insert(DUBBED).values(row))

    def delete_expired(self) -> None:
        """Delete entries older than `KEPT_SECONDS`."""
        with self._engine.begin() as connection:
            connection.execute(delete(DUBBED).where(DUBBED.c.finished < time.time() - KEPT_SECONDS))


def month_begins(seconds: float) -> float:
    """Beginning of the calendar month (UTC) of a time; both in seconds since 1970."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()


def month_ends(seconds: float) -> float:
    """Beginning of the month after that of a time; both in seconds since 1970."""
    return month_begins(month_begins(seconds) + 32 * 86400.0)


def _exceeded(what: str, usage: MonthUsage) -> QuotaExceededError:
    resets = datetime.fromtimestamp(usage.ends, UTC).isoformat()
    return QuotaExceededError(
        f"{what} of {usage.limit_seconds:g} s of this month are left", cure=f"the quota resets at {resets}"
    )
