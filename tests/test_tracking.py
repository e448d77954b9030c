"""Registering and promoting against a real MLflow on SQLite."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from doubles.gated_pairs import make_pairs
from doubles.kserve_controller import KServe
from doubles.scorers import PlainScorers, plain_clip

from dubmill import media, tracking
from dubmill.artifacts.code import code_digest
from dubmill.artifacts.files import table_bytes
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, Backbone, Release, Report
from dubmill.cli import main as cli
from dubmill.cluster import kubernetes
from dubmill.config.params import PromoteParams, RegisterParams, load
from dubmill.errors import (
    BackboneMismatchError,
    DubmillError,
    InterruptedStepError,
    InvalidArtifactError,
    InvalidParamsError,
    PromotionRefusedError,
    ServiceUnavailableError,
    UsageError,
)
from dubmill.steps.promote import promote
from dubmill.steps.register import register
from dubmill.tracking import canary, endpoint, live, rules, runs
from dubmill.tracking.ledger import Entry, Ledger
from dubmill.tracking.live import live_losses
from dubmill.tracking.lock import promotion_lock
from dubmill.worlds.nano import NanoWorld

RULES = PromoteParams(
    improve=["words_right", "sync_correlation"],
    max_regression={"words_right": 0.02, "duration_gap_ms": 5.0},
    min_shares={"words_right": 0.3, "lse_d": 0.4},
    canary_clips=0,
    canary_max_regression={"words_right": 0.3},
)
SCORERS = load(Path(__file__).parents[1] / "params.yaml").scorers
METHODS = ("adapter", "base", "floor", "ceiling")
ROOT = Path(__file__).parents[1]
SAMPLING = {"num_steps": 2, "video_guidance": 1.0, "audio_guidance": 1.0}


@pytest.fixture(scope="session")
def client(tmp_path_factory):
    """A real MLflow on SQLite, shared: making its tables takes seconds. Each test has a model of its own name."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def do_not_wait_for_the_disk(connection, _):
        if isinstance(connection, sqlite3.Connection):  # every engine of the process is heard, those of other tests too
            connection.execute("PRAGMA synchronous=OFF")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mlflow"))
        if given := os.environ.get("DUBMILL_TEST_MLFLOW"):  # a server, such as one on PostgreSQL and S3
            patch.setenv("MLFLOW_TRACKING_URI", given)
            return given, tracking.client()
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        uri = tracking.tracking_uri()  # the default: in the working directory
        assert uri == f"sqlite:///{Path.cwd()}/mlflow.db"
        made = tracking.client()
        made.search_experiments()
    return uri, made


