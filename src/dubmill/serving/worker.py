"""The worker process: it owns the model, takes jobs from the queue, and ends with its API."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID
from sqlalchemy.exc import SQLAlchemyError

from dubmill.artifacts.store import Release
from dubmill.dubbing import open as opening
from dubmill.dubbing.consent import ConsentLedger
from dubmill.dubbing.credentials import ContentCredentials
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.service import DubbingService, selftest_clip
from dubmill.dubbing.watermark import watermark_of
from dubmill.errors import DubmillError, ServiceUnavailableError
from dubmill.media import Limits
from dubmill.serving.adapters import LoadedReleases, ReleaseFolders
from dubmill.serving.database import WATCH_SECONDS, DatabaseWatch, open_queue
from dubmill.serving.job import FILE_TASKS
from dubmill.serving.jobs import QUEUE, QUEUE_VERSION, WORKFLOW
from dubmill.serving.outbound import Outbound
from dubmill.serving.projects import Projects
from dubmill.serving.queue_table import LostClaims, QueueTable
from dubmill.serving.runner import Report, Runner
from dubmill.serving.server import PROJECTS
from dubmill.serving.webhooks import BACKOFF, INTERVAL_SECONDS, Webhooks, message_of
from dubmill.serving.webhooks import MAX_ATTEMPTS as ATTEMPTS
from dubmill.serving.worker_process import WRONG_MODEL

log = logging.getLogger("dubmill.serving")

WEBHOOKS = "webhooks"  # the queue of their deliveries
PLACES = 2  # for each clip of a batch: while some are dubbed, the films of others are joined
POLL_SECONDS = 0.05  # of the queue
# starts of one job that no polite stop ended, after which it has failed: it kills the worker each time
MAX_ATTEMPTS = 20


def run_worker(options: argparse.Namespace, release: Release, source: ModelSource) -> int:
    """Serve the queue until told to stop; returns `WRONG_MODEL` where the model cannot be loaded or fails its self-test."""
    report = _reporter(options.status_fd)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both processes; the API passes on its own
    try:
        credentials, watermark = None, watermark_of(options.watermark)
        if options.c2pa_key:
            credentials = ContentCredentials.open(options.c2pa_key, options.c2pa_certificates, options.jobs)
        service, seconds = load_service(options, release, source)
    except DubmillError as error:
        log.error("%s is not ready: %s", options.name, error.sentence)
        report({"event": "unready", "reason": error.sentence})
        return WRONG_MODEL
    folders = ReleaseFolders(options.release, options.adapters)
    releases = LoadedReleases(
        service,
        folders,
        backbone=options.backbone,
        model=threading.Lock(),
        batch_size=options.batch_size,
        report=report,
    )
    releases.refresh()
    report({"event": "ready", "seconds": seconds})
    threading.Thread(target=releases.watch, name="adapters", daemon=True).start()
    fetching = Outbound(options.fetch_hosts, allows_private=options.allow_private_hosts)
    with _only_worker(options.jobs, options.executor):
        if (client := _open_queue(options.database, stopped)) is None:
            return 0
        threading.Thread(target=DatabaseWatch(client).watch, name="database", daemon=True).start()
        table = QueueTable(client, options.executor)
        runner = Runner(
            releases,
            service.ledger,
            options.jobs,
            Projects(options.jobs / PROJECTS, options.project_hours, options.max_projects_per_caller),
            table,
            report,
            places=threading.Semaphore(PLACES * options.batch_size),
            film_limits=Limits(max_seconds=options.max_film_seconds),
            fetch=lambda url, out: fetching.fetch(url, out, max_bytes=options.max_body_bytes),
            credentials=credentials,
            watermark=watermark,
        )
        claims = LostClaims(table)
        queue = _start_queue(runner, options, claims)
        threading.Thread(target=claims.watch, name="claims", daemon=True).start()
        stopped.wait()
        for event in queue.background_thread_stop_events:  # as `DBOS.destroy` does first: nothing more is taken
            event.set()
        has_finished = runner.drain(options.grace_seconds)
        log.info("the worker stops; %s", "no job is at the model" if has_finished else "its jobs go back to the queue")
        time.sleep(0.5)  # the last workflow writes its outcome
        return _end(table)


def _open_queue(database: str, stopped: threading.Event) -> DBOSClient | None:
    """A client of the queue once its database answers, for which the loaded model waits; None if this worker is stopped before."""
    has_failed = False
    while not stopped.is_set():
        try:
            return open_queue(database)
        except ServiceUnavailableError as error:  # the API, which opened it, would not have started without
            if not has_failed:
                log.error("the worker waits: %s", error.sentence)
            has_failed = True
            stopped.wait(WATCH_SECONDS)
    return None


def _end(table: QueueTable) -> NoReturn:
    """Put back what is left, and end this process also after an error: threads of jobs that went back never end."""
    try:
        table.put_all_back()
    except SQLAlchemyError as error:
        log.error("jobs could not be put back into the queue (%s); a worker of this name continues them", error)
    finally:
        os._exit(0)


def load_service(options: argparse.Namespace, release: Release, source: ModelSource) -> tuple[DubbingService, float]:
    """The dubbing service with its model loaded and tested, and the seconds that a dub is estimated to take.

    Raises:
        DubmillError: the model cannot be loaded, the ledger cannot be written, or the test failed.
    """
    ledger = ConsentLedger(options.ledger)
    ledger.check_writable()
    selftest_clip(release)  # before the weights: a release without one fails at once
    masker = opening.open_face_masker(options.backbone)
    dubber = opening.open_dubber(options.backbone, source)
    service = DubbingService(source, dubber, masker, ledger, Limits(max_seconds=options.max_film_seconds))
    seconds = service.selftest(release)
    log.info("%s %s is ready; a dub takes about %.1f s", options.name, source.version, seconds)
    return service, seconds


def _start_queue(runner: Runner, options: argparse.Namespace, claims: LostClaims) -> DBOS:
    """Register the workflow of a dub and begin to take jobs; those that a killed worker had are put back first."""
    queue = DBOS(config=_config(options))
    webhooks = _webhooks(options)

    @DBOS.step(name="dub")
    def dub(job_id: str, document: dict[str, Any]) -> dict[str, Any]:
        return runner.dub(job_id, document)

    @DBOS.step(name="record")
    def record(job_id: str, document: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        return runner.record(job_id, document, result)

    @DBOS.step(
        name="send",
        retries_allowed=True,
        interval_seconds=INTERVAL_SECONDS,
        max_attempts=ATTEMPTS,
        backoff_rate=BACKOFF,
    )
    def send(url: str, job_id: str, message: dict[str, Any]) -> None:
        assert webhooks is not None, "nothing is enqueued without"
        webhooks.send(url, job_id, message)

    @DBOS.workflow(name="notify")
    def notify(url: str, job_id: str, message: dict[str, Any]) -> None:
        claims.begin(f"{job_id}-webhook")
        send(url, job_id, message)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MAX_ATTEMPTS)
    def workflow(document: dict[str, Any]) -> dict[str, Any]:
        job_id = DBOS.workflow_id
        assert job_id is not None, "DBOS calls this as a workflow"
        claims.begin(job_id)
        with runner.under_way(job_id):  # DBOS may end a cancelled job between any two steps
            return all_steps(job_id, document)

    def all_steps(job_id: str, document: dict[str, Any]) -> dict[str, Any]:
        outcome = dub(job_id, document)
        if "problem" not in outcome and document["task"]["kind"] in FILE_TASKS:
            outcome = record(job_id, document, outcome)
        fields = document["fields"]
        runner.tidy(job_id, document, outcome)
        if fields["webhook_url"] and webhooks is not None:
            with SetWorkflowID(f"{job_id}-webhook"):  # of a name of its own, so that it is sent by one workflow
                DBOS.enqueue_workflow(
                    WEBHOOKS, notify, fields["webhook_url"], job_id, message_of(job_id, fields, outcome)
                )
        return outcome

    DBOS.launch()
    DBOS.register_queue(WEBHOOKS, worker_concurrency=8, polling_interval_sec=1.0)
    DBOS.register_queue(QUEUE, worker_concurrency=PLACES * options.batch_size + 1, polling_interval_sec=POLL_SECONDS)
    return queue


def _config(options: argparse.Namespace) -> DBOSConfig:
    return DBOSConfig(
        name="dubmill",
        system_database_url=options.database,
        application_version=QUEUE_VERSION,
        executor_id=options.executor,
        serializer=DBOSPortableJSONSerializer(),
        log_level="WARNING",
    )


def _webhooks(options: argparse.Namespace) -> Webhooks | None:
    if options.webhook_secret is None:
        return None
    secret = options.webhook_secret.read_text().strip()
    return Webhooks(Outbound(options.webhook_hosts, allows_private=options.allow_private_hosts), secret)


def _reporter(descriptor: int) -> Report:
    """A function that writes events to the API's pipe, one JSON object a line."""
    pipe: IO[bytes] = os.fdopen(descriptor, "wb", buffering=0)

    def report(event: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the API was killed, and this process is about to end
            pipe.write(json.dumps(event).encode() + b"\n")  # one write, below PIPE_BUF: threads do not interleave

    return report


def _end_with_parent() -> None:
    """End this process when the API's end of the pipe on standard input closes: it was killed."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _only_worker(folder: Path, executor: str) -> IO[bytes]:
    """A lock that lasts as long as this process: two workers of one name would both continue its jobs.

    In a rolling update the new one waits here, ready, until the old one has ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stream = (folder / f".{executor}.lock").open("ab")
    fcntl.flock(stream, fcntl.LOCK_EX)
    return stream
