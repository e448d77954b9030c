"""Work of a task in pods of its own: an Indexed Job for shards and a TrainJob for training, against an emulated API."""

from __future__ import annotations

import json
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
from doubles.cluster_jobs import DISRUPTED, ClusterJobs
from doubles.kubernetes_api import kubectl
from doubles.trainer_status import TrainerStatus

from dubmill.cluster import jobs, kubernetes, progress
from dubmill.cluster.jobs import FailedJobError, JobSpec
from dubmill.cluster.progress import reported_progress
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


def test_kubectl_waits_for_the_same_end_of_a_job_as_we_do(start):
    """Another client than ours; it deletes as we do, too."""
    api, apply = start({1: [jobs.USER_ERROR]}), ("apply", "--server-side", "--validate=false", "-f", "-")
    job = jobs.indexed_job(NAME, COMMAND, SPEC)
    assert kubectl(api, *apply, body=job)[0] == 0
    assert kubectl(api, "wait", "--for=condition=Failed", f"job/{NAME}", "--timeout=60s")[0] == 0
    assert api.objects[f"/apis/batch/v1/namespaces/dubmill/jobs/{NAME}"]["status"]["failedIndexes"] == "1"
    assert kubectl(api, "delete", f"job/{NAME}", "--cascade=foreground", "--timeout=60s")[0] == 0
    jobs.run_shards(NAME, COMMAND, SPEC)
    assert not api.num_overlaps


def test_a_job_that_somebody_deletes_ends_its_task_with_a_sentence(start, monkeypatch):
    api = start()
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: api.objects.clear())
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


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Kubeflow Trainer's status server, and its variables as in the pod of rank 0."""
    monkeypatch.setenv("RANK", "0")
    with TrainerStatus(tmp_path) as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        yield server


@contextmanager
def training(folder, trainer, *, num_steps=8, poll_seconds=0.002):
    """Yields a function that writes lines of losses up to a step, and returns when the server has taken or refused that step."""
    path = folder / "losses.jsonl"

    def reach(step, *, is_awaited=True):
        rows = [{"step": done, "video": 0.5, "audio": 0.25, "total": 0.75, "lr": 2e-4} for done in range(1, step + 1)]
        num_answers = len(trainer.statuses) + len(trainer.refusals)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": ')  # the next line is being written
        deadline = time.monotonic() + 30
        while is_awaited and len(trainer.statuses) + len(trainer.refusals) == num_answers:
            if time.monotonic() > deadline:
                pytest.fail(f"the status server was not told of step {step}")
            time.sleep(0.001)

    with reported_progress(path, num_steps=num_steps, poll_seconds=poll_seconds):
        yield reach


def test_a_training_shows_its_progress_in_the_status_of_its_trainjob(tmp_path, trainer):
    with training(tmp_path, trainer) as reach:
        for step in (2, 5, 8):
            reach(step)
    assert [status["progressPercentage"] for status in trainer.statuses] == [25, 62, 100]
    first, *others = trainer.statuses
    assert "estimatedRemainingSeconds" not in first  # nothing was trained since the first look, so no rate is known
    assert [status["estimatedRemainingSeconds"] >= 0 for status in others] == [True, True]
    values = {metric["name"]: metric["value"] for metric in others[-1]["metrics"]}
    assert values == {"step": "8", "loss.video": "0.5", "loss.audio": "0.25", "loss.total": "0.75", "lr": "0.0002"}
    assert not trainer.refusals


def test_the_time_left_of_a_training_that_goes_on_is_measured_from_its_checkpoint(tmp_path, trainer, monkeypatch):
    clock = iter(range(0, 1000, 10))  # seconds of each look that begins a measurement, and of each estimate
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    report = progress._Report(tmp_path / "losses.jsonl", 8)
    monkeypatch.setattr(progress, "_post", lambda status: trainer.statuses.append(status["trainerStatus"]))
    for step in (6, 4, 5):  # the draft of a killed pod; cut back to its checkpoint; a step later
        report.losses.write_text(json.dumps({"step": step, **dict.fromkeys(progress.METRICS, 1.0)}) + "\n")
        report.send()
    assert [status.get("estimatedRemainingSeconds") for status in trainer.statuses] == [None, None, 30]


def test_a_pod_whose_token_and_certificate_are_renewed_goes_on_reporting(tmp_path, trainer):
    with training(tmp_path, trainer) as reach:
        reach(1)
        trainer.tokens = {"token-2"}
        (tmp_path / "token").write_text("token-2")
        reach(2)
    assert (len(trainer.statuses), trainer.refusals) == (2, [])


def test_a_status_server_that_refuses_warns_once_and_the_training_goes_on(tmp_path, trainer, caplog):
    trainer.tokens = {"of another job"}
    with training(tmp_path, trainer) as reach:
        reach(1)
        reach(2)
    assert len(trainer.refusals) >= 2
    assert not trainer.statuses
    assert [record.getMessage() for record in caplog.records] == [
        "the TrainJob does not show the progress of the training: HTTP Error 403: Forbidden"
    ]


def test_a_certificate_that_does_not_fit_the_server_gets_no_token(tmp_path, trainer, caplog):
    (tmp_path / "other").mkdir()
    with TrainerStatus(tmp_path / "other"):
        (tmp_path / "other/ca.crt").replace(tmp_path / "ca.crt")
    with training(tmp_path, trainer, poll_seconds=60) as reach:
        reach(1, is_awaited=False)
    assert "certificate verify failed" in caplog.text
    assert not trainer.refusals


@pytest.mark.parametrize("name", [progress.CA_FILE, progress.TOKEN_FILE])
def test_a_pod_without_certificate_or_token_warns_and_ends_as_its_training_did(
    tmp_path, trainer, monkeypatch, caplog, name
):
    monkeypatch.delenv(name)
    (tmp_path / "losses.jsonl").write_text(json.dumps({"step": 1, **dict.fromkeys(progress.METRICS, 1.0)}) + "\n")
    with pytest.raises(InterruptedStepError), training(tmp_path, trainer, poll_seconds=60):
        raise InterruptedStepError("stopped")
    assert f"'{name}' is missing" in caplog.text
    assert (trainer.statuses, trainer.refusals) == ([], [])


def test_a_training_that_has_ended_does_not_wait_for_a_status_server_that_never_answers(tmp_path, trainer, monkeypatch):
    is_over, answers = threading.Event(), []
    monkeypatch.setattr(progress, "_post", lambda status: answers.append(is_over.wait(30)))
    monkeypatch.setattr(progress, "END_SECONDS", 0.01)
    with training(tmp_path, trainer, poll_seconds=60) as reach:
        reach(1, is_awaited=False)
    assert not answers  # the request still waits
    is_over.set()


@pytest.mark.parametrize("variable", [("RANK", "1"), ("KUBEFLOW_TRAINER_SERVER_URL", "")])
def test_other_ranks_and_pods_without_a_status_server_report_nothing(tmp_path, trainer, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    with training(tmp_path, trainer, poll_seconds=60) as reach:
        reach(8, is_awaited=False)
    assert (trainer.statuses, trainer.refusals) == ([], [])


def test_the_task_that_waits_for_a_training_says_how_far_it_is(start, caplog):
    caplog.set_level("INFO")
    api = start()
    path = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/dubmill/trainjobs/dubmill-train-1"
    api.run_pod = lambda command, index: (
        api.objects[path]["status"].update(trainerStatus={"progressPercentage": 45}) or 0
    )
    jobs.run_training("dubmill-train-1", [], SPEC)
    assert "dubmill-train-1: 0 active, 1 succeeded, 0 failed, 45 % trained" in caplog.messages