@pytest.fixture
def store(client, monkeypatch):
    """The client of that MLflow, which is also the one that the code under test uses."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client[0])
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return client[1]


@pytest.fixture
def backbone(tmp_path):
    draft = Backbone.draft(tmp_path / "backbone", Lineage(step="backbone", params={}, licence="Apache-2.0"))
    return draft.seal({"repo": "nano", "source": "nano", "text_encoder_digest": "t" * 64})


def make_adapter(out, backbone, *, seed=0):
    params = {"rank": 4, "seed": seed, "targets": ["to_q"], "learning_rate_groups": {"(audio_.*)?": 0.1}}
    lineage = Lineage(
        step="train",
        params=params,
        inputs={"LatentSet": "d" * 64},
        backbone=backbone.digest,
        text_encoder=backbone.text_encoder_digest,
        licence="Apache-2.0",
        pair_source="world",
    )
    draft = Adapter.draft(out, lineage)
    draft.write("adapter.safetensors", bytes([seed]) * 64)
    losses = [{"step": n, "video": 1 / n, "audio": 2 / n, "total": 3 / n, "lr": 0.1} for n in (1, 2, 3)]
    draft.write("losses.jsonl", "".join(json.dumps(row) + "\n" for row in losses).encode())
    return draft.seal({"rank": 4})


def make_report(out, adapter, pairs, *, words=0.5, sync=0.5, gap_ms=10.0, lse_d=0.6, salt=0, methods=METHODS):
    lineage = Lineage(
        step="evaluate", params={"salt": salt}, inputs={"Adapter": adapter.digest, "PairSet": pairs.digest}
    )
    draft = Report.draft(out, lineage)
    figures = {"words_right": words, "sync_correlation": sync, "duration_gap_ms": gap_ms, "lse_d": lse_d}
    of_method = {
        "adapter": figures,
        "base": dict.fromkeys(figures, 0.0),
        "floor": {"words_right": 0.0, "sync_correlation": 0.1, "duration_gap_ms": 0.0, "lse_d": 1.0},
        "ceiling": {"words_right": 1.0, "sync_correlation": 0.9, "duration_gap_ms": 0.0, "lse_d": 0.5},
    }
    rows = [
        {"pair_id": row.id, "method": method, **values}
        for method, values in of_method.items()
        for row in pairs.split("heldout")
        if method in methods
    ]
    draft.write("rows.parquet", table_bytes(rows))
    means = {name: {"mean": value, "num_clips": 2} for name, value in figures.items()}
    told = {"adapter": means, "summary": figures, "about": {"pair_source": "world", "is_toy": True}}
    draft.write("metrics.json", json.dumps(told).encode())
    draft.write("report.html", b"<p>look</p>")
    return draft.seal({"is_toy": True, "dub": {"sampling": SAMPLING, "adapter_strength": 1.0}})


def names(root):
    """The experiment and the model of one test."""
    return RegisterParams(experiment=root.name, model=root.name)


class Candidate:
    """One adapter on its way from training to promotion."""

    def __init__(self, root, backbone, pairs, *, seed=0, **figures):
        self.root, self.backbone, self.pairs, self.names = root, backbone, pairs, names(root)
        self.folder = root / f"line-{seed}"
        self.adapter = make_adapter(self.folder / "train", backbone, seed=seed)
        self.report = make_report(self.folder / "evaluate", self.adapter, pairs, **figures)

    def register(self):
        return register(self.adapter, self.report, self.names, self.folder / "register")

    def promote(self, rules=RULES):
        self.register()
        return self.promote_only(rules)

    def promote_only(self, rules=RULES):
        given = self.backbone, self.adapter, self.report, self.pairs, self.folder / "register"
        return promote(*given, self.names, SCORERS, rules, self.root / "promote")


@pytest.fixture
def pairs(tmp_path):
    return make_pairs(tmp_path / "pairs")


def number(root, alias="champion"):
    found = tracking.aliased(root.name, alias)
    return found.number if found else None


def entries(root):
    return [(one.decision, one.version, one.previous) for one in Ledger(root / "promotions.jsonl").entries]


def test_a_registered_version_carries_its_lineage_figures_curves_and_card(tmp_path, store, backbone, pairs):
    line = Candidate(tmp_path, backbone, pairs, words=0.75)
    told = json.loads(line.register().read_bytes())
    version = tracking.aliased(tmp_path.name, "challenger")
    assert (told["name"], told["version"], told["run_id"]) == (tmp_path.name, 1, version.run_id)
    assert version.tags["adapter_digest"] == line.adapter.digest
    assert version.tags["input.LatentSet"] == "d" * 64
    assert (version.tags["licence"], version.tags["pair_source"]) == ("Apache-2.0", "world")
    run = store.get_run(version.run_id)
    assert (run.info.status, run.data.params["train.rank"]) == ("FINISHED", "4")
    assert run.data.params["train.learning_rate_groups"] == '{"(audio_.*)?": 0.1}'
    assert run.data.metrics["adapter.words_right.mean"] == 0.75
    curve = store.get_metric_history(version.run_id, "loss.video")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    logged = Path(store.download_artifacts(version.run_id, "adapter", str(tmp_path)))
    assert Adapter.open(logged).digest == line.adapter.digest
    card = Path(store.download_artifacts(version.run_id, "card.md", str(tmp_path))).read_text()
    assert "nano" in card
    assert "| words_right | 0.75 |" in card


def test_a_run_holds_the_params_of_every_section_and_its_inputs_as_datasets(tmp_path, store, backbone, pairs):
    line, values = Candidate(tmp_path, backbone, pairs), load(ROOT / "params.yaml")
    register(line.adapter, line.report, line.names, line.folder / "register", ("git@host:data", "a" * 40), values)
    run = store.get_run(tracking.aliased(tmp_path.name, "challenger").run_id)
    sections = {name.split(".")[0] for name in run.data.params}
    assert sections == set(type(values).model_fields)
    assert run.data.params["prompts.num_train"] == str(values.prompts.num_train)
    datasets = {one.dataset.name: one.dataset for one in run.inputs.dataset_inputs}
    assert datasets["PairSet"].digest == pairs.digest[:36]
    assert set(datasets) == {"LatentSet", "Adapter", "PairSet"}
    assert json.loads(datasets["PairSet"].source)["uri"] == f"git@host:data@{'a' * 40}"


def test_registering_the_same_adapter_again_gives_the_same_version_and_run(tmp_path, store, backbone, pairs):
    line = Candidate(tmp_path, backbone, pairs)
    first, second = line.register().read_bytes(), line.register().read_bytes()
    assert first == second
    assert len(store.search_model_versions(f"name = '{tmp_path.name}'")) == 1
    assert len(store.search_runs([store.get_experiment_by_name(tmp_path.name).experiment_id])) == 1


def test_a_registration_killed_before_the_version_was_made_goes_on_in_its_run(
    tmp_path, store, backbone, pairs, monkeypatch
):
    line = Candidate(tmp_path, backbone, pairs)
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "create_version", _killed)
        with pytest.raises(KeyboardInterrupt):
            line.register()
    assert not (line.folder / "register" / "model_version.json").exists()
    assert run_states(store, tmp_path.name) == ["KILLED"]
    told = json.loads(line.register().read_bytes())
    assert len(store.search_runs([store.get_experiment_by_name(tmp_path.name).experiment_id])) == 1
    assert len(store.get_metric_history(told["run_id"], "loss.total")) == 3
    assert run_states(store, tmp_path.name) == ["FINISHED"]


def test_an_adapter_registered_under_another_name_leaves_the_first_versions_run_alone(
    tmp_path, store, backbone, pairs, monkeypatch
):
    line, values, other = Candidate(tmp_path, backbone, pairs), load(ROOT / "params.yaml"), f"{tmp_path.name}-other"
    register(line.adapter, line.report, line.names, line.folder / "register", ("", ""), values)
    first = store.get_run(tracking.aliased(tmp_path.name, "challenger").run_id)
    renamed = line.names.model_copy(update={"model": other})
    prompts = values.prompts.model_copy(update={"num_train": values.prompts.num_train + 1})
    values = values.model_copy(update={"prompts": prompts})
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "create_version", _killed)
        with pytest.raises(KeyboardInterrupt):
            register(line.adapter, line.report, renamed, tmp_path / "second", ("", ""), values)
    register(line.adapter, line.report, renamed, tmp_path / "second", ("", ""), values)
    second = tracking.aliased(other, "challenger")
    assert sorted(run_states(store, tmp_path.name)) == ["FINISHED", "FINISHED"]
    unchanged = store.get_run(first.info.run_id)
    assert unchanged.info.end_time == first.info.end_time
    assert unchanged.data.to_dictionary() == first.data.to_dictionary()
    assert second.run_id != first.info.run_id


def all_runs(store, experiment):
    found = store.get_experiment_by_name(experiment)
    return store.search_runs([found.experiment_id]) if found else []


def run_states(store, experiment):
    return [run.info.status for run in all_runs(store, experiment)]


def _killed(*_args, **_kwargs):
    raise KeyboardInterrupt


def test_a_given_run_is_used_and_left_open(tmp_path, store, backbone, pairs, monkeypatch):
    run = store.create_run(
        store.create_experiment(f"{tmp_path.name}-mine", artifact_location=(tmp_path / "mine").as_uri())
    )
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert json.loads(Candidate(tmp_path, backbone, pairs).register().read_bytes())["run_id"] == run.info.run_id
    assert store.get_run(run.info.run_id).info.status == "RUNNING"
    with pytest.raises(UsageError, match=r"train\.seed"):
        Candidate(tmp_path, backbone, pairs, seed=1).register()
    monkeypatch.setenv("MLFLOW_RUN_ID", "nothing")
    with pytest.raises(UsageError, match="MLFLOW_RUN_ID"):
        Candidate(tmp_path, backbone, pairs, seed=2).register()


def test_a_report_of_another_adapter_is_not_registered(tmp_path, store, backbone, pairs):
    line, other = (Candidate(tmp_path, backbone, pairs, seed=seed) for seed in (0, 1))
    with pytest.raises(UsageError, match="another adapter"):
        register(line.adapter, other.report, names(tmp_path), tmp_path / "register")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/", "http://someone:secret@127.0.0.1:9", "sqlite:////no/such/m.db"])
def test_an_unreachable_server_is_one_quick_sentence(uri, tmp_path, backbone, pairs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    with pytest.raises(ServiceUnavailableError) as caught:
        Candidate(tmp_path, backbone, pairs).register()
    assert time.monotonic() - began < 5
    assert "\n" not in caught.value.sentence
    assert "MLFLOW_TRACKING_URI" in caught.value.sentence
    assert "secret" not in caught.value.sentence


def test_the_first_challenger_above_its_shares_becomes_champion_with_a_release(tmp_path, store, backbone, pairs):
    line = Candidate(tmp_path, backbone, pairs)
    release = line.promote()
    assert number(tmp_path) == 1
    assert entries(tmp_path) == [("promoted", 1, None)]
    opened = Release.open(tmp_path / "promote")
    assert opened.digest == release.digest == store.get_model_version(tmp_path.name, "1").tags["release_digest"]
    assert Adapter.open(opened.path / "adapter").digest == line.adapter.digest == opened.info["adapter_digest"]
    assert (opened.path / "selftest.clip").read_bytes() == pairs.data("held-0", "original.clip")
    assert opened.info["selftest"] == {"language": "es", "text": "uno"}
    clip = {"num_frames": 5, "height": 8, "width": 8, "frame_rate": "25/2", "sample_rate_hz": 16000}
    assert opened.info["clip"] == clip
    assert (opened.info["sampling"], opened.info["strength"]) == (SAMPLING, 1.0)
    assert "nano" in (opened.path / "README.md").read_text()
    assert "Apache-2.0" in (opened.path / "NOTICE").read_text()


def test_a_first_challenger_below_its_share_of_a_ceiling_is_refused(tmp_path, store, backbone, pairs):
    with pytest.raises(
        PromotionRefusedError, match=r"words_right is 0.2, 20% of the way.*; lse_d is 0.9, 20% of the way"
    ):
        Candidate(tmp_path, backbone, pairs, words=0.2, lse_d=0.9).promote()
    assert number(tmp_path) is None
    assert not (tmp_path / "promote").exists()


def test_a_first_challenger_with_frozen_lips_is_refused_by_the_committed_params():
    """It says every word in the right voice; the mouth does not move."""
    committed = load(ROOT / "params.yaml").promote
    frozen = dict.fromkeys(committed.min_shares, 1.0) | {"sync_correlation": 0.0, "lse_c": 0.03}
    rows = [
        {"pair_id": "a", "method": method, **values}
        for method, values in {
            "adapter": frozen,
            "floor": dict.fromkeys(committed.min_shares, 0.0),
            "ceiling": dict.fromkeys(committed.min_shares, 1.0),
        }.items()
    ]
    reasons = list(rules.below_shares(rows, committed.min_shares))
    assert [reason.split()[0] for reason in reasons] == ["sync_correlation", "lse_c"]


def test_a_report_without_floor_and_ceiling_promotes_nothing(tmp_path, store, backbone, pairs):
    with pytest.raises(PromotionRefusedError, match="words_right.*floor, ceiling"):
        Candidate(tmp_path, backbone, pairs, methods=("adapter", "base")).promote()


def test_a_neutral_metric_cannot_be_a_condition():
    with pytest.raises(InvalidParamsError, match="loudness_dbfs"):
        rules.directions(["loudness_dbfs"])


def test_a_worse_challenger_is_refused_with_all_reasons_and_nothing_moves(tmp_path, store, backbone, pairs):
    release = Candidate(tmp_path, backbone, pairs, words=0.9).promote()
    worse = Candidate(tmp_path, backbone, pairs, seed=1, words=0.8, sync=0.5, gap_ms=20.0)
    for _ in range(2):
        with pytest.raises(PromotionRefusedError) as caught:
            worse.promote()
    for reason in ("words_right is worse", "duration_gap_ms is worse", "no metric of promote.improve"):
        assert reason in caught.value.sentence
    assert number(tmp_path) == 1
    assert Release.open(tmp_path / "promote").digest == release.digest
    assert entries(tmp_path) == [("promoted", 1, None), ("refused", 2, 1)]
    assert store.get_model_version(tmp_path.name, "2").tags["promotion"] == "refused"


def test_a_better_challenger_takes_over_once_however_often_it_is_promoted(tmp_path, store, backbone, pairs):
    Candidate(tmp_path, backbone, pairs).promote()
    better = Candidate(tmp_path, backbone, pairs, seed=1, words=0.6)
    digests = {better.promote().digest for _ in range(2)}
    assert (number(tmp_path), number(tmp_path, "previous")) == (2, 1)
    assert entries(tmp_path) == [("promoted", 1, None), ("promoted", 2, 1)]
    assert len(digests) == 1


def test_a_promotion_killed_at_one_place_after_another_ends_as_if_it_never_was(
    tmp_path, store, backbone, pairs, monkeypatch
):
    Candidate(tmp_path, backbone, pairs).promote()
    better = Candidate(tmp_path, backbone, pairs, seed=1, words=0.6)
    better.register()
    move = tracking.registry.move_alias
    half = lambda alias, version: move(alias, version) if alias == "previous" else _killed()  # noqa: E731
    places = [(tracking, "promote_alias", _killed), (tracking.registry, "move_alias", half)]
    places += [(tracking, "record", _killed), (tracking.registry, "tag_version", _killed)]
    champions = []
    for where, what, broken in [*places, (tracking, "tag_version", _killed)]:
        with monkeypatch.context() as patch:
            patch.setattr(where, what, broken)
            with pytest.raises(KeyboardInterrupt):
                better.promote_only()
        champions.append(number(tmp_path))
        assert Release.open(tmp_path / "promote").info["version"] == 2  # sealed before anything moved
    assert champions == [1, 1, 2, 2, 2]
    better.promote_only()
    assert (number(tmp_path), number(tmp_path, "previous")) == (2, 1)
    assert entries(tmp_path) == [("promoted", 1, None), ("promoted", 2, 1)]
    tags = store.get_model_version(tmp_path.name, "2").tags
    assert len([key for key in tags if key.startswith("promotion.")]) == 1
    assert tags["release_digest"] == Release.open(tmp_path / "promote").digest


def test_a_torn_ledger_line_is_passed_over(tmp_path):
    ledger = Ledger(tmp_path / "promotions.jsonl")
    ledger.path.write_text('{"time": "2025-0')
    entry = Entry(name="m", version=1, previous=None, digest="d", decision="promoted", reasons=[])
    ledger.append(entry)
    assert ledger.append(entry.model_copy(update={"time": "later"})) == entry
    assert ledger.entries == [entry]


def test_other_heldout_clips_of_the_same_names_are_not_compared(tmp_path, store, backbone, pairs):
    first = Candidate(tmp_path, backbone, pairs)
    first.promote()
    other = make_pairs(tmp_path / "other", seed=5)
    challenger = Candidate(tmp_path, backbone, other, seed=1, words=0.9)
    with pytest.raises(PromotionRefusedError, match="evaluate the champion on the same clips"):
        challenger.promote()
    first.report = make_report(tmp_path / "again", first.adapter, other, salt=1)  # the cure
    first.register()
    challenger.promote()
    assert number(tmp_path) == 2


def test_the_same_heldout_clips_in_another_set_of_pairs_are_compared(tmp_path, store, backbone, pairs):
    Candidate(tmp_path, backbone, pairs).promote()
    regated = make_pairs(tmp_path / "regated", noise=1)
    assert regated.digest != pairs.digest
    Candidate(tmp_path, backbone, regated, seed=1, words=0.9).promote()
    assert number(tmp_path) == 2


def test_a_rollback_is_done_once_and_noted(tmp_path, store, backbone, pairs):
    for seed in (0, 1):
        Candidate(tmp_path, backbone, pairs, seed=seed, words=0.5 + seed / 10).promote()
    ledger = Ledger(tmp_path / "promotions.jsonl")
    assert tracking.rollback(tmp_path.name, ledger).number == number(tmp_path) == 1
    assert entries(tmp_path)[-1] == ("rolled back", 1, 2)
    with pytest.raises(UsageError, match="no previous version"):
        tracking.rollback(tmp_path.name, ledger)


def test_the_command_rollback_makes_the_previous_version_champion(tmp_path, store, backbone, pairs):
    for seed in (0, 1):
        Candidate(tmp_path, backbone, pairs, seed=seed, words=0.5 + seed / 10).promote()
    overlay = tmp_path / "model.yaml"
    overlay.write_text(f"register: {{model: {tmp_path.name}}}")
    options = ["--ledger", str(tmp_path / "promotions.jsonl"), "--params", str(ROOT / "params.yaml")]
    cli.app(["rollback", *options, "--overlay", str(overlay)], standalone_mode=False)
    assert number(tmp_path) == 1
    assert entries(tmp_path)[-1] == ("rolled back", 1, 2)


def test_a_rollback_killed_half_way_ends_the_same_when_repeated(tmp_path, store, backbone, pairs, monkeypatch):
    for seed in (0, 1):
        Candidate(tmp_path, backbone, pairs, seed=seed, words=0.5 + seed / 10).promote()
    ledger = Ledger(tmp_path / "promotions.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(tracking.registry, "record", _killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.rollback(tmp_path.name, ledger)
    tracking.rollback(tmp_path.name, ledger)
    assert number(tmp_path) == 1
    assert entries(tmp_path)[-1] == ("rolled back", 1, 2)


def test_things_that_do_not_belong_together_are_refused(tmp_path, store, backbone, pairs):
    line = Candidate(tmp_path, backbone, pairs)
    with pytest.raises(InvalidArtifactError, match="run `dubmill step register`"):
        line.promote_only()
    line.register()
    line.report = make_report(tmp_path / "newer", line.adapter, pairs, words=0.9)
    with pytest.raises(UsageError, match="with this adapter and this report"):
        line.promote_only()
    other = Backbone.draft(tmp_path / "b2", Lineage(step="backbone", params={"x": 1})).seal({"repo": "nano"})
    line.backbone = other
    with pytest.raises(BackboneMismatchError):
        line.promote_only()
    unknown = RULES.model_copy(update={"improve": ["niceness"]})
    with pytest.raises(InvalidParamsError, match="niceness"):
        Candidate(tmp_path, backbone, pairs, seed=3).promote(unknown)


def test_a_changed_report_of_the_champion_is_noticed(tmp_path, store, backbone, pairs):
    Candidate(tmp_path, backbone, pairs).promote()
    run = store.get_run(tracking.aliased(tmp_path.name, "champion").run_id)
    stored = next(Path(run.info.artifact_uri.removeprefix("file://")).rglob("rows.parquet"))
    stored.write_bytes(table_bytes([{"pair_id": "held-0", "method": "adapter", "words_right": 0.0}]))
    with pytest.raises(InvalidArtifactError, match="has changed"):
        Candidate(tmp_path, backbone, pairs, seed=1, words=0.9).promote()


def test_the_releases_kserve_manifest_is_the_clusters_with_image_and_release_put_in(tmp_path, store, backbone, pairs):
    release = Candidate(tmp_path, backbone, pairs).promote()
    manifest = yaml.safe_load((release.path / "inferenceservice.yaml").read_text())
    expected = yaml.safe_load((ROOT / "k8s/base/predictor.yaml").read_text())
    annotations = manifest["spec"]["predictor"]["annotations"]
    assert release.info["adapter_digest"][:12] in annotations["dubmill/release"]
    (container,) = manifest["spec"]["predictor"]["containers"]
    recipe = subprocess.run(["make", "-n", "images"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"-t {container['image']} " in recipe
    expected["spec"]["predictor"]["annotations"] = annotations
    expected["spec"]["predictor"]["containers"][0]["image"] = container["image"]
    assert manifest == expected


def test_a_version_says_which_code_and_which_kubeflow_run_made_it(tmp_path, store, backbone, pairs, monkeypatch):
    monkeypatch.setenv("DUBMILL_CODE", "c0de")
    monkeypatch.setenv("KFP_RUN_ID", "run-7")
    Candidate(tmp_path, backbone, pairs).register()
    version = tracking.aliased(tmp_path.name, "challenger")
    assert (version.tags["code_digest"], version.tags["kfp_run_id"]) == ("c0de", "run-7")
    assert store.get_run(version.run_id).data.params["evaluate.salt"] == "0"


def test_outside_of_kubeflow_the_code_is_still_named_by_its_digest(tmp_path, store, backbone, pairs, monkeypatch):
    for name in ("DUBMILL_CODE", "KFP_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    Candidate(tmp_path, backbone, pairs).register()
    tags = tracking.aliased(tmp_path.name, "challenger").tags
    assert tags["code_digest"] == code_digest()
    assert "kfp_run_id" not in tags


def test_weights_are_in_the_registrys_store_whatever_their_size_and_wherever_the_pod_was(
    tmp_path, store, backbone, pairs
):
    candidate = Candidate(tmp_path, backbone, pairs)
    candidate.register()
    version = tracking.aliased(tmp_path.name, "challenger")
    shutil.rmtree(candidate.folder / "train")
    logged = Path(store.download_artifacts(version.run_id, "adapter", str(tmp_path)))
    assert Adapter.open(logged).digest == candidate.adapter.digest
    assert "reference.json" not in [path.name for path in logged.iterdir()]


def test_a_store_that_holds_other_bytes_than_were_sent_is_noticed_before_there_is_a_version(
    tmp_path, store, backbone, pairs, monkeypatch
):
    send = type(store).log_artifact

    def truncate(self, run_id, local_path, artifact_path=None):
        if local_path.endswith(".safetensors"):
            shorter = tmp_path / Path(local_path).name
            shorter.write_bytes(Path(local_path).read_bytes()[:-1])
            local_path = str(shorter)
        return send(self, run_id, local_path, artifact_path)

    monkeypatch.setattr(type(store), "log_artifact", truncate)
    with pytest.raises(InvalidArtifactError) as raised:
        Candidate(tmp_path, backbone, pairs).register()
    assert "adapter.safetensors" in raised.value.what
    assert tracking.aliased(tmp_path.name, "challenger") is None


def test_of_two_promotions_at_once_one_wins_and_the_other_is_compared_with_it(tmp_path, store, backbone, pairs):
    """Both were measured before either was champion; without a lock each would replace the other unseen."""
    better = Candidate(tmp_path, backbone, pairs, seed=1, words=0.9, sync=0.9)
    worse = Candidate(tmp_path, backbone, pairs, seed=2, words=0.6, sync=0.6)
    for candidate in (better, worse):
        candidate.register()

    def attempt(candidate):
        given = backbone, candidate.adapter, candidate.report, pairs, candidate.folder / "register"
        try:
            promote(*given, candidate.names, SCORERS, RULES, candidate.folder / "promote")
        except PromotionRefusedError:
            return "refused"
        return "promoted"

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, (better, worse)))
    version = tracking.find_version(tmp_path.name, better.adapter.digest)
    assert outcomes[0] == "promoted"
    assert number(tmp_path) == version.number
    previous = number(tmp_path, "previous")
    assert (outcomes[1] == "promoted") == (previous is not None)


def assert_locked(name):
    """Nobody else gets the lock."""
    with pytest.raises(ServiceUnavailableError) as raised, promotion_lock(name, wait_seconds=0, poll_seconds=0):
        pytest.fail("two held the lock")
    assert "under way" in raised.value.what


def test_a_promotion_waits_for_the_one_under_way_and_gives_up_in_the_end(tmp_path, store):
    with promotion_lock(tmp_path.name):
        assert_locked(tmp_path.name)
    with promotion_lock(tmp_path.name, wait_seconds=0):
        assert_locked(tmp_path.name)


def test_a_lock_that_a_killed_promotion_left_is_removed(tmp_path, store):
    store.create_registered_model(f"{tmp_path.name}.promotion-lock")
    assert_locked(tmp_path.name)
    with promotion_lock(tmp_path.name, wait_seconds=0, stale_seconds=0):
        assert_locked(tmp_path.name)
    assert not [model for model in store.search_registered_models() if "promotion-lock" in model.name]


def test_a_lock_that_is_held_for_long_is_renewed_and_not_taken_for_a_left_one(tmp_path, store, monkeypatch):
    """A roll of LTX-2 holds the lock for an hour; it was taken away after ten minutes, and two promotions ran at once."""
    lock = f"{tmp_path.name}.promotion-lock"
    with promotion_lock(tmp_path.name, renew_seconds=0.01):
        first = store.get_registered_model(lock).last_updated_timestamp
        while store.get_registered_model(lock).last_updated_timestamp == first:
            time.sleep(0.01)
    created = store.create_registered_model(lock).creation_timestamp
    while (updated := store.update_registered_model(lock, description="renewed").last_updated_timestamp) < created + 20:
        time.sleep(0.01)
    monkeypatch.setattr(time, "time", lambda: updated / 1000 + 599.99)
    with pytest.raises(ServiceUnavailableError), promotion_lock(tmp_path.name, wait_seconds=0):
        pass


def test_a_promotion_judges_and_moves_the_alias_under_the_lock(tmp_path, store, backbone, pairs, monkeypatch):
    champions, lock = [], tracking.promotion_lock

    @contextlib.contextmanager
    def watched(name):
        champions.append(number(tmp_path))
        with lock(name):
            yield
        champions.append(number(tmp_path))

    candidate = Candidate(tmp_path, backbone, pairs, words=0.9)
    candidate.register()
    monkeypatch.setattr(tracking, "promotion_lock", watched)
    candidate.promote_only()
    assert champions == [None, 1]


def test_a_recurring_run_trains_where_data_or_champion_is_a_new_one_and_only_then(tmp_path, store, backbone, pairs):
    model = tmp_path.name

    def go(seed, revision, **figures):
        line = Candidate(tmp_path, backbone, pairs, seed=seed, **figures)
        register(line.adapter, line.report, line.names, line.folder / "register", ("repo", revision))
        return line

    assert "no version" in tracking.reason_to_train(model, "a" * 40)
    go(1, "a" * 40).promote_only()
    assert tracking.reason_to_train(model, "a" * 40) == ""  # the champion comes from it
    assert "no version" in tracking.reason_to_train(model, "b" * 40)
    go(2, "b" * 40, words=0.5)
    assert tracking.reason_to_train(model, "b" * 40) == ""  # it was compared with the champion
    go(3, "c" * 40, words=0.9, sync=0.9).promote_only()
    assert "became champion" in tracking.reason_to_train(model, "b" * 40)
    go(2, "b" * 40, words=0.5)
    assert tracking.reason_to_train(model, "b" * 40) == ""


@pytest.fixture
def api(tmp_path, monkeypatch):
    """An emulated Kubernetes API with one InferenceService, and the volume that its pods read."""
    with KServe() as found:
        monkeypatch.setenv("DUBMILL_ENDPOINT", "dubmill/dubmill")
        monkeypatch.setenv("DUBMILL_KUBERNETES", found.address)
        monkeypatch.setenv("DUBMILL_MODELS", str(tmp_path / "volume"))
        monkeypatch.setattr(endpoint, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(kubernetes, "WAIT_SECONDS", 0.0)
        yield found


def served_release(tmp_path, api):
    """The digest of the release that the pods read."""
    return Release.open(tmp_path / "volume" / api.pods["dubmill/release-folder"] / "release").digest


def test_a_promotion_and_a_rollback_move_alias_volume_and_endpoint_together(tmp_path, store, backbone, pairs, api):
    first = Candidate(tmp_path, backbone, pairs, seed=1).promote()
    assert served_release(tmp_path, api) == first.digest
    second = Candidate(tmp_path, backbone, pairs, seed=2, words=0.9).promote()
    assert (number(tmp_path), served_release(tmp_path, api)) == (2, second.digest)
    tracking.rollback(tmp_path.name, Ledger(tmp_path / "promotions.jsonl"))
    assert (number(tmp_path), served_release(tmp_path, api)) == (1, first.digest)
    backbones = {path.parent for path in (tmp_path / "volume" / "rolled").glob("*/backbone")}
    assert len(backbones) == 1  # kept once for both releases


def test_a_release_that_the_endpoint_does_not_take_does_not_become_champion(tmp_path, store, backbone, pairs, api):
    first = Candidate(tmp_path, backbone, pairs, seed=1).promote()
    better = Candidate(tmp_path, backbone, pairs, seed=2, words=0.9)
    api.takes_new_releases = False
    with pytest.raises(endpoint.RolloutError):
        better.promote()
    assert (number(tmp_path), served_release(tmp_path, api)) == (1, first.digest)
    assert [one[0] for one in entries(tmp_path)] == ["promoted"]
    api.takes_new_releases = True
    second = better.promote_only()
    assert (number(tmp_path), served_release(tmp_path, api)) == (2, second.digest)


class CanaryClient:
    """The endpoint's client: every dub is the clip that a test sets; silence is what a broken model gives."""

    loudness = 0.5

    def __init__(self, address, **_):
        assert address == "http://dubmill-canary-predictor.dubmill"

    def dub(self, path, *, to, text, consent):
        assert (path.stat().st_size > 0, to, text, bool(consent)) == (True, "es", "uno", True)
        sound = np.full((1, 6400), self.loudness, np.float32) * np.sign(np.sin(np.arange(6400)))
        return media.mp4_bytes(plain_clip(np.full((5, 8, 8, 3), 99, np.uint8), sound.astype(np.float32)))


