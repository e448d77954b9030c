"""Seconds of video that each caller has dubbed in a month: counted once, held against a quota, in both databases."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from dubmill.errors import DubmillError
from dubmill.serving import usage as usages
from dubmill.serving.jobs import JobConflictError, JobLimits, JobStore, problem_of
from dubmill.serving.problems import error_response, job_error
from dubmill.serving.usage import DUBBED, QuotaExceededError, month_begins, month_ends

BOTH_DATABASES = pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
DUB = {"fields": {"language": "es"}, "task": {"kind": "dub"}}


@pytest.fixture
def store(request, tmp_path):
    """A store of jobs where each caller has 10 s a month."""
    is_sqlite = getattr(request, "param", "sqlite") == "sqlite"
    database = f"sqlite:///{tmp_path}/jobs.sqlite" if is_sqlite else request.getfixturevalue("postgresql")
    limits = JobLimits(max_waiting=99, max_per_caller=99, result_hours=1.0, quota_of=lambda owner: 10.0)
    store = JobStore(tmp_path / "jobs", database, limits)
    yield store
    for job in store.list("ana", limit=99, offset=0):
        store.discard(job.id, "ana")
    with store.usage._engine.begin() as connection:
        connection.execute(DUBBED.delete())


def submit(store, kind="dub", **options):
    return store.submit({**DUB, "task": {"kind": kind}}, b"video", owner="ana", **options).id


def left(store):
    return store.usage.of("ana", 10.0).left_seconds


@BOTH_DATABASES
def test_a_job_is_reserved_once_it_is_decoded_counted_once_it_is_done_and_never_twice(store):
    job = submit(store)
    assert left(store) == 10.0
    assert store.usage.reserve(job, "ana", 4.0, 10.0) == 4.0
    assert store.usage.reserve(job, "ana", 3.0, 10.0) == 4.0  # begun again after a kill, when some was dubbed already
    assert left(store) == 6.0
    for _ in range(2):  # killed between the entry and the outcome
        store.usage.add(job, "ana", 4.0)
        assert left(store) == 6.0  # it is done and still open
    store.discard(job, "ana")  # a clip's job is deleted at once
    assert (left(store), store.usage.of("eve", 10.0).left_seconds) == (6.0, 10.0)


def test_a_cancelled_job_gives_its_seconds_back(store):
    job = submit(store)
    store.usage.reserve(job, "ana", 10.0, 10.0)
    assert left(store) == 0.0
    store.cancel(job, "ana")
    assert left(store) == 10.0


def test_a_video_that_is_too_long_for_the_rest_of_the_month_is_refused_and_a_shorter_one_is_not(store):
    first, second, third, fourth = (submit(store) for _ in range(4))
    store.usage.reserve(first, "ana", 7.0, 10.0)
    with pytest.raises(QuotaExceededError, match=r"5\.0 s are to be dubbed, and 3\.0 s of 10 s of this month are left"):
        store.usage.reserve(second, "ana", 5.0, 10.0)
    assert store.usage.reserve(third, "ana", 3.0, 10.0) == 3.0
    assert store.usage.reserve(fourth, "ana", 0.0, 10.0) == 0.0  # a render of what is dubbed already


def test_a_refused_job_that_begins_again_is_refused_again_or_reserved_in_full(store):
    """A worker killed between the refusal and its outcome began again with 0 s reserved, and dubbed the video for nothing."""
    first, second = submit(store), submit(store)
    store.usage.reserve(first, "ana", 7.0, 10.0)
    for _ in range(2):
        with pytest.raises(QuotaExceededError, match=r"5\.0 s are to be dubbed, and 3\.0 s of 10 s"):
            store.usage.reserve(second, "ana", 5.0, 10.0)
        assert left(store) == 3.0
    store.cancel(first, "ana")
    assert store.usage.reserve(second, "ana", 5.0, 10.0) == 5.0
    assert left(store) == 5.0


def test_a_render_of_what_is_dubbed_already_is_not_refused_where_the_quota_is_below_what_was_used(store):
    render = submit(store, "render")
    store.usage.add("a" * 32, "ana", 9.0)
    assert store.usage.reserve(render, "ana", 0.0, 6.0) == 0.0
    with pytest.raises(QuotaExceededError, match=r"0\.5 s are to be dubbed, and 0\.0 s of 6 s"):
        store.usage.reserve(render, "ana", 0.5, 6.0)


@BOTH_DATABASES
def test_jobs_that_are_decoded_at_once_never_pass_together(store):
    jobs = [submit(store) for _ in range(4)]

    def reserve(job):
        try:
            return store.usage.reserve(job, "ana", 6.0, 10.0)
        except QuotaExceededError:
            return 0.0

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(reserve, jobs)) <= 10.0


def test_a_caller_without_seconds_is_refused_at_once_and_may_repeat_a_request_and_render(store):
    job = submit(store, key="k-1")
    store.usage.add(job, "ana", 10.0)
    for kind in ("clip", "dub", "redo"):
        with pytest.raises(QuotaExceededError, match="0 s of 10 s of this month are left"):
            submit(store, kind)
    with pytest.raises(JobConflictError):
        submit(store, "render", key="k-1")
    assert submit(store, key="k-1") == job
    assert submit(store, "open") != submit(store, "render")  # the worker knows whether there is anything to dub
    assert not [
        path
        for path in store.folder.iterdir()
        if path.name not in {one.id for one in store.list("ana", limit=9, offset=0)}
    ]


def test_the_next_month_begins_at_zero_and_old_entries_are_deleted(store):
    store.usage.add("a" * 32, "ana", 10.0)
    with store.usage._engine.begin() as connection:
        connection.execute(update(DUBBED).values(finished=month_begins(time.time()) - 0.001))
    assert left(store) == 10.0
    for age_seconds, num_left in ((0.0, 1), (usages.KEPT_SECONDS + 1.0, 0)):
        with store.usage._engine.begin() as connection:
            connection.execute(update(DUBBED).values(finished=time.time() - age_seconds))
        store.usage.delete_expired()
        with store.usage._engine.begin() as connection:
            assert len(connection.execute(DUBBED.select()).fetchall()) == num_left


@pytest.mark.parametrize(
    ("moment", "begins", "ends"),
    [
        ("2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
        ("2027-01-01T00:00:00", "2027-01-01", "2027-02-01"),
        ("2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
    ],
)
def test_a_month_is_that_of_the_calendar_in_utc(moment, begins, ends):
    seconds = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    found = [datetime.fromtimestamp(edge(seconds), UTC).date().isoformat() for edge in (month_begins, month_ends)]
    assert found == [begins, ends]


def test_a_refusal_says_when_the_quota_resets_also_as_the_problem_of_a_job(tmp_path):
    """A client repeats a 429 after Retry-After: a failed job would be read again every second."""
    from fastapi import FastAPI

    store = JobStore(
        tmp_path / "jobs",
        f"sqlite:///{tmp_path}/jobs.sqlite",
        JobLimits(max_waiting=9, max_per_caller=9, result_hours=1.0),
    )
    store.usage.add("a" * 32, "ana", 10.0)
    with pytest.raises(QuotaExceededError) as refusal:
        store.usage.check("ana", 10.0)
    ends = month_ends(time.time())
    assert datetime.fromtimestamp(ends, UTC).isoformat() in refusal.value.sentence
    app = FastAPI()
    app.add_exception_handler(DubmillError, error_response)

    class Failed:
        problem = problem_of(refusal.value)

    @app.get("/")
    def fail():
        raise job_error(Failed)

    answer = TestClient(app).get("/")
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert int(answer.headers["retry-after"]) == pytest.approx(ends - time.time(), abs=30)
