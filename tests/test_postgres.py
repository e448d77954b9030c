"""The queue over PostgreSQL, whose binaries come with a package: one store, and two servers that share it."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from dbos import DBOSClient
from doubles import dubbing_server
from doubles.releases import CONSENT, small_clip
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dubmill import media
from dubmill.client import DubClient
from dubmill.dubbing.consent import verify_ledger
from dubmill.errors import DubmillError, ServiceUnavailableError
from dubmill.serving import worker
from dubmill.serving.database import AWAY, DUBBED, DatabaseWatch, open_queue
from dubmill.serving.jobs import JobConflictError, JobLimits, JobStore, UnknownJobError
from dubmill.serving.model import DubModel
from dubmill.serving.problems import database_away_response, error_response
from dubmill.serving.queue_table import QueueTable
from dubmill.serving.worker import PLACES


def test_jobs_are_stored_found_and_cancelled_in_postgresql(postgresql, tmp_path):
    store = JobStore(tmp_path, postgresql, JobLimits(max_waiting=5, max_per_caller=5, result_hours=1.0))
    document = {"fields": {"language": "es"}, "task": {"kind": "dub"}}
    job = store.submit(document, b"video", owner="ana", key="k-1")
    assert store.submit(document, b"video", owner="ana", key="k-1").id == job.id
    with pytest.raises(JobConflictError):
        store.submit(document, b"another", owner="ana", key="k-1")
    with pytest.raises(UnknownJobError):
        store.get(job.id, "eve")
    assert [one.id for one in store.list("ana", limit=5, offset=0)] == [job.id]
    assert store.cancel(job.id, "ana").state == "cancelled"
    store.discard(job.id, "ana")
    assert store.num_open() == 0


def test_submissions_do_not_wait_for_each_other_in_postgresql(postgresql, tmp_path):
    store = JobStore(tmp_path, postgresql, JobLimits(max_waiting=5, max_per_caller=5, result_hours=1.0))
    document, together = {"fields": {"language": "es"}, "task": {"kind": "dub"}}, threading.Barrier(2, timeout=30)
    store.client.enqueue = lambda *_: together.wait()
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(store.submit, document, b"video", owner="ana") for _ in range(2)]
        assert {job.result().state for job in jobs} == {"queued"}


def test_a_database_that_is_away_is_logged_once_answered_with_503_and_used_again_when_it_is_back(
    postgresql_server, tmp_path, caplog
):
    """Each request waited until it was back, with up to a minute between two tries, and DBOS wrote 20 lines a second."""
    store = JobStore(
        tmp_path, postgresql_server.get_uri(), JobLimits(max_waiting=5, max_per_caller=5, result_hours=1.0)
    )
    document = {"fields": {"language": "es"}, "task": {"kind": "dub"}}
    job, table, counted = store.submit(document, b"video", owner="leo"), QueueTable(store.client, "one"), []
    api = FastAPI()
    model = DubModel.__new__(DubModel)
    model.ready, model.jobs = True, store
    api.add_exception_handler(DubmillError, error_response)
    for kind in AWAY:
        api.add_exception_handler(kind, database_away_response)
    api.get("/ready")(model.healthy)
    api.get("/job")(lambda: store.get(job.id, "leo").state)
    client = TestClient(api)
    assert client.get("/ready").json() is True
    postgresql_server.stop()
    for _ in range(3):
        store.watch.look()
    for path in ("/ready", "/job"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert answer.headers["retry-after"] == "5"  # clients come again
    assert store.num_open() == 1  # as it was: metrics are still served
    table.set_attributes(job.id, {"stage": "dubbing"})
    assert not table.is_cancelled(job.id)  # a dub goes on
    counting = threading.Thread(target=lambda: counted.append(table.count(job.id, "leo", 3.0)))
    counting.start()
    postgresql_server.ensure_postgres_running()
    store.watch.look()
    counting.join(timeout=30)
    assert (counted, store.usage.of("leo", 9.0).dubbed_seconds) == ([None], 3.0)
    assert (client.get("/ready").json(), client.get("/job").json()) == (True, "queued")
    store.discard(job.id, "leo")
    lines = [record.getMessage() for record in caplog.records if record.name == "dubmill.serving"]
    assert len(lines) == 2, lines
    assert "does not answer" in lines[0]
    assert "answers again" in lines[1]


def test_a_user_who_may_not_create_the_table_of_usage_gets_an_error_that_says_so(postgresql):
    """It was a stack trace."""
    open_queue(postgresql).destroy()
    engine, url = create_engine(postgresql, isolation_level="AUTOCOMMIT"), make_url(postgresql)
    with engine.connect() as connection:
        connection.execute(text("DROP TABLE dbos.dubmill_dubbed_seconds"))
        connection.execute(text("CREATE ROLE reader LOGIN"))
        connection.execute(text("GRANT USAGE ON SCHEMA dbos TO reader"))
        connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA dbos TO reader"))
    with pytest.raises(ServiceUnavailableError, match=r"InsufficientPrivilege.*a user who may create tables"):
        open_queue(url.set(username="reader").render_as_string(hide_password=False))
    with engine.connect() as connection:
        connection.execute(text("DROP OWNED BY reader"))
        connection.execute(text("DROP ROLE reader"))
    engine.dispose()
    open_queue(postgresql).destroy()


def test_a_database_that_goes_away_before_the_table_of_usage_is_created_cannot_be_opened(tmp_path, monkeypatch):
    destroyed = []
    monkeypatch.setattr(DBOSClient, "destroy", lambda client: destroyed.append(client))

    def away(*_):
        raise OperationalError("create table", {}, OSError("the database is away"))

    monkeypatch.setattr(DUBBED.metadata, "create_all", away)
    with pytest.raises(ServiceUnavailableError, match=r"cannot be opened \(OSError\)"):
        open_queue(f"sqlite:///{tmp_path}/jobs.sqlite")
    assert len(destroyed) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OperationalError("select 1", {}, OSError("\nit is away\nsecond line")), "(it is away)"),
        (OperationalError("select 1", {}, OSError()), "(OperationalError)"),
        (PoolTimeoutError("no connection is free"), "(no connection is free)"),
    ],
)
def test_the_watch_goes_on_after_an_error_without_words(caplog, error, words):
    def fail():
        raise error

    watch = DatabaseWatch(SimpleNamespace(check_connection=fail))
    watch.look()
    assert watch.is_away
    assert words in caplog.text


def test_lines_of_dbos_on_its_connection_are_written_once_a_minute_and_the_others_always():
    watch = DatabaseWatch(None)
    lines = [
        "Database connection failed: x",
        "(psycopg.OperationalError) y",
        "Contention detected",
        "Contention detected",
    ]
    records = [logging.LogRecord("dbos", logging.WARNING, "", 0, line, None, None) for line in lines]
    assert [watch.filter(record) for record in records] == [True, False, True, True]
    watch._last_line -= 60.0
    assert watch.filter(records[1])
    watch._last_line, watch.is_away = watch._last_line - 60.0, True
    assert [watch.filter(record) for record in records] == [False, False, True, True]


def test_a_worker_waits_for_a_database_that_is_away_at_its_start(monkeypatch, caplog):
    """It ended as after a wrong model, and was never started again."""
    answers, stopped = iter([False, False, True]), threading.Event()

    def open_queue(database):
        if not next(answers):
            raise ServiceUnavailableError("the database of jobs cannot be opened")
        return database

    monkeypatch.setattr(worker, "open_queue", open_queue)
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.01)
    assert worker._open_queue("url", stopped) == "url"
    assert caplog.text.count("cannot be opened") == 1
    stopped.set()
    assert worker._open_queue("url", stopped) is None


class Replicas:
    """Two servers, each with a worker of its own, on one database and one folder of jobs."""

    def __init__(self, folder, database):
        self.folder, self.database, self.processes = folder, database, {}
        self.clip = media.mp4_bytes(small_clip())
        for name in ("one", "two"):
            self.start(name)
        for name in ("one", "two"):
            DubClient(self.url(name)).wait_until_ready(seconds=300)

    def start(self, name):
        more = ["--database", self.database, "--executor", name, "--max_waiting", "50", "--batch_size", "1"]
        more += ["--grace_seconds", "2"]
        self.processes[name] = dubbing_server.start(self.folder, more=more)

    def url(self, name):
        return f"http://127.0.0.1:{self.processes[name][1]}"

    def submit(self, name, **fields):
        form = {"language": "es", "text": "uno", "consent": CONSENT} | fields
        return httpx.post(f"{self.url(name)}/v1/dubs", data=form, files={"video": self.clip}, timeout=60).json()["id"]

    def num_running(self):
        jobs = httpx.get(f"{self.url('two')}/v1/dubs", timeout=60).json()["dubs"]
        return sum(job["state"] == "running" for job in jobs)

    def wait_for_readiness(self, name, status, seconds=60.0):
        until = time.monotonic() + seconds
        while httpx.get(f"{self.url(name)}/v2/health/ready", timeout=10).status_code != status:
            assert time.monotonic() < until
            time.sleep(0.1)

    def wait(self, name, job_id, *states, seconds=120.0):
        until = time.monotonic() + seconds
        while (job := httpx.get(f"{self.url(name)}/v1/dubs/{job_id}", timeout=60).json())["state"] not in states:
            assert time.monotonic() < until, job
            time.sleep(0.05)
        return job


@pytest.mark.replicas
@pytest.mark.skipif(not os.environ.get("DUBMILL_REPLICAS"), reason="five server processes; DUBMILL_REPLICAS=1 runs it")
@pytest.mark.parametrize("ending", ["killed", "stopped", "database restarted"])
def test_two_replicas_share_the_jobs_and_none_is_lost_when_one_ends(postgresql_server, postgresql, tmp_path, ending):
    replicas, held = Replicas(tmp_path, postgresql), Path(tmp_path / "held")
    held.touch()
    jobs = [replicas.submit(name, text="lento", seed=index) for index, name in enumerate(("one", "two") * 3)]
    until = time.monotonic() + 60
    while replicas.num_running() <= PLACES + 1:  # more than one worker takes: both do
        assert time.monotonic() < until
        time.sleep(0.05)
    if ending == "database restarted":
        postgresql_server.stop()
        replicas.wait_for_readiness("two", 503)
        held.unlink()  # the dubs go on, and their outcomes wait
        postgresql_server.ensure_postgres_running()
        replicas.wait_for_readiness("two", 200)
    elif ending == "killed":
        replicas.processes["one"][0].kill()
        replicas.processes["one"][0].wait()
        held.unlink()
        replicas.start("one")
    else:
        replicas.processes["one"][0].send_signal(signal.SIGTERM)
        assert replicas.processes["one"][0].wait(timeout=60) == 0
        held.unlink()  # the other one takes what went back, and this one is not started again
    done = [replicas.wait("two", job_id, "done", "failed") for job_id in jobs]
    assert [(job["state"], job["result"]["seed"]) for job in done] == [("done", index) for index in range(6)]
    entries = (tmp_path / "consent.jsonl").read_text()
    verify_ledger(tmp_path / "consent.jsonl")
    assert [entries.count(f'"job": "{job_id}"') for job_id in jobs] == [1] * 6
    running = [name for name in ("one", "two") if name == "two" or ending != "stopped"]
    for name in running:
        DubClient(replicas.url(name)).wait_until_ready(seconds=300)
        replicas.processes[name][0].send_signal(signal.SIGTERM)
    assert [replicas.processes[name][0].wait(timeout=120) for name in running] == [0] * len(running)