class HearingScorers(PlainScorers):
    """Scorers that hear the right word in every clip that is not silent."""

    def words(self, audio_N):
        return [("es", "uno")] if np.any(audio_N) else []


@pytest.fixture
def canary_dubs(monkeypatch):
    """Rules with a canary of one clip."""
    monkeypatch.setattr(canary, "DubClient", CanaryClient)
    monkeypatch.setattr(NanoWorld, "scorers", lambda world, params: HearingScorers())
    return RULES.model_copy(update={"canary_clips": 1})


def test_a_canary_whose_dubs_are_as_good_as_measured_lets_the_release_in(
    tmp_path, store, backbone, pairs, api, canary_dubs
):
    release = Candidate(tmp_path, backbone, pairs, words=0.7).promote(canary_dubs)
    assert (number(tmp_path), served_release(tmp_path, api), api.num_canaries) == (1, release.digest, 1)


def test_a_canary_whose_dubs_are_worse_than_measured_moves_nothing(
    tmp_path, store, backbone, pairs, api, canary_dubs, monkeypatch
):
    first = Candidate(tmp_path, backbone, pairs, seed=1, words=0.6).promote(canary_dubs)
    monkeypatch.setattr(CanaryClient, "loudness", 0.0)
    with pytest.raises(canary.CanaryError, match="words_right is 0, and was 0.9 in the report"):
        Candidate(tmp_path, backbone, pairs, seed=2, words=0.9).promote(canary_dubs)
    assert (number(tmp_path), served_release(tmp_path, api), api.canary) == (1, first.digest, None)


