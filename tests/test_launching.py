"""Tasks that pass references: a large artifact stays on the volume that all tasks mount, and is found there."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from doubles.cluster_jobs import ClusterJobs
from doubles.gated_pairs import make_pairs
from doubles.noise_pairs import PARAMS

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.references import REFERENCE
from dubmill.artifacts.store import Adapter, PairSet, open_any
from dubmill.cluster import jobs, kubernetes
from dubmill.errors import ChangedArtifactError, UnsealedArtifactError
from dubmill.launching import SHARDED, _job_name, run_task, train_on_all_gpus


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("DUBMILL_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


def pairs_step(seed: int, out: Path) -> PairSet:
    return make_pairs(out, seed=seed)


def adapter_step(seed: int, out: Path) -> Adapter:
    draft = Adapter.draft(out, Lineage(step="train", params={"seed": seed}))
    draft.write("adapter.safetensors", bytes([seed]))
    return draft.seal({})


def test_a_large_artifact_stays_on_the_volume_and_the_next_task_opens_it_by_its_reference(work, tmp_path):
    made = run_task(pairs_step, [1], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [REFERENCE]
    found = PairSet.open(tmp_path / "out")
    assert (found.digest, found.path) == (made.digest, made.path)
    assert open_any(tmp_path / "out").digest == made.digest
    assert work in found.path.parents
    found.verify()


def test_an_adapter_is_copied_and_its_draft_removed(work, tmp_path):
    made = run_task(adapter_step, [1], tmp_path / "out")
    assert made.path == tmp_path / "out"
    assert not [path for path in (work / "drafts").iterdir() if path.is_dir()]


def test_without_a_volume_artifacts_are_where_kubeflow_wants_them(tmp_path, monkeypatch):
    monkeypatch.delenv("DUBMILL_WORK", raising=False)
    assert run_task(pairs_step, [1], tmp_path / "out").path == tmp_path / "out"


def test_other_inputs_have_another_place_and_equal_ones_the_same(work, tmp_path):
    first, second, again = (run_task(pairs_step, [seed], tmp_path / str(place)) for place, seed in enumerate((1, 2, 1)))
    assert first.path == again.path != second.path


def test_a_reference_to_what_is_gone_or_another_one_is_named(work, tmp_path):
    made = run_task(pairs_step, [1], tmp_path / "out")
    reference = json.loads((tmp_path / "out" / REFERENCE).read_bytes())
    (tmp_path / "out" / REFERENCE).write_text(json.dumps(reference | {"digest": "0" * 64}))
    with pytest.raises(ChangedArtifactError, match="another artifact"):
        PairSet.open(tmp_path / "out")
    shutil.rmtree(made.path)
    with pytest.raises(UnsealedArtifactError, match="not on the shared volume"):
        PairSet.open(tmp_path / "out")


def test_of_two_tasks_with_the_same_inputs_one_works_and_the_other_finds_its_result(work, tmp_path):
    inside, most, lock = [], [], threading.Lock()

    def slow_step(seed, out):
        with lock:
            inside.append(out)
            most.append(len(inside))
        time.sleep(0.05)
        made = make_pairs(out, seed=seed)
        inside.remove(out)
        return made

    threads = [threading.Thread(target=run_task, args=(slow_step, [1], tmp_path / name)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]
    assert PairSet.open(tmp_path / "a").path == PairSet.open(tmp_path / "b").path


def _die_inside(step_out: Path) -> None:
    run_task(lambda seed, out: os.kill(os.getpid(), signal.SIGKILL), [1], step_out)


def test_the_lock_of_a_killed_task_is_free(work, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_die_inside, args=(tmp_path / "a",))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert run_task(lambda seed, out: make_pairs(out, seed=seed), [1], tmp_path / "b").info["gated"]


def test_a_task_trains_on_several_nodes_under_a_name_that_the_cluster_accepts(work, tmp_path, monkeypatch):
    (tmp_path / "namespace").write_text("dubmill")
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    monkeypatch.setenv("DUBMILL_TRAINING", jobs.JobSpec(2, "image", 1, 1, 0, "work", "/work").to_json())
    inputs = [make_pairs(tmp_path / str(seed), seed=seed) for seed in (1, 2)]  # only their digests and paths are read

    def run_pod(command, index):
        adapter_step(1, Path(command[-1]))
        return 0

    with ClusterJobs(run_pod) as api:
        monkeypatch.setenv("DUBMILL_KUBERNETES", api.address)
        adapter = run_task(train_on_all_gpus, [*inputs, PARAMS], tmp_path / "out")
    (job,) = api.created
    assert re.fullmatch("dubmill-train-[0-9a-f]{32}", job["metadata"]["name"])
    assert adapter.path == tmp_path / "out"


@pytest.mark.parametrize("word", [*SHARDED, "train"])
def test_the_name_of_a_job_leaves_room_for_its_pods(word):
    name = _job_name(word, Path(f"/work/drafts/{word}-{'a' * 32}"))
    assert len(name) <= (48 if word == "train" else 52)
    assert re.fullmatch("[a-z0-9-]+", name)
