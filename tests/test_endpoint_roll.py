"""The roll of the InferenceService: alias and pods move together, or none does, whatever API call fails."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
import yaml
from doubles.kserve_controller import DEPLOYMENTS, SERVICES, KServe
from doubles.kubernetes_api import kubectl

from dubmill.cluster import kubernetes
from dubmill.errors import ServiceUnavailableError, UsageError
from dubmill.tracking import endpoint, git
from dubmill.tracking.endpoint import Folders, RolloutError, rollout

DEPLOYMENT = f"{DEPLOYMENTS}/dubmill-predictor"
OLD, NEW = Folders.of("b" * 64, "1" * 64), Folders.of("b" * 64, "2" * 64)


@pytest.fixture
def api(monkeypatch):
    """An endpoint that serves the release OLD."""
    with KServe() as found:
        monkeypatch.setenv("DUBMILL_ENDPOINT", "dubmill/dubmill")
        monkeypatch.setenv("DUBMILL_KUBERNETES", found.address)
        monkeypatch.setattr(endpoint, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(kubernetes, "WAIT_SECONDS", 0.0)
        with rollout(OLD, lambda served: served == OLD):
            pass
        found.calls.clear()
        yield found


class Alias:
    """The alias champion, as the folders of its release."""

    def __init__(self) -> None:
        self.place = OLD

    def is_at(self, folders: Folders) -> bool:
        return self.place == folders

    def move(self, *, fails: bool = False) -> None:
        self.place = NEW
        if fails:
            raise OSError("the answer was lost")


def served(api: KServe) -> Folders:
    return Folders(api.pods["dubmill/backbone-folder"], api.pods["dubmill/release-folder"])


def promote(alias: Alias, folders: Folders = NEW, check=None) -> None:
    with rollout(folders, alias.is_at, check=check, ready_seconds=60):
        alias.place = folders


def test_the_endpoint_is_ready_with_the_release_before_the_alias_moves(api):
    alias, seen = Alias(), []
    with rollout(NEW, alias.is_at):
        seen.append((served(api), api.objects[DEPLOYMENT]["status"]["replicas"]))
        alias.move()
    assert seen == [(NEW, 1)]
    assert api.notes == {}
    assert api.pods["team"] == "a"  # of another manager


def test_a_release_that_fails_its_selftest_is_taken_back_and_the_alias_stays(api):
    alias = Alias()
    api.broken_folders.add(NEW.release)
    with pytest.raises(RolloutError, match="do not become ready"):
        promote(alias)
    assert (alias.place, served(api)) == (OLD, OLD)
    assert api.notes == {}


def test_the_promotion_after_one_that_failed_is_not_told_of_its_failure(api):
    """The Deployment shows the old condition until its controller has seen the new release."""
    alias = Alias()
    api.broken_folders.add(NEW.release)
    with pytest.raises(RolloutError):
        promote(alias)
    third = Folders.of("b" * 64, "3" * 64)
    promote(alias, third)
    assert (alias.place, served(api)) == (third, third)


def test_pods_that_take_too_long_are_taken_back(api, monkeypatch):
    monkeypatch.setattr(api, "look", lambda path: None)
    with pytest.raises(RolloutError), rollout(NEW, lambda served: False, ready_seconds=0):
        pass
    assert served(api) == OLD


def test_an_alias_that_does_not_move_takes_the_endpoint_back(api):
    alias = Alias()
    with pytest.raises(OSError, match="MLflow"), rollout(NEW, alias.is_at):
        raise OSError("MLflow")
    assert served(api) == OLD


def test_an_alias_that_moved_though_the_call_failed_keeps_the_endpoint(api):
    alias = Alias()
    with pytest.raises(OSError, match="answer"), rollout(NEW, alias.is_at):
        alias.move(fails=True)
    assert served(api) == NEW


NUM_CALLS = 7  # of a roll without faults; more come where calls are tried again


def test_a_roll_has_as_many_calls_as_are_made_to_fail(api):
    promote(Alias())
    assert len(api.calls) == NUM_CALLS


@pytest.mark.parametrize("fault", ["refused", "lost"])
@pytest.mark.parametrize("number", range(1, NUM_CALLS + 1))
def test_one_failed_call_is_tried_again_and_both_move(api, number, fault):
    alias = Alias()
    api.fault = lambda call: fault if call == number else ""
    promote(alias)
    assert (alias.place, served(api)) == (NEW, NEW)


@pytest.mark.parametrize("fault", ["refused", "lost"])
@pytest.mark.parametrize("first", range(1, NUM_CALLS + 1))
def test_an_api_that_goes_away_leaves_what_the_next_call_sets_right(api, first, fault):
    """From call `first` on nothing answers any more, and the process ends: the next promotion starts from one state."""
    alias = Alias()
    api.fault = lambda call: fault if call >= first else ""
    with pytest.raises(ServiceUnavailableError):
        promote(alias)
    api.fault = lambda call: ""
    third = Folders.of("b" * 64, "3" * 64)
    api.broken_folders.add(third.release)
    with contextlib.suppress(RolloutError):
        promote(alias, third)
    assert served(api) == alias.place
    assert alias.place in (OLD, NEW)
    assert api.notes == {}


@pytest.mark.parametrize("has_moved", [True, False])
def test_a_process_killed_in_the_middle_leaves_what_the_next_call_sets_right(api, has_moved):
    alias = Alias()
    endpoint.Endpoint("dubmill/dubmill").point_to(NEW, coming_from=OLD)
    if has_moved:
        alias.move()
    with rollout(alias.place, alias.is_at):
        pass
    assert served(api) == alias.place
    assert api.notes == {}


def test_without_an_endpoint_only_the_alias_moves(api, monkeypatch):
    monkeypatch.delenv("DUBMILL_ENDPOINT")
    alias = Alias()
    promote(alias)
    assert alias.place == NEW
    assert not api.calls


def test_an_endpoint_without_a_namespace_is_refused(api, monkeypatch):
    monkeypatch.setenv("DUBMILL_ENDPOINT", "dubmill")
    with pytest.raises(UsageError, match="namespace/name"):
        promote(Alias())


# The canary


def accept(address: str) -> None:
    """A check that the canary passes."""
    assert address == "http://dubmill-canary-predictor.dubmill"


def test_a_canary_is_checked_before_anything_moves_and_removed_afterwards(api):
    alias, seen = Alias(), []

    def check(address):
        accept(address)
        seen.append((served(api), api.canary["spec"]["predictor"]["annotations"]["dubmill/release-folder"]))

    promote(alias, check=check)
    assert seen == [(OLD, NEW.release)]
    assert (alias.place, served(api), api.canary, api.num_canaries) == (NEW, NEW, None, 1)


def test_a_canary_that_is_not_good_enough_moves_nothing(api):
    alias = Alias()

    def refuse(address):
        raise OSError("worse")

    with pytest.raises(OSError, match="worse"):
        promote(alias, check=refuse)
    api.broken_folders.add(NEW.release)
    with pytest.raises(RolloutError, match="do not become ready"):
        promote(alias, check=accept)
    assert (alias.place, served(api), api.canary) == (OLD, OLD, None)


def test_a_canary_has_no_volume_to_write_no_queue_or_key_of_the_endpoint_and_no_route_from_outside(api):
    volumes = [
        {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
        {"name": "ledger", "persistentVolumeClaim": {"claimName": "ledger"}},
    ]
    dropped = ["--database=postgresql://db", "--api_keys", "/keys/hashes", "--identity_header=x-user"]
    container = {"name": "kserve-container", "args": [*dropped, "--jobs=/ledger/jobs", "--name", "dubmill"]}
    api.service["spec"]["predictor"] |= {"volumes": volumes, "containers": [container], "maxReplicas": 4}
    api.service["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": "Standard", "other": "x"}
    seen = []
    promote(Alias(), check=lambda address: seen.append(copy.deepcopy(api.canary)))
    (canary,) = seen
    predictor = canary["spec"]["predictor"]
    assert predictor["volumes"] == [volumes[0], {"name": "ledger", "emptyDir": {}}]
    assert predictor["containers"][0]["args"] == ["--jobs=/ledger/jobs", "--name", "dubmill"]
    assert predictor["maxReplicas"] == 1
    assert canary["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
    assert canary["metadata"]["labels"] == {"networking.kserve.io/visibility": "cluster-local"}


NUM_CANARY_CALLS = 19  # of a roll with a canary and without faults


def test_a_roll_with_a_canary_has_as_many_calls_as_are_made_to_fail(api):
    promote(Alias(), check=accept)
    assert len(api.calls) == NUM_CANARY_CALLS


@pytest.mark.parametrize("fault", ["refused", "lost"])
@pytest.mark.parametrize("number", range(1, NUM_CANARY_CALLS + 1))
def test_one_failed_call_of_a_roll_with_a_canary_is_tried_again(api, number, fault):
    alias = Alias()
    api.fault = lambda call: fault if call == number else ""
    promote(alias, check=accept)
    assert (alias.place, served(api), api.canary) == (NEW, NEW, None)


@pytest.mark.parametrize("fault", ["refused", "lost"])
@pytest.mark.parametrize("first", range(1, NUM_CANARY_CALLS + 1))
def test_an_api_that_goes_away_with_a_canary_leaves_what_the_next_call_sets_right(api, first, fault):
    alias = Alias()
    api.fault = lambda call: fault if call >= first else ""
    with pytest.raises(ServiceUnavailableError):
        promote(alias, check=accept)
    api.fault = lambda call: ""
    third = Folders.of("b" * 64, "3" * 64)
    api.broken_folders.add(third.release)
    with pytest.raises(RolloutError):
        promote(alias, third, check=accept)
    assert served(api) == alias.place
    assert api.canary is None
    assert api.notes == {}


# Another client than ours speaks with the emulated API: kubectl


APPLY = ("apply", "--server-side", "--validate=false", "--field-manager")
STATUS = ("rollout", "status", "deployment/dubmill-predictor", "--timeout=60s")


def body_of(folders: Folders) -> dict:
    return endpoint.Endpoint("dubmill/dubmill")._pointing_to(folders, None)


def test_kubectl_sees_a_roll_as_we_do_and_counts_it_in_the_same_way(api):
    with rollout(NEW, lambda served: False):
        assert kubectl(api, *STATUS) == (0, 'deployment "dubmill-predictor" successfully rolled out\n')
        code, told = kubectl(api, "get", "inferenceservices/dubmill", "-o", "json")
        shown = json.loads(told)
        assert (code, endpoint._state_in(shown)) == (0, (NEW, OLD))
    third = Folders.of("b" * 64, "3" * 64)
    api.broken_folders.add(third.release)
    assert kubectl(api, *APPLY, "dubmill", "-f", "-", body=body_of(third))[0] == 0
    code, told = kubectl(api, *STATUS)
    assert (code, "exceeded its progress deadline" in told) == (1, True)
    with pytest.raises(RolloutError):
        endpoint.Endpoint("dubmill/dubmill").wait_ready(third, 60)


def test_a_field_of_ours_is_not_another_managers_unless_it_is_taken_by_force(api):
    code, told = kubectl(api, *APPLY, "somebody", "-f", "-", body=body_of(NEW))
    assert (code, "conflict" in told, served(api)) == (1, True, OLD)
    assert kubectl(api, *APPLY, "somebody", "--force-conflicts", "-f", "-", body=body_of(NEW))[0] == 0
    promote(Alias(), OLD)  # ours is by force
    assert served(api) == OLD


def test_kubectl_waits_as_we_do_until_a_deleted_canary_is_gone(api):
    seen = []

    def check(address):
        seen.append(kubectl(api, "delete", "inferenceservice/dubmill-canary", "--cascade=foreground")[0])
        assert api.canary is None

    promote(Alias(), check=check)
    assert seen == [0]
    assert kubectl(api, "get", "inferenceservice/dubmill-canary")[0] == 1


# GitOps: changes are commits


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A bare repository with one commit by somebody else, in place of writes to the API."""
    work, bare = tmp_path / "work", tmp_path / "deploy.git"
    work.mkdir()
    git.run(tmp_path, "git", "init", "-q", "--bare", "-b", "main", str(bare))
    git.run(work, "git", "init", "-q", "-b", "main")
    (work / "README").write_text("theirs")
    commit_and_push(work, bare)
    monkeypatch.setenv("DUBMILL_GITOPS", f"{bare}#main")
    return bare


