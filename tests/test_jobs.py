"""Jobs over the real server: submitted, watched, cancelled, and continued after the server was killed."""

import asyncio
import http.server
import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from doubles import dubbing_server
from doubles.dubbers import tone_hz
from doubles.releases import CONSENT, small_clip, tiny_backbone, tiny_release
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from dubmill import media
from dubmill.artifacts.store import Backbone
from dubmill.cli import main as cli
from dubmill.client import AsyncDubClient, DubClient, is_webhook_genuine
from dubmill.dubbing.consent import verify_ledger
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.project.project import locked
from dubmill.errors import DubmillError, MissingConsentError, UnsupportedTextError
from dubmill.serving import model as models
from dubmill.serving import worker
from dubmill.serving.fields import DubFields
from dubmill.serving.jobs import JobConflictError, JobLimits, JobStore, UnknownJobError
from dubmill.serving.model import DubModel
from dubmill.serving.openapi import ResultView
from dubmill.serving.queue_table import LostClaims, QueueTable
from dubmill.serving.routes import facts_routes
from dubmill.serving.runner import Runner
from dubmill.serving.videos import video_routes
from dubmill.serving.wire import Submission

SECRET = "secret of the tests"


class Served:
    """A server that tests may kill and start again; `text` 'lento' waits while `held` exists."""

    def __init__(self, folder):
        self.folder, self.held = folder, folder / "held"
        (folder / "secret").write_text(SECRET)
        self.clip = media.mp4_bytes(small_clip())
        self.start()

    def start(self, *, grace_seconds=30):
        more = ["--max_waiting", "60", "--max_per_caller", "55", "--grace_seconds", str(grace_seconds)]
        more += ["--max_dubbed_seconds", "10000"]
        more += ["--webhook_secret", str(self.folder / "secret"), "--webhook_hosts", "127.0.0.1"]
        more += ["--adapters", str(self.folder / "adapters")]
        more += ["--fetch_hosts", "127.0.0.1", "--allow_private_hosts", "--c2pa_key", "development"]
        self.process, port = dubbing_server.start(self.folder, more=more)
        self.url = f"http://127.0.0.1:{port}"
        DubClient(self.url).wait_until_ready(seconds=180)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def submit(self, *, key="", video=None, **fields):
        form = {"language": "es", "text": "uno", "consent": CONSENT} | fields
        headers = {"idempotency-key": key} if key else {}
        files = {"video": ("in.mp4", video or self.clip, "video/mp4")}
        return httpx.post(f"{self.url}/v1/dubs", data=form, files=files, headers=headers, timeout=30)

    def get(self, path, **options):
        return httpx.get(f"{self.url}{path}", timeout=30, **options)

    def job(self, job_id):
        return self.get(f"/v1/dubs/{job_id}").json()

    def wait(self, job_id, *states, seconds=60.0):
        """The job once it is in one of `states`."""
        until = time.monotonic() + seconds
        while (job := self.job(job_id))["state"] not in states and job.get("stage") not in states:
            assert time.monotonic() < until, job
            time.sleep(0.02)
        return job

    def wait_for(self, path, is_so, seconds=60.0):
        """What is at `path` once `is_so` of it."""
        until = time.monotonic() + seconds
        while not is_so(body := self.get(path).json()):
            assert time.monotonic() < until, body
            time.sleep(0.05)
        return body

    def ledger(self):
        path = self.folder / "consent.jsonl"
        verify_ledger(path)
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server = Served(tmp_path_factory.mktemp("jobs"))
    yield server
    server.held.unlink(missing_ok=True)
    assert server.stop() == 0