def test_a_canary_that_no_held_out_clip_can_try_is_refused(pairs):
    with pytest.raises(canary.CanaryError, match="no held-out pair"):
        canary.check_dubs("http://canary", pairs=pairs, measured={}, scorers=PlainScorers(), params=RULES)


def test_an_alias_that_cannot_move_takes_the_endpoint_back(tmp_path, store, backbone, pairs, api, monkeypatch):
    first = Candidate(tmp_path, backbone, pairs, seed=1).promote()
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "set_registered_model_alias", failing_for("champion", type(store)))
        with pytest.raises(ServiceUnavailableError):
            Candidate(tmp_path, backbone, pairs, seed=2, words=0.9).promote()
    assert (number(tmp_path), served_release(tmp_path, api)) == (1, first.digest)


def failing_for(alias, client_class):
    """MLflow's call that sets an alias, failing for this one."""
    from mlflow.exceptions import MlflowException

    real = client_class.set_registered_model_alias

    def call(self, name, given, version):
        if given == alias:
            raise MlflowException("the database is locked")
        return real(self, name, given, version)

    return call


def test_losses_are_in_mlflow_while_the_training_runs_and_the_version_is_registered_in_the_same_run(
    tmp_path, store, backbone, pairs, monkeypatch
):
    monkeypatch.setenv("DUBMILL_EXPERIMENT", tmp_path.name)
    candidate = Candidate(tmp_path, backbone, pairs)
    lines = candidate.adapter.file("losses.jsonl").read_text().splitlines(keepends=True)
    growing = tmp_path / "losses.jsonl"
    for attempt in range(2):  # the second continues, as after a kill
        with live_losses(growing, name="train-1", poll_seconds=0.01) as tag_run:
            growing.write_text("".join(lines[: 1 + attempt]) + lines[1 + attempt][:9])
            while len(points := live_points(store, tmp_path.name)) <= attempt:
                time.sleep(0.01)
            assert points == [1.0, 0.5][: 1 + attempt]  # a line that is being written is left out
            if attempt:
                growing.write_text("".join(lines))
                tag_run(candidate.adapter.digest)
    candidate.register()
    version = tracking.aliased(tmp_path.name, "challenger")
    (run,) = store.search_runs([store.get_experiment_by_name(tmp_path.name).experiment_id])
    assert (version.run_id, run.info.status) == (run.info.run_id, "FINISHED")
    assert live_points(store, tmp_path.name) == [1.0, 0.5, 1 / 3]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (DubmillError("no memory"), "FAILED"),
        (RuntimeError("cuBLAS"), "FAILED"),
        (InterruptedStepError("SIGTERM"), "KILLED"),
    ],
)
def test_a_training_that_gives_up_ends_its_run_which_is_opened_again_if_it_continues(
    tmp_path, store, monkeypatch, error, state
):
    monkeypatch.setenv("DUBMILL_EXPERIMENT", tmp_path.name)
    for _ in range(2):
        with pytest.raises(type(error)):
            give_up(tmp_path, store, error)
        assert run_states(store, tmp_path.name) == [state]