def commit_and_push(work, bare):
    git.run(work, "git", "add", ".")
    git.run(work, "git", *git.IDENTITY, "commit", "-q", "-m", "theirs")
    git.run(work, "git", "push", "-q", str(bare), "HEAD:main")


class Controller:
    """Argo CD's part: what is committed reaches the cluster when the Deployment is looked at."""

    def __init__(self, api, repository):
        self.api, self.repository, self.look = api, repository, api.look

    def __call__(self, path):
        if path == DEPLOYMENT:
            self.api.apply(f"{SERVICES}/dubmill", yaml.safe_load(committed(self.repository)), "argocd")
        self.look(path)


def committed(repository):
    return git.run(repository, "git", "show", "main:dubmill/dubmill-release.yaml")


def test_with_gitops_the_endpoint_is_changed_by_commits_and_the_api_is_only_read(api, repository, monkeypatch):
    monkeypatch.setattr(api, "look", Controller(api, repository))
    alias = Alias()
    promote(alias)
    assert (alias.place, served(api)) == (NEW, NEW)
    assert not [call for call in api.calls if not call.startswith("GET")]
    assert git.run(repository, "git", "log", "--format=%s", "main").splitlines() == [
        f"dubmill serves {NEW.release}",
        f"dubmill serves {NEW.release}",
        "theirs",
    ]
    assert yaml.safe_load(committed(repository))["metadata"] == {"name": "dubmill", "annotations": {}}


