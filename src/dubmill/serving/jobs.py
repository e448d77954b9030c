"""Jobs as the API sees them: submitted to a durable queue, looked up, waited for and cancelled.

The queue is DBOS over SQLite or PostgreSQL. A job is one of its workflows: the input is what the caller sent, the output is
the result, and its attributes hold stage and progress. Media lie in a folder of the job, beside the database.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbos import EnqueueOptions

from dubmill.artifacts.files import digest_of, hash_file, write_atomically
from dubmill.errors import DubmillError, UsageError
from dubmill.serving.database import DatabaseWatch, open_queue
from dubmill.serving.job import OPEN, Job, job_of
from dubmill.serving.open_jobs import OpenJob, OpenJobs
from dubmill.serving.usage import Usage

WORKFLOW, QUEUE = "dub", "dubs"
QUEUE_VERSION = "2"  # of the workflow's document and steps: a worker takes only the jobs of its own version
RESULT = "result.mp4"  # a job's dub, beside its upload
ENDING = "saving"  # last stage of a job
NUM_KEY_LOCKS = 64
METERED = ("clip", "dub", "redo")  # tasks that surely dub something


class UnknownJobError(UsageError):
    """There is no such job, or its result has expired, or it belongs to another caller."""


class JobConflictError(UsageError):
    """A job's state does not allow what is requested, or its idempotency key was used for another request."""


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """How many jobs may be queued or running, in all and of one caller, for how long results are kept, and seconds of video a month for a caller."""

    max_waiting: int
    max_per_caller: int
    result_hours: float
    quota_of: Callable[[str], float] = lambda owner: math.inf