def test_a_run_that_a_killed_pod_left_open_is_ended_with_the_pipeline_and_no_other_is(tmp_path, store, monkeypatch):
    experiment = tmp_path.name
    monkeypatch.setenv("KFP_RUN_ID", f"{experiment}-dead")
    runs.open_run(experiment, name="train-1", tags={"training": "train-1"})  # SIGKILL: nobody closes it
    runs.open_run(experiment, name="train-2", tags={"training": "train-2"})
    given = store.create_run(store.get_experiment_by_name(experiment).experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)  # whoever gave it ends it
    runs.open_run(experiment, name="train-3", tags={"training": "train-3"})
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.setenv("KFP_RUN_ID", f"{experiment}-alive")
    taken_over, _ = runs.open_run(experiment, name="train-2", tags={"training": "train-2"})  # in a pod of another run
    monkeypatch.setenv("KFP_RUN_ID", f"{experiment}-dead")
    sentence = runs.end_runs_of_killed_pods()
    states = {run.info.run_id: run.info.status for run in all_runs(store, experiment)}
    assert states.pop(taken_over.info.run_id) == states.pop(given.info.run_id) == "RUNNING"
    ((killed, state),) = states.items()
    assert (state, sentence) == ("KILLED", f"Runs of killed pods, ended in MLflow: {killed}.")
    assert not runs.end_runs_of_killed_pods()