def test_with_gitops_a_release_that_does_not_become_ready_is_reverted_by_a_commit(api, repository, monkeypatch):
    monkeypatch.setattr(api, "look", Controller(api, repository))
    alias = Alias()
    promote(alias)
    third = Folders.of("b" * 64, "3" * 64)
    api.broken_folders.add(third.release)
    with pytest.raises(RolloutError):
        promote(alias, third)
    assert (alias.place, endpoint.GitEndpoint("dubmill/dubmill", f"{repository}#main").state()) == (NEW, (NEW, None))


def test_with_gitops_a_push_of_somebody_else_in_between_is_kept(api, repository, monkeypatch, tmp_path):
    monkeypatch.setattr(api, "look", Controller(api, repository))
    push, rivals = git.is_pushed, ["RIVAL"]

    def after_a_rival(folder, *refs):
        if rivals:
            git.run(tmp_path, "git", "clone", "-q", str(repository), "rival")
            (tmp_path / "rival" / rivals.pop()).write_text("theirs")
            commit_and_push(tmp_path / "rival", repository)
        return push(folder, *refs)

    monkeypatch.setattr(git, "is_pushed", after_a_rival)
    alias = Alias()
    promote(alias)
    assert alias.place == NEW
    assert git.run(repository, "git", "show", "main:RIVAL") == "theirs"


def test_with_gitops_a_repository_that_refuses_leaves_alias_and_endpoint(api, repository, monkeypatch):
    hook = repository / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no >&2; exit 1\n")
    hook.chmod(0o755)
    alias = Alias()
    with pytest.raises(ServiceUnavailableError):
        promote(alias)
    assert (alias.place, served(api)) == (OLD, OLD)