def test_a_job_is_accepted_watched_and_fetched(served):
    answer = served.submit(seed=3, reference="scene 4")
    job = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/dubs/{job['id']}")
    assert job["seconds_left"] > 0
    with httpx.stream("GET", f"{served.url}{job['links']['events']}", timeout=30) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in events.iter_lines() if line]
    assert lines[-2] == "event: end"
    done = json.loads(lines[-1].removeprefix("data: "))
    assert (done["state"], done["progress"], done["reference"]) == ("done", 1.0, "scene 4")
    video = served.get(done["links"]["result"])
    assert tone_hz(video.content) == pytest.approx(600, abs=2)
    assert "expires" in video.headers
    assert done["result"]["credentials"] == "development"
    assert b"org.dubmill.dub" in video.content  # the C2PA manifest; tests/test_credentials.py reads it
    part = served.get(done["links"]["result"], headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert served.ledger()[-1]["hash"] == done["result"]["consent_entry"]
    assert served.ledger()[-1]["dub_sha256"] == done["result"]["sha256"]
    assert [path.name for path in (served.folder / "jobs" / job["id"]).iterdir()] == ["result.mp4"]  # no upload


def test_a_longer_video_becomes_a_film_with_the_same_routes(served):
    film = media.mp4_bytes(small_clip(num_frames=40))
    job = served.submit(video=film, text="uno dos").json()
    done = served.wait(job["id"], "done", "failed")
    assert done["state"] == "done", done
    assert media.probe(served.get(done["links"]["result"]).content).num_frames == 40
    assert not [note for note in done["result"]["notes"] if "--" in note], "the endpoint has no options"
    assert [entry["job"] for entry in served.ledger()].count(job["id"]) == 1


def test_the_credentials_of_a_dub_are_read_from_its_file(served):
    done = served.wait(served.submit(seed=7).json()["id"], "done")
    told = served.get(done["links"]["credentials"]).json()
    assert (told["has_manifest"], told["is_unchanged"], told["is_development"]) == (True, True, True)
    assert (told["signer"], told["claims"]["source_sha256"]) == ("development signer", done["result"]["source_sha256"])
    path = served.folder / "jobs" / done["id"] / "result.mp4"
    data = bytearray(path.read_bytes())
    data[data.rindex(b"mdat") + 40] ^= 1
    path.write_bytes(data)
    told = served.get(done["links"]["credentials"]).json()
    assert (told["is_unchanged"], told["failures"]) == (False, ["assertion.bmffHash.mismatch"])
    failed = served.wait(served.submit(text="indecible").json()["id"], "failed")
    assert served.get(f"/v1/dubs/{failed['id']}/credentials").json()["code"] == "unsupported_text"


def test_a_claim_whose_answer_was_lost_goes_back_and_what_began_does_not(tmp_path, caplog):
    """It waited until its worker was started again; a job whose outcome waits for the database must not be dubbed twice."""
    store = JobStore(
        tmp_path, f"sqlite:///{tmp_path}/jobs.sqlite", JobLimits(max_waiting=9, max_per_caller=9, result_hours=1.0)
    )
    document = {"fields": {"language": "es"}, "task": {"kind": "dub"}}
    lost, begun, over = (store.submit(document, b"video", owner="ana").id for _ in range(3))
    rows = store.client._sys_db.tables.workflow_status

    def set_rows(status, *ids):
        with store.client._sys_db.engine.begin() as connection:
            values = {"status": status, "executor_id": "worker", "recovery_attempts": 1}
            connection.execute(update(rows).where(rows.c.workflow_uuid.in_(ids)).values(values))

    claims = LostClaims(QueueTable(store.client, "worker"))
    set_rows("PENDING", lost, begun, over)
    claims.begin(begun)
    claims.begin(over)
    claims.look()
    assert {store.get(one, "ana").state for one in (lost, begun, over)} == {"running"}  # it may be about to begin
    set_rows("SUCCESS", over)
    claims.look()
    assert [store.get(one, "ana").state for one in (lost, begun)] == ["queued", "running"]
    assert f"{lost} was claimed and never began" in caplog.text
    claims.look()
    set_rows("PENDING", over)  # another claim of the same job
    claims.look()
    claims.look()
    assert store.get(over, "ana").state == "queued"
    assert store.get(begun, "ana").state == "running"


def test_a_caller_that_leaves_while_its_job_is_stored_cancels_it(tmp_path):
    """The job stayed in the queue: the thread that stores it does not end with its caller."""
    store = JobStore(
        tmp_path, f"sqlite:///{tmp_path}/jobs.sqlite", JobLimits(max_waiting=9, max_per_caller=9, result_hours=1.0)
    )
    storing, goes_on, submit = threading.Event(), threading.Event(), store.submit

    def slow_submit(*arguments, **options):
        storing.set()
        assert goes_on.wait(30)
        return submit(*arguments, **options)

    store.submit = slow_submit
    model = DubModel.__new__(DubModel)
    model.jobs, model.ready, model.unready_reason, model._discards = store, True, "", set()
    fields = SimpleNamespace(
        check=print, script="", video_url="", webhook_url="", model_dump=lambda mode: {"language": "es"}
    )
    model.sources = {}

    async def leave():
        call = asyncio.create_task(model.dub(Submission(fields, b"video")))
        await asyncio.to_thread(storing.wait, 30)
        call.cancel()
        await asyncio.sleep(0.05)
        goes_on.set()
        with suppress(asyncio.CancelledError):
            await call
        await asyncio.gather(*model._discards)

    asyncio.run(leave())
    assert store.list("anonymous", limit=5, offset=0) == []
    assert store.num_open() == 0
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_job_that_is_cancelled_while_it_is_stored_is_answered_and_not_counted(tmp_path):
    """Its submission was an error 500: the list of open jobs did not have it any more."""
    limits = JobLimits(max_waiting=9, max_per_caller=9, result_hours=1.0)
    store = JobStore(tmp_path, f"sqlite:///{tmp_path}/jobs.sqlite", limits)
    enqueue = store.client.enqueue

    def enqueue_and_cancel(options, document):
        enqueue(options, document)
        store.cancel(options["workflow_id"], "ana")

    store.client.enqueue = enqueue_and_cancel
    job = store.submit({"fields": {"language": "es"}, "task": {"kind": "dub"}}, b"video", owner="ana")
    assert job.created == pytest.approx(time.time(), abs=60)
    assert (store.get(job.id, "ana").state, store.num_open()) == ("cancelled", 0)


def test_an_idempotency_key_makes_one_job_and_refuses_another_request(served):
    first, same = served.submit(key="k-1", seed=1), served.submit(key="k-1", seed=1)
    assert first.json()["id"] == same.json()["id"]
    other = served.submit(key="k-1", seed=2)
    assert (other.status_code, other.json()["code"]) == (409, "job_conflict")


def test_two_replicas_given_one_key_and_two_videos_at_once_keep_the_first_and_refuse_the_other(tmp_path, monkeypatch):
    """Both wrote the job's one file, so that the job of the first dubbed the video of the second."""
    limits = JobLimits(max_waiting=5, max_per_caller=5, result_hours=1.0)
    one, two = (JobStore(tmp_path / "jobs", f"sqlite:///{tmp_path}/jobs.sqlite", limits) for _ in range(2))
    document = {"fields": {"language": "es"}, "task": {"kind": "dub"}}
    first = one.submit(document, b"first", owner="ana", key="k-1")
    find = two.find

    def find_before_the_first_is_stored(*_):
        monkeypatch.setattr(two, "find", find)

    monkeypatch.setattr(two, "find", find_before_the_first_is_stored)
    with pytest.raises(JobConflictError):
        two.submit(document, b"second", owner="ana", key="k-1")
    assert [path.read_bytes() for path in (tmp_path / "jobs" / first.id).iterdir()] == [b"first"]
    assert one.get(first.id, "ana").upload == first.upload


def test_a_job_of_an_older_version_is_read_cancelled_and_does_not_stay_open(tmp_path):
    """Its document has neither task nor name of an upload: the list of all jobs failed while it was there."""
    limits = JobLimits(max_waiting=1, max_per_caller=1, result_hours=0.0)
    store = JobStore(tmp_path / "jobs", f"sqlite:///{tmp_path}/jobs.sqlite", limits)
    (tmp_path / "jobs").mkdir()
    for job_id, is_clip in (("a" * 32, True), ("b" * 32, False), ("c" * 32, False)):
        options = {"workflow_name": "dub", "queue_name": "dubs", "workflow_id": job_id, "app_version": "1"}
        document = {"fields": {"language": "es", "text": "uno"}, "is_clip": is_clip}
        store.client.enqueue({**options, "authenticated_user": "ana"}, document)
    assert {job.id[0]: job.task["kind"] for job in store.list("ana", limit=5, offset=0)} == {
        "a": "clip",
        "b": "dub",
        "c": "dub",
    }
    assert store.num_open() == 0  # no worker of this version takes them: they take no place in its queue
    assert store.cancel("a" * 32, "ana").state == "cancelled"
    store.delete_expired()
    assert store.find("a" * 32, "ana") is None
    store.delete_expired()
    assert store.list("ana", limit=5, offset=0) == []


def test_a_result_of_an_older_version_fits_the_document():
    older = {"seconds": 1.0, "seed": 1, "source_sha256": "", "model_version": "1", "release": "", "language": "es"}
    assert ResultView(**older, notes=[], machine_generated=True, expires="").size == ""


def test_a_job_that_is_cancelled_between_two_steps_does_not_hold_up_a_stop(tmp_path):
    """A caller left while its dub was being written: the server then stopped only after all its grace."""

    class Table:
        def set_attributes(self, job_id, attributes):
            pass

        def is_cancelled(self, job_id):
            return False

    runner = Runner(
        None,
        None,
        tmp_path,
        None,
        Table(),
        print,
        places=threading.Semaphore(),
        film_limits=None,
        fetch=print,
        credentials=None,
    )
    with suppress(InterruptedError), runner.under_way("j"):
        with runner._in_place("j", time.monotonic()):
            assert not runner.drain(0.0)
            runner._draining.clear()
        assert not runner.drain(0.0)  # its result is not recorded yet
        raise InterruptedError
    assert runner.drain(0.0)


def test_a_worker_ends_though_its_database_fails(monkeypatch, caplog):
    """It hung until it was killed, since the threads of jobs that went back never end."""

    def put_all_back():
        raise OperationalError("select", {}, OSError("it fails"))

    codes = []
    monkeypatch.setattr(worker.os, "_exit", codes.append)
    worker._end(SimpleNamespace(put_all_back=put_all_back))
    assert codes == [0]
    assert "could not be put back" in caplog.text


def test_a_cancelled_job_frees_the_model_and_has_no_result(served):
    served.held.touch()
    try:
        job = served.submit(text="lento").json()
        served.wait(job["id"], "dubbing")
        assert httpx.delete(f"{served.url}/v1/dubs/{job['id']}", timeout=30).json()["state"] == "cancelled"
        after = served.submit(text="uno").json()
        served.wait(after["id"], "done")  # while the first would still be held
    finally:
        served.held.unlink()
    assert served.get(f"/v1/dubs/{job['id']}/result").status_code == 409
    assert job["id"] not in [entry["job"] for entry in served.ledger()]
    again = httpx.delete(f"{served.url}/v1/dubs/{after['id']}", timeout=30)
    assert (again.status_code, again.json()["code"]) == (409, "job_conflict")


def test_a_caller_that_leaves_cancels_its_dub(served):
    """It kept the slot until its dub was over."""
    served.held.touch()
    try:
        form = {"data": {"language": "es", "text": "lento", "consent": CONSENT}, "files": {"video": served.clip}}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/dub", timeout=1.0, **form)
        served.wait(served.submit().json()["id"], "done")
    finally:
        served.held.unlink()


def test_a_video_that_cannot_be_dubbed_fails_as_a_job_and_says_why(served):
    before = served.get("/v1/usage").json()
    job = served.wait(served.submit(video=b"no video at all").json()["id"], "failed")
    assert served.get("/v1/usage").json() == before
    assert (job["problem"]["status"], job["problem"]["code"]) == (422, "unreadable_media")
    assert "not a media file" in job["problem"]["detail"]
    refused = served.get(f"/v1/dubs/{job['id']}/result")
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize(
    ("request_of", "status", "code"),
    [
        ({"json": {"language": "es", "text": "uno", "consent": CONSENT}}, 422, "unreadable_media"),
        ({"json": {"language": "es", "text": "uno"}, "files": None}, 400, "missing_consent"),
        ({"json": [1]}, 400, "usage"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "usage"),
        ({"content": b"video", "headers": {"content-type": "video/mp4"}}, 415, "unsupported_body"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_request"),
        ({"data": {"language": "es", "text": "uno", "consent": "\x00\x01 \x02"}, "files": {"video": b"v"}}, 400, "missing_consent"),
        ({"data": {"language": "fr", "text": "un", "consent": CONSENT}, "files": {"video": b"v"}}, 422, "unsupported_text"),
        ({"data": {"language": "es", "mood": "good", "consent": CONSENT}, "files": {"video": b"v"}}, 400, "usage"),
        ({"data": {"language": "es", "script": "1\nno times", "consent": CONSENT}, "files": {"video": b"v"}}, 400, "usage"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_job_is_a_problem_with_a_code(served, request_of, status, code):
    answer = httpx.post(f"{served.url}/v1/dubs", timeout=30, **request_of)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("path", "status"), [("/v1/dubs/" + "0" * 32, 404), ("/v1/dubs/x", 422), ("/nowhere", 404)])
def test_what_is_not_there_is_a_problem_too(served, path, status):
    answer = served.get(path)
    assert (answer.status_code, answer.json()["status"]) == (status, status)


class Host(http.server.BaseHTTPRequestHandler):
    """Gives a clip to whoever fetches it; refuses the first webhook and takes the next."""

    clip, received = b"", []

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.clip)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(503 if len(self.received) == 1 else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_video_is_fetched_and_the_end_is_told_by_a_signed_webhook_that_is_tried_again(served):
    Host.clip = served.clip
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{host.server_port}"
    fields = {"language": "es", "text": "uno", "consent": CONSENT, "reference": "take 2"}
    body = {**fields, "video_url": f"{place}/clip.mp4", "webhook_url": f"{place}/hook"}
    job = httpx.post(f"{served.url}/v1/dubs", json=body, timeout=30).json()
    served.wait(job["id"], "done")
    until = time.monotonic() + 60
    while len(Host.received) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    host.shutdown()
    headers, message = Host.received[1]
    assert is_webhook_genuine(SECRET, headers, message)
    told = json.loads(message)
    assert (told["type"], told["data"]["id"], told["data"]["reference"]) == ("dub.done", job["id"], "take 2")


@pytest.mark.parametrize("name", ["video_url", "webhook_url"])
def test_a_url_that_this_server_does_not_call_is_a_403(served, name):
    body = {"language": "es", "text": "uno", "consent": CONSENT, "video_url": "http://127.0.0.1/a.mp4"}
    answer = httpx.post(f"{served.url}/v1/dubs", json={**body, name: "https://elsewhere.example/x"}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden_source")


def test_both_clients_have_the_same_methods():
    assert set(vars(DubClient)) == set(vars(AsyncDubClient))


def test_the_asynchronous_client_waits_for_a_server_describes_it_and_dubs_by_v1(served):
    client = AsyncDubClient(served.url)
    video = served.folder / "v1.mp4"
    video.write_bytes(served.clip)

    async def run():
        await client.wait_until_ready(seconds=10)
        return await client.describe(), await client.predict(video, to="es", text="uno", consent=CONSENT, seed=3)

    facts, dubbed = asyncio.run(run())
    assert (facts["ready"], dubbed["seed"]) == (True, 3)


def test_a_consent_record_is_sent_with_a_file(served):
    """It was sent as Python writes a dict, which is not JSON."""
    video = served.folder / "record.mp4"
    video.write_bytes(served.clip)
    consent = {"statement": CONSENT, "scope": "the trailer", "until": "2099-12-31"}
    client = DubClient(served.url)
    client.wait(client.submit(video, language="es", text="uno", consent=consent)["id"])
    assert (served.ledger()[-1]["scope"], served.ledger()[-1]["until"]) == ("the trailer", "2099-12-31")


@pytest.mark.parametrize("call", ["describe", "submit", "status", "wait"])
@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_that_is_not_json_is_an_error_of_the_client(monkeypatch, tmp_path, call, status):
    video = tmp_path / "in.mp4"
    video.write_bytes(b"")
    arguments = {"describe": (), "submit": (video,), "status": ("a",), "wait": ("a",)}[call]

    async def request(*_, **__):
        return httpx.Response(status, content=b"<html>", headers={"content-type": "application/json"})

    monkeypatch.setattr("httpx.AsyncClient.request", request)
    monkeypatch.setattr("httpx.request", lambda **_: asyncio.run(request()))
    sentence = "not JSON" if status == 200 else "HTTP 404"
    with pytest.raises(DubmillError, match=sentence):
        getattr(DubClient("http://there"), call)(*arguments)
    with pytest.raises(DubmillError, match=sentence):
        asyncio.run(getattr(AsyncDubClient("http://there"), call)(*arguments))


def test_both_clients_dub_over_jobs_and_report_progress(served):
    path = served.folder / "in.mp4"
    path.write_bytes(served.clip)
    shares = []
    words = {"to": "es", "text": "uno", "consent": CONSENT}
    video = DubClient(served.url).dub(path, **words, seed=2, progress=shares.append)
    assert tone_hz(video) == pytest.approx(500, abs=2)
    assert shares[-1] == 1.0
    video = asyncio.run(AsyncDubClient(served.url).dub(path, **words, seed=2))
    assert tone_hz(video) == pytest.approx(500, abs=2)
    with pytest.raises(UnsupportedTextError, match="not a word"):
        DubClient(served.url).dub(path, **{**words, "text": "indecible"})
    with pytest.raises(MissingConsentError):
        DubClient(served.url).dub(path, **{**words, "consent": "yes"})


def test_a_wrong_method_names_all_that_are_right_and_the_document_resolves(served):
    answer = httpx.put(f"{served.url}/v1/dubs/{'0' * 32}", timeout=30)
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
    document = served.get("/openapi.json")
    names = set(re.findall(r'"#/components/schemas/(\w+)"', document.text))
    assert {"DubFields", "ConsentFields", "Problem"} <= names
    assert names <= set(document.json()["components"]["schemas"])


def test_a_client_learns_languages_adapters_and_limits(served):
    assert [one["tag"] for one in served.get("/v1/languages").json()["languages"]][:2] == ["en", "es"]
    assert served.get("/v1/adapters").json()["adapters"][0]["version"] == "7"
    assert served.get("/v1/limits").json()["clip_seconds"] == pytest.approx(1.04)
    limits = served.get("/v1/limits").json()
    assert (limits["max_waiting"], limits["batch_size"]) == (60, 2)


def test_the_limits_have_the_batches_that_fit_the_memory(tmp_path):
    release = tiny_release(tmp_path / "release", tiny_backbone(tmp_path / "backbone"))
    source, jobs = ModelSource.of_release(release), SimpleNamespace(num_open=int, oldest_age_seconds=float)
    more = {"projects": None, "backbone": tmp_path, "fetching": None, "calling": None}
    model = DubModel("in-process", release, source, jobs, **more)
    app = FastAPI()
    app.include_router(facts_routes(model, {"batch_size": 4}))

    def batch_size():
        return TestClient(app).get("/v1/limits").json()["batch_size"]

    assert batch_size() == 4  # as long as the model is not loaded
    loaded = {"event": "adapter", "path": str(release.path)}
    model.on_event(loaded | {"adapter": "release", "batch_size": 1})
    model.on_event(loaded | {"adapter": "other", "batch_size": 3})
    assert batch_size() == 1


@pytest.mark.parametrize("leaves", [False, True])
def test_a_dub_whose_database_is_away_is_waited_for_and_discarded_when_it_is_back(tmp_path, monkeypatch, leaves):
    """The caller got 503 and came again, while its first job stayed, was dubbed and counted."""
    for name in ("POLL_SECONDS", "WATCH_SECONDS"):
        monkeypatch.setattr(models, name, 0.01)
    limits = JobLimits(max_waiting=5, max_per_caller=5, result_hours=1.0)
    store = JobStore(tmp_path / "jobs", f"sqlite:///{tmp_path}/jobs.sqlite", limits)
    source = ModelSource.of_release(tiny_release(tmp_path / "release", tiny_backbone(tmp_path / "backbone")))
    more = {"projects": None, "backbone": tmp_path, "fetching": None, "calling": None}
    model, tries, list_workflows = DubModel("away", None, source, store, **more), [], store.client.list_workflows
    model.ready = True

    def away(**_):
        tries.append(time.monotonic())
        raise OperationalError("select", {}, OSError("the database is away"))

    async def tried(count):
        while len(tries) < count:
            await asyncio.sleep(0.001)
        tries.clear()

    async def run():
        fields = DubFields(language="es", text="uno", consent=CONSENT)
        dub = asyncio.create_task(model.dub(Submission(fields, b"video")))
        while not (jobs := store.list("anonymous", limit=5, offset=0)):
            await asyncio.sleep(0.001)
        monkeypatch.setattr(store.client, "list_workflows", away)
        await tried(3)
        if leaves:
            dub.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dub
            await tried(3)  # it is not given up
        monkeypatch.setattr(store.client, "list_workflows", list_workflows)
        if not leaves:
            store.cancel(jobs[0].id, "anonymous")
            with pytest.raises(DubmillError, match="cancelled"):
                await dub
        await asyncio.wait_for(asyncio.gather(*model._discards), 30)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert not store.list("anonymous", limit=5, offset=0)
    assert not [path for path in store.folder.iterdir() if path.is_dir()]


def test_the_api_process_does_not_import_pytorch():
    """It took two seconds of each start and 180 MiB, beside the worker's."""
    code = "import sys, dubmill.serving.routes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_adapter_is_added_chosen_and_removed_while_the_server_runs(served):
    backbone, place = Backbone.open(served.folder / "backbone"), served.folder / "adapters" / "french"
    assert served.submit(language="fr", text="un").json()["code"] == "unsupported_text"
    tiny_release(served.folder / "french", backbone, version="8", languages=["fr"])
    place.parent.mkdir()
    (served.folder / "french").rename(place)
    adapters = served.wait_for("/v1/adapters", lambda body: len(body["adapters"]) == 2)["adapters"]
    assert (adapters[1]["adapter"], adapters[1]["languages"], adapters[1]["is_default"]) == ("french", ["fr"], False)
    done = served.wait(served.submit(language="fr", text="un", adapter="french").json()["id"], "done")
    assert done["result"]["model_version"] == "8"
    place.rename(served.folder / "french")
    served.wait_for("/v1/adapters", lambda body: len(body["adapters"]) == 1)
    refused = served.submit(language="fr", text="un", adapter="french")
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_adapter")


def test_a_clip_comes_back_at_its_own_size_and_rate_as_a_film_does(served):
    """It came back at the model's size."""
    clip = media.mp4_bytes(small_clip(num_frames=26, side=96, rate=Fraction(25)))
    done = served.wait(served.submit(video=clip).json()["id"], "done", "failed")
    info = media.probe(served.get(done["links"]["result"]).content)
    assert (info.num_frames, info.height, info.width, info.frame_rate) == (26, 96, 96, 25)


SCRIPT = "1\n00:00:00,400 --> 00:00:01,200\nuno\n\n2\n00:00:02,000 --> 00:00:02,800\ndos\n"


def test_a_film_is_a_project_whose_segments_are_read_edited_dubbed_again_and_rendered(served):
    client, film = DubClient(served.url), served.folder / "film.mp4"
    film.write_bytes(media.mp4_bytes(small_clip(num_frames=40)).replace(b"ftypisom", b"ftypqt  ", 1))
    made = client.create_project(film, language="es", script=SCRIPT, consent=CONSENT, reference="reel 1")
    client.wait(made["id"])
    project = client.project(made["id"])
    assert (project["state"], project["reference"], project["film_seconds"]) == ("ready", "reel 1", pytest.approx(3.2))
    assert [(one["id"], one["text"], one["state"]) for one in project["segments"]] == [
        ("s1", "uno", "to dub"),
        ("s2", "dos", "to dub"),
    ]
    assert client.edit_segment(made["id"], "s2", text="tres")["text"] == "tres"
    redone = client.wait(client.redo_segment(made["id"], "s1", seed=4)["id"])
    assert (redone["task"], redone["result"]["seed"]) == ("redo", 4)
    assert served.get(f"/v1/dubs/{redone['id']}/result").json()["code"] == "job_conflict"
    segments = client.project(made["id"])["segments"]
    assert [(one["text"], one["state"], one["seed"]) for one in segments] == [
        ("uno", "dubbed", 4),
        ("tres", "to dub", None),
    ]
    done = client.wait(client.render_project(made["id"])["id"])
    assert done["links"]["project"] == f"/v1/projects/{made['id']}"
    assert media.probe(client.result(done["id"])).num_frames == 40
    assert client.project(made["id"])["num_to_dub"] == 0
    english = client.put_language(made["id"], "en", script=SCRIPT.replace("uno", "one").replace("dos", "two"))
    assert (english["language"], english["languages"], english["num_to_dub"]) == ("en", ["es", "en"], 2)
    assert client.edit_segment(made["id"], "s2", language="en", text="six")["text"] == "six"
    rendered = client.wait(client.render_project(made["id"], language="en")["id"])
    assert (rendered["language"], rendered["result"]["language"]) == ("en", "en")
    segments = [client.project(made["id"], language=tag)["segments"] for tag in ("es", "en")]
    assert [(one["text"], one["state"]) for one in (*segments[0], *segments[1])] == [
        ("uno", "dubbed"),
        ("tres", "dubbed"),
        ("one", "dubbed"),
        ("six", "dubbed"),
    ]
    listed = client.projects(limit=1)["projects"][0]
    assert (listed["id"], listed["languages"], listed["reference"]) == (made["id"], ["es", "en"], "reel 1")
    uploaded = served.get(f"/v1/projects/{made['id']}/film")
    assert (uploaded.content, uploaded.headers["content-type"]) == (film.read_bytes(), "video/quicktime")
    entries = [entry["job"] for entry in served.ledger()]
    assert [entries.count(job_id) for job_id in (made["id"], redone["id"], done["id"])] == [0, 0, 1]
    client.delete_project(made["id"])
    assert served.get(f"/v1/projects/{made['id']}").json()["code"] == "unknown_project"


def test_a_wrong_request_on_a_project_is_a_problem_with_a_code(served):
    film = {"video": media.mp4_bytes(small_clip(num_frames=40))}
    form = {"language": "es", "script": SCRIPT, "consent": CONSENT}
    post = partial(httpx.post, f"{served.url}/v1/projects", files=film, timeout=30)
    assert post(data={**form, "consent": ""}).json()["code"] == "missing_consent"
    assert "a project needs a script" in post(data={**form, "script": "", "text": "uno"}).json()["detail"]
    project_id = post(data=form).json()["id"]
    served.wait(project_id, "done")
    place = f"{served.url}/v1/projects/{project_id}"
    answers = [
        httpx.patch(f"{place}/segments/s1", json={}, timeout=30),
        httpx.patch(f"{place}/segments/s9", json={"text": "uno"}, timeout=30),
        httpx.patch(f"{place}/segments/s1", json={"words": "uno"}, timeout=30),
        httpx.patch(f"{place}/segments/s1", json={"end_seconds": 3.0}, timeout=30),
        httpx.post(f"{place}/segments/s9/redo", json={}, timeout=30),
        httpx.get(f"{served.url}/v1/projects/{'0' * 32}", timeout=30),
        httpx.post(f"{place}/render", params={"language": "en"}, timeout=30),
        httpx.put(f"{place}/languages/fr", json={"script": SCRIPT}, timeout=30),
        httpx.put(f"{place}/languages/en", json={"script": "1\nno times"}, timeout=30),
    ]
    codes = ["usage", "unknown_project", "invalid_parameter", "usage", "unknown_project", "unknown_project"]
    codes += ["unknown_project", "unsupported_text", "usage"]
    assert [answer.json()["code"] for answer in answers] == codes
    with locked(served.folder / "jobs" / "projects" / project_id / "dub"):  # a job has it
        busy = httpx.patch(f"{place}/segments/s1", json={"text": "tres"}, timeout=30)
    assert (busy.status_code, busy.json()["code"]) == (409, "busy_project")


def test_a_client_of_openais_videos_api_gets_its_dub(served):
    """The requests that OpenAI's client 2.11 sends for `videos.create`, `retrieve`, `list`, `download_content` and `delete`."""
    form = {"prompt": "uno", "model": "dubmill", "language": "es", "consent": CONSENT, "seed": "3"}
    files = {"input_reference": ("in.mp4", served.clip, "video/mp4")}
    post = partial(httpx.post, f"{served.url}/v1/videos", files=files, headers={"authorization": "Bearer sk-1"})
    answer = post(data=form, timeout=30)
    video = answer.json()
    assert (answer.status_code, video["object"], video["model"], video["prompt"]) == (200, "video", "dubmill", "uno")
    assert video["status"] in ("queued", "in_progress")
    done = served.wait_for(f"/v1/videos/{video['id']}", lambda body: body["status"] not in ("queued", "in_progress"))
    assert (done["status"], done["progress"], done["size"], done["seconds"]) == ("completed", 100, "64x64", "1.04")
    assert done["created_at"] <= done["completed_at"] < done["expires_at"]
    assert tone_hz(served.get(f"/v1/videos/{video['id']}/content").content) == pytest.approx(600, abs=2)
    page = served.get("/v1/videos", params={"limit": 1}).json()
    assert (page["object"], page["first_id"], page["data"]) == ("list", video["id"], [done])
    deleted = httpx.delete(f"{served.url}/v1/videos/{video['id']}", timeout=30).json()
    assert deleted == {"id": video["id"], "object": "video.deleted", "deleted": True}
    assert served.get(f"/v1/videos/{video['id']}").status_code == 404
    refused = post(data={**form, "size": "720x1280"}, timeout=30).json()
    assert refused["error"] == {"code": "usage", "message": refused["detail"]}  # its client shows that message alone
    assert refused["detail"].startswith("size: a dub has the size")
    failed = post(data={**form, "prompt": "indecible"}, timeout=30).json()["id"]
    served.wait(failed, "failed")
    assert served.get(f"/v1/videos/{failed}").json()["error"]["code"] == "unsupported_text"


def test_videos_are_listed_in_pages_without_the_jobs_of_projects(tmp_path):
    """`after` was ignored, so that OpenAI's client asked for the first page for ever; a project's jobs were videos."""
    store = JobStore(
        tmp_path / "jobs",
        f"sqlite:///{tmp_path}/jobs.sqlite",
        JobLimits(max_waiting=9, max_per_caller=9, result_hours=1.0),
    )
    app = FastAPI()
    app.include_router(video_routes(SimpleNamespace(jobs=store, name="dubmill")))
    client, ids = TestClient(app), {}
    for kind in ("dub", "open", "clip", "redo", "dub", "render"):
        document = {"fields": {"adapter": "", "text": ""}, "task": {"kind": kind}}
        ids.setdefault(kind, []).append(store.submit(document, b"", owner="anonymous").id)
        time.sleep(0.002)  # their order is by time in milliseconds
    newest_first = [ids["dub"][1], ids["clip"][0], ids["dub"][0]]
    for order, expected in (("desc", newest_first), ("asc", newest_first[::-1])):
        pages, last_id = [], ""
        for _ in range(2):
            query = {"limit": 2, "after": last_id, "order": order}
            pages.append(client.get("/v1/videos", params=query).json())
            last_id = pages[-1]["last_id"]
        assert [video["id"] for page in pages for video in page["data"]] == expected
        assert [page["has_more"] for page in pages] == [True, False]
    for kind in ("open", "redo", "render"):
        for method in ("GET", "DELETE"):
            with pytest.raises(UnknownJobError):
                client.request(method, f"/v1/videos/{ids[kind][0]}")
        assert store.find(ids[kind][0], "anonymous") is not None
    with pytest.raises(UnknownJobError):
        client.get("/v1/videos", params={"after": "0" * 32})


def test_jobs_are_listed_newest_first_in_pages(served):
    page = served.get("/v1/dubs", params={"limit": 2}).json()
    assert len(page["dubs"]) == 2
    rest = served.get("/v1/dubs", params={"limit": 2, "offset": page["next_offset"]}).json()
    assert not {job["id"] for job in page["dubs"]} & {job["id"] for job in rest["dubs"]}


DOCUMENTS = Path(__file__).parents[1]


def run_block(served, kind, script):
    """Run a block of a document, word for word but for the server's address, in the server's folder."""
    (served.folder / "in.mp4").write_bytes(served.clip)
    script = script.replace("http://localhost:8080", served.url)
    command = [sys.executable, "-c"] if kind == "python" else ["bash", "-euo", "pipefail", "-c"]
    ran = subprocess.run([*command, script], cwd=served.folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_every_curl_line_of_the_page_works(served):
    page = (DOCUMENTS / "docs/endpoint.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    run_block(served, "bash", "".join(blocks))  # the second one uses the address in the first one
    assert media.probe(served.folder / "out.mp4").num_frames == 13
    assert media.probe(served.folder / "clip.mp4").num_frames == 13
    assert len((served.folder / "start.bin").read_bytes()) == 100


def test_the_readmes_section_on_the_endpoint_works_word_for_word(served):
    section = (DOCUMENTS / "README.md").read_text().partition("## The endpoint\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(bash|python)\n(.*?)```", section, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "python"]
    for kind, script in blocks:
        run_block(served, kind, script)
    for name in ("dub.mp4", "job.mp4", "python.mp4"):
        assert media.probe(served.folder / name).num_frames == 13


def test_the_command_dubs_on_an_endpoint(served, monkeypatch, capsys):
    (served.folder / "in.mp4").write_bytes(served.clip)
    out = served.folder / "by-command.mp4"
    words = ["dub", str(served.folder / "in.mp4"), "--to", "es", "--text", "uno", "--consent", CONSENT, "--seed", "3"]
    monkeypatch.setattr("sys.argv", ["dubmill", *words, "--out", str(out), "--endpoint", served.url])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code, capsys.readouterr().err
    assert tone_hz(out.read_bytes()) == pytest.approx(600, abs=2)


@pytest.mark.parametrize("option", ["--audio", "--quality", "--captions", "--release", "--backbone", "--params"])
def test_an_option_that_an_endpoint_does_not_know_is_refused(option, monkeypatch, capsys, tmp_path):
    (tmp_path / "in.mp4").write_bytes(b"")
    (tmp_path / "voice.wav").write_bytes(b"")
    value = {"--audio": tmp_path / "voice.wav", "--quality": 20, "--captions": tmp_path / "c.srt"}.get(
        option, tmp_path / "t"
    )
    words = [
        "dub",
        tmp_path / "in.mp4",
        "--to",
        "es",
        "--text",
        "uno",
        "--consent",
        CONSENT,
        "--out",
        tmp_path / "out.mp4",
    ]
    words += ["--endpoint", "http://localhost:1", option, value]
    monkeypatch.setattr("sys.argv", ["dubmill", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert f"{option} beside --endpoint; leave --endpoint out" in capsys.readouterr().err


def test_a_killed_server_loses_no_job_and_makes_none_twice(served):
    """Before the durable queue, all pending requests were lost without a trace."""
    before = served.get("/v1/usage").json()["dubbed_seconds"]
    served.held.touch()
    jobs = [served.submit(text="lento" if index == 0 else "uno", seed=index).json()["id"] for index in range(6)]
    served.wait(jobs[0], "dubbing")
    served.kill()
    served.held.unlink()
    served.start()
    assert httpx.get(f"{served.url}/metrics", timeout=30).status_code == 200
    done = [served.wait(job_id, "done", "failed") for job_id in jobs]
    assert [job["state"] for job in done] == ["done"] * 6
    assert [job["result"]["seed"] for job in done] == list(range(6))
    usage = served.get("/v1/usage").json()  # each is counted once
    assert usage["dubbed_seconds"] - before == pytest.approx(sum(job["result"]["seconds"] for job in done))
    assert usage["left_seconds"] == pytest.approx(usage["limit_seconds"] - usage["dubbed_seconds"])
    entered = [entry["job"] for entry in served.ledger()]
    assert [entered.count(job_id) for job_id in jobs] == [1] * 6


def test_a_worker_that_dies_is_started_again_and_continues(served):
    served.held.touch()
    job = served.submit(text="lento").json()["id"]
    served.wait(job, "dubbing")
    (worker,) = (child for child in psutil.Process(served.process.pid).children() if "--status_fd" in child.cmdline())
    worker.kill()
    served.held.unlink()
    served.wait(job, "done", seconds=120)
    DubClient(served.url).wait_until_ready(seconds=60)


def test_a_stopping_server_finishes_the_dubs_under_way_and_puts_back_the_others_that_had_started(served):
    """A started job that had no place at the model yet stayed with the worker that ended, for whose name it had to wait."""
    served.held.touch()
    jobs = [served.submit(text="lento", seed=seed).json()["id"] for seed in range(6)]
    *in_place, waiting, last = jobs  # two places for each clip of a batch, and one more is taken and decoded
    served.wait(waiting, "waiting")
    assert {served.wait(job_id, "dubbing")["state"] for job_id in in_place} == {"running"}
    served.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 30
    while served.get("/v1/models/dubmill").status_code != 503:  # the socket is open, and says no
        assert time.monotonic() < until
    assert served.get("/v2/health/live").status_code == 200
    assert served.submit().status_code == 503
    served.wait(waiting, "queued")
    assert served.job(last)["state"] == "queued"
    served.held.unlink()
    assert served.process.wait(timeout=60) == 0
    served.start(grace_seconds=1)
    assert [served.job(job_id)["state"] for job_id in in_place] == ["done"] * 4
    assert [served.wait(job_id, "done")["result"]["seed"] for job_id in (waiting, last)] == [4, 5]
    entered = [entry["job"] for entry in served.ledger()]
    assert [entered.count(job_id) for job_id in jobs] == [1] * 6


def test_a_dub_that_is_not_finished_when_its_server_has_to_end_goes_back_to_the_queue(served):
    served.held.touch()
    job = served.submit(text="lento").json()["id"]
    served.wait(job, "dubbing")
    assert served.stop() == 0
    limits = JobLimits(max_waiting=1, max_per_caller=1, result_hours=1.0)
    store = JobStore(served.folder / "jobs", f"sqlite:///{served.folder}/jobs/jobs.sqlite", limits)
    assert store.get(job, "anonymous").state == "queued"  # any worker takes it, not only one of the same name
    (row,) = store.client.list_workflows(workflow_ids=[job])
    assert row.recovery_attempts == 0  # after 20 deployments a long film would have failed as one that kills its worker
