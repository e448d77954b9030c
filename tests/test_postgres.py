"""The queue over PostgreSQL, whose binaries come with a package: one store, and two servers that share it."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from doubles import dubbing_server
from doubles.releases import CONSENT, small_clip

from dubmill import media
from dubmill.client import DubClient
from dubmill.dubbing.consent import verify_ledger
from dubmill.serving.jobs import JobConflictError, JobLimits, JobStore, UnknownJobError
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
        self.processes[name] = dubbing_server.start(self.folder, more=more)

    def url(self, name):
        return f"http://127.0.0.1:{self.processes[name][1]}"

    def submit(self, name, **fields):
        form = {"language": "es", "text": "uno", "consent": CONSENT} | fields
        return httpx.post(f"{self.url(name)}/v1/dubs", data=form, files={"video": self.clip}, timeout=60).json()["id"]

    def num_running(self):
        jobs = httpx.get(f"{self.url('two')}/v1/dubs", timeout=60).json()["dubs"]
        return sum(job["state"] == "running" for job in jobs)

    def wait(self, name, job_id, *states, seconds=120.0):
        until = time.monotonic() + seconds
        while (job := httpx.get(f"{self.url(name)}/v1/dubs/{job_id}", timeout=60).json())["state"] not in states:
            assert time.monotonic() < until, job
            time.sleep(0.05)
        return job


@pytest.mark.replicas
@pytest.mark.skipif(not os.environ.get("DUBMILL_REPLICAS"), reason="five server processes; DUBMILL_REPLICAS=1 runs it")
def test_two_replicas_share_the_jobs_and_none_is_lost_when_one_is_killed(postgresql, tmp_path):
    replicas, held = Replicas(tmp_path, postgresql), Path(tmp_path / "held")
    held.touch()
    jobs = [replicas.submit(name, text="lento", seed=index) for index, name in enumerate(("one", "two") * 3)]
    until = time.monotonic() + 60
    while replicas.num_running() <= PLACES + 1:  # more than one worker takes: both do
        assert time.monotonic() < until
        time.sleep(0.05)
    replicas.processes["one"][0].kill()
    replicas.processes["one"][0].wait()
    held.unlink()
    replicas.start("one")
    done = [replicas.wait("two", job_id, "done", "failed") for job_id in jobs]
    assert [(job["state"], job["result"]["seed"]) for job in done] == [("done", index) for index in range(6)]
    entries = (tmp_path / "consent.jsonl").read_text()
    verify_ledger(tmp_path / "consent.jsonl")
    assert [entries.count(f'"job": "{job_id}"') for job_id in jobs] == [1] * 6
    DubClient(replicas.url("one")).wait_until_ready(seconds=300)
    for process, _ in replicas.processes.values():
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=120) for process, _ in replicas.processes.values()] == [0, 0]