def test_a_run_that_is_opened_again_belongs_to_the_new_pod_before_it_is_running(tmp_path, store, monkeypatch):
    """The Kubeflow run of its earlier pod ends in between, and ends what is left open of it."""
    again = {"name": "train-1", "tags": {"training": "train-1"}}
    monkeypatch.setenv("KFP_RUN_ID", f"{tmp_path.name}-old")
    runs.close_run(runs.open_run(tmp_path.name, **again)[0], KeyboardInterrupt())
    update_run, sentences = runs.client().update_run, []

    def update_run_and_end_the_old(run_id, status):
        update_run(run_id, status=status)
        with monkeypatch.context() as patch:
            patch.setenv("KFP_RUN_ID", f"{tmp_path.name}-old")
            sentences.append(runs.end_runs_of_killed_pods())

    monkeypatch.setattr(runs.client(), "update_run", update_run_and_end_the_old)
    monkeypatch.setenv("KFP_RUN_ID", f"{tmp_path.name}-new")
    runs.open_run(tmp_path.name, **again)
    assert (sentences, run_states(store, tmp_path.name)) == ([""], ["RUNNING"])


def test_runs_of_killed_pods_in_a_server_that_does_not_answer_fail_no_notice(monkeypatch):
    monkeypatch.setenv("KFP_RUN_ID", "run-7")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert runs.end_runs_of_killed_pods().startswith("Runs of killed pods may be open in MLflow: ")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert not runs.end_runs_of_killed_pods()


