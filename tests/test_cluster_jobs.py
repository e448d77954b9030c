"""Work of a task in pods of its own: an Indexed Job for shards and a TrainJob for training, against an emulated API."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
from doubles.cluster_jobs import DISRUPTED, ClusterJobs

from dubmill.cluster import jobs, kubernetes
from dubmill.cluster.jobs import FailedJobError, JobSpec
from dubmill.errors import InterruptedStepError, ServiceUnavailableError, UsageError

SPEC = JobSpec(3, "dubmill/gpu:1", 4, 64, 1, "work", "/work", queue="gpus", priority="dubmill-batch", code="c0de")
NAME, COMMAND = "dubmill-synthesize-1", ["python3", "-m", "dubmill.cli.main", "step", "synthesize"]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts an API whose pods end with the codes of a list for each index; what is not listed succeeds."""
    (tmp_path / "namespace").write_text("dubmill\n")
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    monkeypatch.setattr(kubernetes, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    servers = []

    def begin(codes=None, **options):
        left = {index: list(values) for index, values in (codes or {}).items()}
        pods = []

        def run_pod(command, index):
            pods.append(command)
            return left[index].pop(0) if left.get(index) else 0

        server = ClusterJobs(run_pod, **options)
        server.pods = pods
        servers.append(server.__enter__())
        monkeypatch.setenv("DUBMILL_KUBERNETES", server.address)
        return server

    yield begin
    for server in servers:
        server.__exit__()


def test_every_index_gets_its_shard_and_the_job_waits_in_the_queue(start):
    api = start()
    jobs.run_shards(NAME, COMMAND, SPEC)
    assert [pod[-2:] for pod in api.pods] == [["--shard", f"{index}/3"] for index in range(3)]
    (job,) = api.created
    assert job["metadata"]["labels"] | {} == {
        "app.kubernetes.io/part-of": "dubmill",
        "kueue.x-k8s.io/queue-name": "gpus",
        "kueue.x-k8s.io/priority-class": "dubmill-batch",
    }


def test_without_a_queue_a_job_is_not_suspended_since_nobody_would_start_it():
    assert jobs.indexed_job(NAME, COMMAND, replace(SPEC, queue=""))["spec"]["suspend"] is False
    assert jobs.indexed_job(NAME, COMMAND, SPEC)["spec"]["suspend"] is True


def test_the_job_is_valid_for_kubernetes():
    kubernetes_validate.validate(jobs.indexed_job(NAME, COMMAND, SPEC), "1.34", strict=True)


def test_failed_pods_are_tried_again_and_disruptions_do_not_count(start):
    api = start({0: [1, 1, 1], 1: [DISRUPTED] * 9})
    jobs.run_shards(NAME, COMMAND, SPEC)
    assert len(api.pods) == 3 + 3 + 9


def test_an_index_that_fails_for_good_is_named_after_the_others_have_ended(start):
    api = start({1: [137] * 9, 2: [jobs.USER_ERROR]})
    with pytest.raises(FailedJobError, match="shards 1,2"):
        jobs.run_shards(NAME, COMMAND, SPEC)
    assert len(api.pods) == 1 + (jobs.NUM_RETRIES + 1) + 1


def test_a_task_that_was_killed_and_started_again_finds_its_job(start, monkeypatch):
    api = start()
    with monkeypatch.context() as patch:
        patch.setattr(
            jobs.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt)
        )  # in place of SIGKILL
        with pytest.raises(KeyboardInterrupt):
            jobs.run_shards(NAME, COMMAND, SPEC)
    jobs.run_shards(NAME, COMMAND, SPEC)
    assert len(api.created) == 1
    assert len(api.pods) == 3


def test_a_job_that_failed_before_is_made_anew(start):
    api = start({1: [jobs.USER_ERROR]})
    with pytest.raises(FailedJobError):
        jobs.run_shards(NAME, COMMAND, SPEC)
    jobs.run_shards(NAME, COMMAND, SPEC)
    assert len(api.created) == 2
    assert not api.num_overlaps


def test_a_task_that_is_told_to_end_deletes_its_job_and_frees_the_gpus(start, monkeypatch):
    api = start()
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedStepError):
        jobs.run_shards(NAME, COMMAND, SPEC)
    assert [Path(path).name for path in api.deleted] == [NAME]
    assert signal.getsignal(signal.SIGTERM) == before


def test_after_a_task_that_was_told_to_end_no_pods_of_two_generations_run_at_once(start, monkeypatch):
    api = start()
    with monkeypatch.context() as patch:
        patch.setattr(jobs.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(InterruptedStepError):
            jobs.run_shards(NAME, COMMAND, SPEC)
    jobs.run_shards(NAME, COMMAND, SPEC)
    assert (len(api.created), api.num_overlaps) == (2, 0)


def test_a_job_that_somebody_deletes_ends_its_task_with_a_sentence(start, monkeypatch):
    api = start()
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: api.jobs.clear())
    with pytest.raises(FailedJobError, match="the job was deleted"):
        jobs.run_shards(NAME, COMMAND, SPEC)


@pytest.mark.parametrize("name", ["dubmill-train_on_all_gpus-1", "dubmill-train-" + "a" * 35])
def test_names_that_a_cluster_refuses_are_refused_here(start, name):
    start()
    with pytest.raises(ServiceUnavailableError, match="HTTP 422"):
        jobs.run_training(name, [], SPEC)


def test_training_on_several_nodes_is_a_trainjob_that_runs_torchrun(start):
    api = start()
    jobs.run_training("dubmill-train-1", ["-m", "dubmill.launching", "a", "b"], SPEC)
    (job,) = api.created
    trainer = job["spec"]["trainer"]
    assert api.pods == [["torchrun", "-m", "dubmill.launching", "a", "b"]]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 1)
    assert job["spec"]["runtimeRef"]["name"] == jobs.TRAINING_RUNTIME


def test_without_kubeflow_trainer_the_task_says_how_to_train_on_one_node(start):
    start(has_trainer=False)
    with pytest.raises(UsageError, match="not installed") as raised:
        jobs.run_training("dubmill-train-1", [], SPEC)
    assert "--train-nodes 1" in raised.value.cure
