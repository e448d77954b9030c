"""Submitting to Kubeflow Pipelines: versions found again, logins, namespaces, waiting; against an API with the real rules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doubles.kubeflow import Kubeflow

from dubmill.config.params import load
from dubmill.errors import ServiceUnavailableError, UsageError
from pipelines.cluster import Cluster, FailedRunError, check_schedule, version_name
from pipelines.dubbing import VARIANTS, compile_to
from pipelines.login import Login, default_token_file
from pipelines.placement import Target

ROOT = Path(__file__).parent.parent
NAME = VARIANTS["full"].name
PARAMS = load(ROOT / "params.yaml")
TARGET = Target(
    has_gpu=False,
    train_gpus=1,
    tracking_uri="http://mlflow:5000",
    models_claim="models",
    work_claim="work",
    num_retries=2,
    code="c0de",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "dubbing.yaml"
    compile_to(path, PARAMS, TARGET)
    return path


@pytest.fixture(autouse=True)
def no_settings_of_this_user(tmp_path, monkeypatch):
    """KFP's client reads and writes a context file in the home folder."""
    from kfp import Client

    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "kfp" / "context.json"))


NO_LOGIN = Login()


def submit(server: Kubeflow, package: Path, *, namespace: str = "", login: Login = NO_LOGIN, account: str = ""):
    cluster = Cluster(server.address, namespace=namespace, login=login)
    return cluster.start(package, pipeline=NAME, experiment="dubmill", account=account)


def test_a_first_submission_uploads_the_pipeline_and_starts_a_run(package):
    with Kubeflow() as server:
        run = submit(server, package, account="runner")
    assert run.is_new_version
    assert run.page == f"{server.address}/#/runs/details/r1"
    assert [one["display_name"] for one in server.state.pipelines] == [NAME]
    (started,) = server.state.runs
    assert started["service_account"] == "runner"
    versions = {one["pipeline_version_id"]: one["display_name"] for one in server.state.versions}
    assert versions[started["pipeline_version_reference"]["pipeline_version_id"]] == version_name(package)


def test_the_same_code_and_params_are_submitted_again_without_a_new_version(package):
    with Kubeflow() as server:
        first, second = (submit(server, package) for _ in range(2))
    assert (first.is_new_version, second.is_new_version) == (True, False)
    assert first.version == second.version
    assert len(server.state.runs) == 2
    references = [run["pipeline_version_reference"] for run in server.state.runs]
    assert references[0] == references[1]
    assert len(server.state.uploads) == 2  # the pipeline, and its version once


def test_other_params_or_other_code_are_another_version(package, tmp_path):
    train = PARAMS.train.model_copy(update={"rank": 3})
    other_params, other_code = tmp_path / "params.yaml", tmp_path / "code.yaml"
    compile_to(other_params, PARAMS.model_copy(update={"train": train}), TARGET)
    compile_to(other_code, PARAMS, Target(**{**TARGET.__dict__, "code": "beef"}))
    assert len({version_name(path) for path in (package, other_params, other_code)}) == 3
    with Kubeflow() as server:
        runs = [submit(server, path) for path in (package, other_params, other_code)]
    assert all(run.is_new_version for run in runs)


def test_a_version_is_found_behind_the_first_page_of_a_list(package):
    """The API's lists come in pages, and a filter that an older server ignores must not hide what is there."""
    with Kubeflow() as server:
        for index in range(150):
            server.state.add_pipeline(f"other-{index}")
        ours = server.state.add_pipeline(NAME)
        for index in range(150):
            server.state.add_version(ours["pipeline_id"], f"old-{index}")
        server.state.add_version(ours["pipeline_id"], version_name(package))
        run = submit(server, package)
    assert not run.is_new_version
    assert not server.state.uploads


def test_a_version_that_somebody_else_uploads_meanwhile_is_used(package, monkeypatch):
    with Kubeflow() as server:
        submit(server, package)
        found, calls = Cluster._version_id, []

        def not_yet(self, pipeline_id, name):
            calls.append(name)
            return None if len(calls) == 1 else found(self, pipeline_id, name)

        monkeypatch.setattr(Cluster, "_version_id", not_yet)
        run = submit(server, package)
    assert len(calls) == 2
    assert len(server.state.runs) == 2
    assert run.version == version_name(package)


@pytest.mark.parametrize("login", [Login(token="secret"), Login(cookie="session=abc")])
def test_a_token_or_a_cookie_logs_in(login, package):
    with Kubeflow(token="secret", cookie="session=abc") as server:
        submit(server, package, login=login)
    assert len(server.state.runs) == 1