def give_up(folder, store, error):
    """A training that fails with `error` once its run is open."""
    with live_losses(folder / "losses.jsonl", name="train-1", poll_seconds=0.01):
        for _ in range(1000):
            if run_states(store, folder.name) == ["RUNNING"]:
                raise error
            time.sleep(0.01)


def live_points(store, experiment):
    found = all_runs(store, experiment)
    return [point.value for run in found for point in store.get_metric_history(run.info.run_id, "loss.video")]


def test_a_server_that_hangs_holds_up_a_training_for_a_bounded_time(tmp_path, monkeypatch, caplog):
    """The training waited without a bound, so that its pod was killed at the end of its grace."""
    asked, answered, losses = threading.Event(), threading.Event(), tmp_path / "losses.jsonl"
    losses.write_text('{"step": 1}\n{"step": 2}\n{"st')

    def hang(*_, **__):
        asked.set()
        answered.wait()
        raise ServiceUnavailableError("it went away")

    monkeypatch.setenv("DUBMILL_EXPERIMENT", "x")
    monkeypatch.setattr(live, "open_run", hang)
    monkeypatch.setattr(live, "END_SECONDS", 0.05)
    with live_losses(losses, name="train-1", poll_seconds=0.01):
        assert asked.wait(30)
    assert f"2 of 2 steps of {losses} are not logged" in caplog.text
    answered.set()


def test_a_server_that_does_not_answer_never_fails_a_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DUBMILL_EXPERIMENT", "x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with live_losses(tmp_path / "losses.jsonl", name="train-1", poll_seconds=0.01) as tag_run:
        tag_run("a" * 64)
    assert "were not logged to MLflow" in caplog.text
