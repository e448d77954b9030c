"""The roll of the InferenceService: alias and pods move together, or none does, whatever API call fails."""

from __future__ import annotations

import contextlib

import pytest
from doubles.kubernetes_api import KubernetesApi

from dubmill.errors import ServiceUnavailableError, UsageError
from dubmill.tracking import endpoint
from dubmill.tracking.endpoint import Folders, RolloutError, rollout

OLD, NEW = Folders.of("b" * 64, "1" * 64), Folders.of("b" * 64, "2" * 64)


@pytest.fixture
def api(monkeypatch):
    """An endpoint that serves the release OLD."""
    with KubernetesApi() as found:
        monkeypatch.setenv("DUBMILL_ENDPOINT", "dubmill/dubmill")
        monkeypatch.setenv("DUBMILL_KUBERNETES", found.address)
        for name in ("POLL_SECONDS", "WAIT_SECONDS"):
            monkeypatch.setattr(endpoint, name, 0.0)
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


def served(api: KubernetesApi) -> Folders:
    return Folders(api.pods["dubmill/backbone-folder"], api.pods["dubmill/release-folder"])


def promote(alias: Alias, folders: Folders = NEW) -> None:
    with rollout(folders, alias.is_at, ready_seconds=60):
        alias.place = folders


def test_the_endpoint_is_ready_with_the_release_before_the_alias_moves(api):
    alias, seen = Alias(), []
    with rollout(NEW, alias.is_at):
        seen.append((served(api), api.deployment()["status"]["replicas"]))
        alias.move()
    assert seen == [(NEW, 1)]
    assert api.service["metadata"]["annotations"] == {}
    assert api.pods["team"] == "a"  # of another manager


def test_a_release_that_fails_its_selftest_is_taken_back_and_the_alias_stays(api):
    alias = Alias()
    api.broken_folders.add(NEW.release)
    with pytest.raises(RolloutError, match="do not become ready"):
        promote(alias)
    assert (alias.place, served(api)) == (OLD, OLD)
    assert api.service["metadata"]["annotations"] == {}


def test_pods_that_take_too_long_are_taken_back(api, monkeypatch):
    monkeypatch.setattr(
        api, "deployment", lambda: {"metadata": {"generation": 9}, "spec": {"template": {"metadata": {}}}}
    )
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


NUM_CALLS = 6  # of a roll without faults; more come where calls are tried again


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
    assert api.service["metadata"]["annotations"] == {}


@pytest.mark.parametrize("has_moved", [True, False])
def test_a_process_killed_in_the_middle_leaves_what_the_next_call_sets_right(api, has_moved):
    alias = Alias()
    endpoint.Endpoint("dubmill/dubmill").point_to(NEW, coming_from=OLD)
    if has_moved:
        alias.move()
    with rollout(alias.place, alias.is_at):
        pass
    assert served(api) == alias.place
    assert api.service["metadata"]["annotations"] == {}


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