def test_a_service_accounts_token_is_read_again_when_it_was_renewed(package, tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    with Kubeflow(token="first", run_states=["RUNNING", "RUNNING", "SUCCEEDED"]) as server:
        cluster = Cluster(server.address, namespace="", login=Login(token_file=file))
        run = cluster.start(package, pipeline=NAME, experiment="dubmill", account="")
        file.write_text("second\n")
        server.state.token = "second"
        cluster.wait(run, tell=lambda line: None, poll_seconds=0)
    assert server.state.tokens_seen[-1] == "second"


def test_the_token_of_a_pod_is_found(tmp_path, monkeypatch):
    file = tmp_path / "token"
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    assert default_token_file() is None
    file.write_text("x")
    assert default_token_file() == file


@pytest.mark.parametrize("is_gateway", [True, False])
@pytest.mark.parametrize("login", [Login(), Login(token="old")])
def test_a_missing_or_expired_login_is_named(login, is_gateway, package):
    with (
        Kubeflow(token="secret", redirects_to_login=is_gateway) as server,
        pytest.raises(ServiceUnavailableError) as raised,
    ):
        submit(server, package, login=login)
    assert "--token" in raised.value.cure
    assert raised.value.where == server.address


def test_a_kubeflow_for_many_users_needs_a_namespace_and_keeps_all_of_a_run_in_it(package):
    with Kubeflow(namespaces=("team",)) as server:
        with pytest.raises(UsageError) as raised:
            submit(server, package)
        assert "--namespace" in raised.value.cure
        submit(server, package, namespace="team")
        submit(server, package, namespace="team")
    assert {one["namespace"] for one in server.state.pipelines + server.state.experiments} == {"team"}
    assert len(server.state.pipelines) == 1


def test_a_stand_alone_kubeflow_takes_no_namespace(package):
    with Kubeflow() as server, pytest.raises(UsageError) as raised:
        submit(server, package, namespace="team")
    assert "--namespace" in raised.value.cure
    assert not server.state.uploads


def test_a_namespace_of_somebody_else_is_refused_with_the_servers_reason(package):
    with Kubeflow(namespaces=("team",)) as server, pytest.raises(ServiceUnavailableError) as raised:
        submit(server, package, namespace="other")
    assert "other" in raised.value.what
    assert not server.state.runs


def test_waiting_tells_each_change_once_and_ends_with_the_run(package):
    lines: list[str] = []
    with Kubeflow(run_states=["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]) as server:
        cluster = Cluster(server.address, namespace="", login=NO_LOGIN)
        run = cluster.start(package, pipeline=NAME, experiment="dubmill", account="")
        cluster.wait(run, tell=lines.append, poll_seconds=0)
    assert [line.split() for line in lines if "train" in line] == [
        ["train", "pending"],
        ["train", "running"],
        ["train", "succeeded"],
    ]


def test_a_run_that_fails_names_the_failed_task(package):
    with Kubeflow(run_states=["RUNNING", "FAILED"], failed_tasks=("train",)) as server:
        cluster = Cluster(server.address, namespace="", login=NO_LOGIN)
        run = cluster.start(package, pipeline=NAME, experiment="dubmill", account="")
        with pytest.raises(FailedRunError) as raised:
            cluster.wait(run, tell=lambda line: None, poll_seconds=0)
    assert "train failed" in raised.value.what
    assert raised.value.where == run.page


def test_a_host_that_is_no_address_or_no_kubeflow_is_one_error(package):
    with pytest.raises(ServiceUnavailableError):
        Cluster("not a url", namespace="", login=NO_LOGIN)
    with pytest.raises(ServiceUnavailableError):
        Cluster("http://127.0.0.1:9", namespace="", login=NO_LOGIN)


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines` in the project's folder, without the settings of this user."""
    environment = {**os.environ, "HOME": "/nonexistent"}
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_command_submits_waits_and_prints_the_page():
    with Kubeflow(token="secret") as server:
        done = call("submit", "--host", server.address, "--token", "secret", "--wait")
    assert done.returncode == 0, done.stderr
    assert f"{server.address}/#/runs/details/r1" in done.stdout
    assert "succeeded" in done.stdout


def test_an_unreachable_cluster_is_one_sentence():
    done = call("submit", "--host", "http://127.0.0.1:9")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "does not answer" in done.stderr


def test_a_recurring_run_starts_one_at_a_time_on_its_schedule(package):
    with Kubeflow() as server:
        cluster = Cluster(server.address, namespace="", login=NO_LOGIN)
        made = cluster.start(
            package, pipeline="dubmill-recurring", experiment="dubmill", account="promoter", cron="0 0 2 * * *"
        )
    assert made.page == f"{server.address}/#/recurringrun/details/s1"
    (schedule,) = server.state.recurring_runs
    assert schedule["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"
    assert (int(schedule["max_concurrency"]), schedule["no_catchup"]) == (1, True)
    assert schedule["service_account"] == "promoter"
    assert not server.state.runs
    assert [one["display_name"] for one in server.state.pipelines] == ["dubmill-recurring"]


def schedule(server: Kubeflow, package: Path, cron: str = "0 0 2 * * *", account: str = "promoter"):
    cluster = Cluster(server.address, namespace="", login=NO_LOGIN)
    return cluster.start(package, pipeline=NAME, experiment="dubmill", account=account, cron=cron)


def test_a_schedule_that_is_submitted_again_is_kept_and_not_doubled(package):
    with Kubeflow() as server:
        pages = [schedule(server, package).page for _ in range(3)]
    assert len(set(pages)) == len(server.state.recurring_runs) == server.state.num_schedules == 1


def test_a_disabled_schedule_that_is_submitted_again_is_enabled(package):
    with Kubeflow() as server:
        schedule(server, package)
        server.state.recurring_runs[0]["mode"] = "DISABLE"
        schedule(server, package)
    assert [one["mode"] for one in server.state.recurring_runs] == ["ENABLE"]


@pytest.mark.parametrize("change", ["code", "cron", "account"])
def test_another_schedule_takes_the_place_of_the_old_one_and_leaves_those_of_others(change, package, tmp_path):
    other = tmp_path / "code.yaml"
    compile_to(other, PARAMS, Target(**{**TARGET.__dict__, "code": "beef"}))
    with Kubeflow() as server:
        schedule(server, package)
        by_hand = {**server.state.recurring_runs[0], "display_name": "mine", "recurring_run_id": "h1"}
        server.state.recurring_runs.append(by_hand)
        schedule(
            server,
            other if change == "code" else package,
            "0 0 3 * * *" if change == "cron" else "0 0 2 * * *",
            "runner" if change == "account" else "promoter",
        )
    assert [one["recurring_run_id"] for one in server.state.recurring_runs] == ["h1", "s2"]


def test_a_schedule_that_could_not_be_replaced_is_mended_by_the_next_submission(package):
    with Kubeflow() as server:
        schedule(server, package)
        server.state.refuses_deletions = True
        with pytest.raises(ServiceUnavailableError):
            schedule(server, package, "0 0 3 * * *")
        assert len(server.state.recurring_runs) == 2
        server.state.refuses_deletions = False
        schedule(server, package, "0 0 3 * * *")
    (left,) = server.state.recurring_runs
    assert left["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"


def test_of_two_schedules_submitted_at_once_one_remains(package, monkeypatch):
    with Kubeflow() as server:
        schedule(server, package)
        server.state.recurring_runs.clear()
        create, is_first = Cluster._create_schedule, [True]

        def with_a_rival(self, *arguments):
            made = create(self, *arguments)
            if is_first:
                is_first.clear()
                schedule(server, package, "0 0 3 * * *")
            return made

        monkeypatch.setattr(Cluster, "_create_schedule", with_a_rival)
        schedule(server, package)
    (left,) = server.state.recurring_runs
    assert left["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"


def test_an_experiment_that_somebody_else_creates_meanwhile_is_used(package, monkeypatch):
    with Kubeflow() as server:
        from kfp import Client

        found, calls = Client.get_experiment, []

        def not_yet(self, **arguments):
            calls.append(arguments)
            if len(calls) == 1:
                server.state.experiments.append({"experiment_id": "e1", "display_name": "dubmill", "namespace": ""})
                raise ValueError("No experiment is found with name dubmill.")
            return found(self, **arguments)

        monkeypatch.setattr(Client, "get_experiment", not_yet)
        submit(server, package)
    assert [run["experiment_id"] for run in server.state.runs] == ["e1"]


@pytest.mark.parametrize("cron", ["0 2 * * *", "0 0 2 * * * 2027", "daily"])
def test_a_schedule_without_six_fields_is_refused_since_kubeflow_would_read_another(cron):
    """The server takes five fields for seconds to months; it refuses others."""
    with pytest.raises(UsageError, match="six"):
        check_schedule(cron)
    check_schedule("0 0 2 * * *")
    check_schedule("@daily")


def test_a_schedule_that_kubeflow_cannot_read_is_refused_with_its_reason(package):
    with Kubeflow() as server, pytest.raises(ServiceUnavailableError, match="5 to 6 fields"):
        schedule(server, package, "0 0 2 * * * 2027")


def test_a_pipeline_and_a_version_whose_display_names_somebody_changed_are_found(package):
    with Kubeflow() as server:
        submit(server, package)
        for one in server.state.pipelines + server.state.versions:
            one["display_name"] = "shown otherwise"
        run = submit(server, package)
    assert (run.is_new_version, len(server.state.runs), len(server.state.uploads)) == (False, 2, 2)