class JobStore:
    """The jobs in `folder`, and their queue at `database`, an SQLAlchemy URL."""

    def __init__(self, folder: Path, database: str, limits: JobLimits) -> None:
        self.folder, self.limits = folder, limits
        self.client = open_queue(database)
        self.usage, self.watch = Usage(self.client), DatabaseWatch(self.client)
        self.open_jobs = OpenJobs(
            self._count_open, max_waiting=limits.max_waiting, max_per_caller=limits.max_per_caller
        )
        self._enqueuing = (  # SQLite lets a second writer sleep and try again: here they take turns
            threading.Lock() if database.startswith("sqlite") else nullcontext()
        )
        self._key_locks = [threading.Lock() for _ in range(NUM_KEY_LOCKS)]

    def submit(
        self, document: Mapping[str, Any], media: bytes | Path, *, owner: str, key: str = "", job_id: str = ""
    ) -> Job:
        """Store a job, of the `fields` in `document`; with an idempotency `key` that its owner used before, the job of that time.

        A file at the path `media` is moved. Without a key the job gets the id `job_id`, or a new one.

        Raises:
            QueueFullError: too many are waiting.
            QuotaExceededError: the owner has no seconds left this month.
            JobConflictError: the key belongs to another request.
            DiskFullError: the disk is full.
        """
        job_id = job_id_of(owner, key) if key else job_id or uuid.uuid4().hex
        digest = digest_of([dict(document), _sha256(media)])
        document = {
            **document,
            "owner": owner,
            "upload": f"upload-{uuid.uuid4().hex}",
        }  # another replica may have the same job id now
        if not key:
            return self._enqueue(job_id, document, media, owner, digest)
        with self._key_locks[int(job_id, 16) % NUM_KEY_LOCKS]:
            if (known := self.find(job_id, owner)) is None:
                self._enqueue(job_id, document, media, owner, digest)
                known = self.get(job_id, owner)  # another replica's, where it was faster
                if known.upload != document["upload"]:
                    self._delete_upload(job_id, document["upload"])
        return _same_request(known, digest)

    def _enqueue(self, job_id: str, document: Mapping[str, Any], media: bytes | Path, owner: str, digest: str) -> Job:
        upload, quota_seconds = document["upload"], self.limits.quota_of(owner)
        num_own = self.open_jobs.add(job_id, owner)
        try:
            if document["task"]["kind"] in METERED:
                self.usage.check(owner, quota_seconds)
            if quota_seconds < math.inf:  # which is not JSON
                document = {**document, "quota_seconds": quota_seconds}
            self._write_upload(self.folder / job_id / upload, media)
        except BaseException:
            self.open_jobs.remove(job_id)
            raise
        options, attributes = _options(job_id, owner, digest, num_own), {"digest": digest}
        try:
            with self._enqueuing:
                self.client.enqueue(options, dict(document))
        finally:  # after an error too: the answer may be lost, and not the job, whose upload stays
            created = self.open_jobs.set_stored(job_id)
        return Job(
            job_id, owner, "queued", document["fields"], upload, created, None, None, document["task"], attributes
        )

    def find(self, job_id: str, owner: str) -> Job | None:
        """The job, or None where this caller has none of that id."""
        found = self.client.list_workflows(workflow_ids=[job_id], name=WORKFLOW, user=owner)
        return job_of(found[0]) if found else None

    def get(self, job_id: str, owner: str) -> Job:
        """The job.

        Raises:
            UnknownJobError: this caller has none of that id.
        """
        job = self.find(job_id, owner)
        if job is None:
            raise UnknownJobError(
                "there is no such job", where=job_id[:80], cure="results are deleted when they expire"
            )
        return job

    def list(self, owner: str, *, limit: int, offset: int, newest_first: bool = True) -> list[Job]:
        """A caller's jobs, newest or oldest first."""
        found = self.client.list_workflows(
            name=WORKFLOW, user=owner, limit=limit, offset=offset, sort_desc=newest_first
        )
        return [job_of(one) for one in found]

    def cancel(self, job_id: str, owner: str) -> Job:
        """The job, cancelled; the worker stops at its next sampling step.

        Raises:
            UnknownJobError: this caller has none of that id.
            JobConflictError: it is over.
        """
        job = self.get(job_id, owner)
        if job.is_over and job.state != "cancelled":
            raise JobConflictError(f"the job is {job.state}", where=job_id, cure="only a job that is open is cancelled")
        self.client.cancel_workflow(job_id)
        self.open_jobs.remove(job_id)
        if job.upload:
            self._delete_upload(job_id, job.upload)
        return self.get(job_id, owner)

    def discard(self, job_id: str, owner: str) -> None:
        """Cancel the job where it is open, and delete it with its files."""
        if self.find(job_id, owner) is not None:
            self.client.cancel_workflow(job_id)
            self.client.delete_workflow(job_id)
            self.open_jobs.remove(job_id)
            shutil.rmtree(self.folder / job_id, ignore_errors=True)

    def num_open(self) -> int:
        """Number of jobs queued or running."""
        return len(self.open_jobs.all())

    def oldest_age_seconds(self) -> float:
        """How long the oldest open job has waited or run; 0 without one."""
        return max((time.time() - one.created for one in self.open_jobs.all()), default=0.0)

    def wait_seconds(self, job: Job) -> float:
        """Estimated time until the job is done, from the mean duration of a dub."""
        if job.is_over:
            return 0.0
        if job.state == "running" and job.progress > 0.05 and job.attributes.get("dubbing_since"):
            elapsed = time.time() - float(job.attributes["dubbing_since"])
            return elapsed * (1.0 - job.progress) / job.progress
        num_before = sum(one.created < job.created for one in self.open_jobs.all())
        return (num_before + 1) * self.open_jobs.mean_seconds

    def result_path(self, job_id: str) -> Path:
        """The file of a job's dub."""
        return self.folder / job_id / RESULT

    def delete_expired(self) -> int:
        """Delete jobs whose results have expired, and folders that no job has; returns how many folders were deleted.

        Open jobs of another `QUEUE_VERSION` are cancelled when they are that old: no worker may be left that takes them.
        """
        self.usage.delete_expired()
        horizon = time.time() - self.limits.result_hours * 3600.0
        for one in self.client.list_workflows(name=WORKFLOW, status=OPEN, load_input=False):
            if one.app_version != QUEUE_VERSION and (one.created_at or 0) / 1000 < horizon:
                self.client.cancel_workflow(one.workflow_id)
        for one in self.client.list_workflows(
            name=WORKFLOW, status=["SUCCESS", "ERROR", "CANCELLED"], load_input=False
        ):
            if (one.completed_at or one.updated_at or 0) / 1000 < horizon:
                self.client.delete_workflow(one.workflow_id)
        known = {one.workflow_id for one in self.client.list_workflows(name=WORKFLOW, load_input=False)}
        orphans = [
            path
            for path in self.folder.iterdir()
            if path.is_dir()
            and len(path.name) == 32
            and path.name not in known
            and path.stat().st_mtime < time.time() - 3600.0
        ]
        for path in orphans:
            shutil.rmtree(path, ignore_errors=True)
        return len(orphans)

    def _count_open(self) -> dict[str, OpenJob]:
        found = self.client.list_workflows(
            name=WORKFLOW, app_version=QUEUE_VERSION, status=OPEN, load_input=False, load_output=False
        )
        return {one.workflow_id: OpenJob(one.authenticated_user or "", (one.created_at or 0) / 1000) for one in found}

    def _delete_upload(self, job_id: str, upload: str) -> None:
        (self.folder / job_id / upload).unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty
            (self.folder / job_id).rmdir()

    def _write_upload(self, place: Path, media: bytes | Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        if media == b"":
            return  # it is fetched from a URL
        if isinstance(media, bytes):
            write_atomically(place, media)
        else:
            media.replace(place)


def _options(job_id: str, owner: str, digest: str, num_own: int) -> EnqueueOptions:
    """`num_own`: how many open jobs the owner has beside it; callers take turns: everyone's first job comes before anyone's second."""
    return EnqueueOptions(
        workflow_name=WORKFLOW,
        queue_name=QUEUE,
        workflow_id=job_id,
        app_version=QUEUE_VERSION,
        authenticated_user=owner,
        attributes={"digest": digest},
        priority=1 + num_own,
    )


def job_id_of(owner: str, key: str) -> str:
    """The id of the job of an owner's idempotency key."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{owner}\n{key}").hex


def problem_of(error: DubmillError) -> dict[str, Any]:
    """An error as plain data that a job's output can hold."""
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "cure": error.cure}


def _same_request(job: Job, digest: str) -> Job:
    if job.attributes.get("digest") != digest:
        raise JobConflictError(
            "this Idempotency-Key was used for another request", where=job.id, cure="give each request a key of its own"
        )
    return job


def _sha256(media: bytes | Path) -> str:
    return hashlib.sha256(media).hexdigest() if isinstance(media, bytes) else hash_file(media)
