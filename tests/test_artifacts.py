"""Sealed directories: nothing half-done opens, what was done is kept, what was touched is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dubmill.artifacts import files
from dubmill.artifacts.draft import Draft
from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.manifest import MANIFEST, Lineage
from dubmill.artifacts.publish import publish
from dubmill.artifacts.rows import ClipRow, Line, Prompt
from dubmill.artifacts.store import Adapter, Backbone, ClipSet, PairSet, PromptSet, open_any
from dubmill.config.params import load
from dubmill.errors import ChangedArtifactError, DiskFullError, InvalidArtifactError, UnsealedArtifactError, UsageError
from dubmill.media.clips import Clip
from dubmill.steps.prompts import prompts

ROOT = Path(__file__).parents[1]
LINEAGE = Lineage(step="synthesize", params={"seed": 1}, inputs={"PromptSet": "abc"}, licence="Apache-2.0")
OTHER = LINEAGE.model_copy(update={"params": {"seed": 2}})


def a_row(index: int) -> ClipRow:
    """A row that says something."""
    line = Line(language="en", text="one")
    said = dict.fromkeys(("first", "second", "first_dubbed", "second_dubbed"), line)
    told = dict.fromkeys(("speaker", "caption", "caption_first_dubbed", "caption_second_dubbed"), "a person")
    prompt = Prompt(id=f"p{index}", split="train", source="grammar", seed=index, **said, **told)
    return ClipRow(id=f"c{index}", prompt=prompt, has_clip=True)


def a_clip(seed: int = 0) -> Clip:
    """Two noisy frames with their sound."""
    rng = np.random.default_rng(seed)
    sound = rng.uniform(-1, 1, (1, 2560)).astype(np.float32)
    return Clip(rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8), Fraction(25, 2), sound, 16000)


def filled(out: Path, lineage: Lineage = LINEAGE, num_shards: int = 2) -> ClipSet:
    """A sealed set of `num_shards` one-clip shards; shards that are there are kept."""
    draft = ClipSet.draft(out, lineage)
    for index in range(num_shards):
        if not draft.has_shard(index):
            draft.add_shard(index, [a_row(index)], {f"c{index}/clip.clip": a_clip(index).to_bytes()})
    return draft.seal({"num_clips": num_shards})


def test_a_sealed_set_gives_back_its_rows_and_clips(tmp_path):
    filled(tmp_path / "set")
    opened = ClipSet.open(tmp_path / "set")
    assert [row.id for row in opened.rows] == ["c0", "c1"]
    back = opened.clip("c1", "clip")
    assert np.array_equal(back.frames_FHWC, a_clip(1).frames_FHWC)
    assert np.array_equal(back.audio_CN, a_clip(1).audio_CN)
    assert back.frame_rate == Fraction(25, 2)
    assert open_any(tmp_path / "set").digest == opened.digest


def test_equal_content_gives_equal_digests_and_any_change_another(tmp_path):
    one, same = filled(tmp_path / "one"), filled(tmp_path / "same")
    assert one.digest == same.digest
    assert (one.path / MANIFEST).read_bytes() == (same.path / MANIFEST).read_bytes()
    assert filled(tmp_path / "other", OTHER).digest != one.digest
    assert filled(tmp_path / "more", num_shards=3).digest != one.digest


def test_a_draft_does_not_open(tmp_path):
    ClipSet.draft(tmp_path / "set", LINEAGE).add_shard(0, [a_row(0)], {"c0/clip.clip": b"x"})
    with pytest.raises(UnsealedArtifactError):
        ClipSet.open(tmp_path / "set")


def test_what_is_not_there_does_not_open(tmp_path):
    with pytest.raises(UnsealedArtifactError, match="not there"):
        open_any(tmp_path / "nothing")


def test_a_rerun_of_the_same_work_keeps_whole_shards_and_ends_with_the_same_digest(tmp_path):
    draft = ClipSet.draft(tmp_path / "set", LINEAGE)
    draft.add_shard(0, [a_row(0)], {"c0/clip.clip": a_clip(0).to_bytes()})
    born = (draft.path / "shard-00000.tar").stat().st_ino
    resumed = filled(tmp_path / "set")
    assert (resumed.path / "shard-00000.tar").stat().st_ino == born
    assert resumed.digest == filled(tmp_path / "whole").digest


def test_a_rerun_with_other_params_starts_from_nothing(tmp_path):
    ClipSet.draft(tmp_path / "set", LINEAGE).add_shard(0, [a_row(7)], {"c7/clip.clip": b"x"})
    assert not ClipSet.draft(tmp_path / "set", OTHER).has_shard(0)
    assert [row.id for row in filled(tmp_path / "set", OTHER).rows] == ["c0", "c1"]


def test_sealed_work_is_not_done_again(tmp_path):
    filled(tmp_path / "set")
    draft = ClipSet.draft(tmp_path / "set", LINEAGE)
    assert draft.is_sealed
    assert draft.seal().digest == ClipSet.open(tmp_path / "set").digest


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_artifacts as t
from pathlib import Path
import dubmill.artifacts.draft as a
write, count = a.write_atomically, 0
def dying(path, data):
    global count
    count += 1
    if count == {moment}:
        if {torn}:
            path.with_name(f".{{path.name}}.{{os.getpid()}}.partial").write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)
a.write_atomically = dying
t.filled(Path({out!r}))
"""


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("moment", range(1, 8))
def test_a_kill_at_any_write_leaves_nothing_that_opens_and_the_rerun_ends_the_same(tmp_path, moment, torn):
    """Write 1 is the draft's key, 2 to 5 the shards and their rows, 6 the merged rows, 7 the manifest."""
    out = tmp_path / "set"
    code = KILLED.format(tests=str(Path(__file__).parent), moment=moment, torn=torn, out=str(out))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with pytest.raises(UnsealedArtifactError):
        ClipSet.open(out)
    assert filled(out).digest == filled(tmp_path / "whole").digest


def test_a_missing_file_and_an_edited_manifest_are_refused_when_opened(tmp_path):
    for name, break_it in {
        "missing": lambda path: (path / "shard-00001.tar").unlink(),
        "edited": lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text().replace("Apache", "MIT")),
        "torn": lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text()[:50]),
    }.items():
        path = filled(tmp_path / name).path
        break_it(path)
        with pytest.raises(ChangedArtifactError):
            ClipSet.open(path)


def test_a_changed_file_is_refused_when_it_is_read_and_when_all_is_checked(tmp_path):
    sealed = filled(tmp_path / "set")
    (sealed.path / "shard-00000.tar").write_bytes(b"other")
    opened = ClipSet.open(sealed.path)
    assert opened.clip("c1", "clip").num_frames == 2  # of the shard that is whole
    with pytest.raises(ChangedArtifactError) as refused:
        opened.clip("c0", "clip")
    assert refused.value.where == str(sealed.path)
    with pytest.raises(ChangedArtifactError):
        opened.verify()


def test_a_file_that_changes_after_it_was_checked_is_refused_at_the_next_read(tmp_path):
    sealed = filled(tmp_path / "set")
    sealed.verify()
    (sealed.path / "rows.parquet").write_bytes(b"other")
    with pytest.raises(ChangedArtifactError):
        sealed.file("rows.parquet")


def test_of_a_folder_only_its_top_and_the_named_parts_are_checked(tmp_path):
    draft = Adapter.draft(tmp_path / "set", LINEAGE)
    for name in ("pipeline/index.json", "pipeline/vae/weights", "pipeline/text/weights", "pipelines/other"):
        draft.write(name, b"w")
    sealed = draft.seal()
    for name in ("pipeline/text/weights", "pipelines/other"):
        (sealed.path / name).write_bytes(b"changed")
    assert sealed.folder("pipeline", "vae") == sealed.path / "pipeline"
    with pytest.raises(ChangedArtifactError, match="pipeline/text/weights"):
        sealed.folder("pipeline")
    (sealed.path / "pipeline/index.json").write_bytes(b"changed")
    with pytest.raises(ChangedArtifactError, match="index.json"):
        sealed.folder("pipeline", "vae")


@pytest.fixture
def hashed(monkeypatch):
    """The files that are hashed, in order."""
    paths, hash_file = [], files.hash_file
    monkeypatch.setattr(files, "_digests", {})
    monkeypatch.setattr(files, "hash_file", lambda path: (paths.append(path.name), hash_file(path))[1])
    return paths


def test_sealing_hashes_each_file_once_and_reading_in_the_same_process_never_again(tmp_path, hashed):
    filled(tmp_path / "set")
    assert sorted(hashed) == ["rows.parquet", "shard-00000.tar", "shard-00001.tar"]
    ClipSet.open(tmp_path / "set").clip("c0", "clip")
    open_any(tmp_path / "set").verify()
    assert len(hashed) == 3


def test_a_reader_hashes_only_what_it_reads(tmp_path, hashed, monkeypatch):
    filled(tmp_path / "set")
    hashed.clear()
    monkeypatch.setattr(files, "_digests", {})  # as in another process
    opened = ClipSet.open(tmp_path / "set")
    assert hashed == []
    opened.clip("c1", "clip")
    opened.clip("c1", "clip")
    assert hashed == ["rows.parquet", "shard-00001.tar"]


def test_a_step_that_has_nothing_to_do_hashes_nothing(tmp_path, hashed, monkeypatch):
    values = load(ROOT / "params.yaml").prompts
    digest = prompts(values, tmp_path / "prompts").digest
    hashed.clear()
    monkeypatch.setattr(files, "_digests", {})
    assert prompts(values, tmp_path / "prompts").digest == digest
    assert hashed == []


def test_reading_clips_leaves_no_file_open(tmp_path):
    opened = ClipSet.open(filled(tmp_path / "set").path)
    opened.clip("c0", "clip")
    held = {link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    assert not [path for path in held if path.suffix == ".tar"]


def test_preparing_a_draft_object_touches_no_disk(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/thesis.txt").write_text("years of work")
    Draft(ClipSet, tmp_path / "set", LINEAGE)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["thesis.txt"]


def test_lineage_is_derived_from_the_inputs(tmp_path):
    info = {"text_encoder_digest": "t" * 64}
    backbone = Backbone.draft(tmp_path / "b", Lineage.of("backbone", {}, licence="LTX-2")).seal(info)
    footage = PromptSet.draft(
        tmp_path / "p", Lineage.of("prompts", {}, licence="CC-BY-4.0", consent="Ana agrees")
    ).seal()
    clips = ClipSet.draft(tmp_path / "c", Lineage.of("synthesize", {"seed": 1}, backbone, footage)).seal()
    lineage = Lineage.of("inpaint", {}, backbone, clips, pair_source="footage", consent="Bo agrees")
    assert (lineage.backbone, lineage.text_encoder) == (backbone.digest, "t" * 64)
    assert lineage.inputs == {"Backbone": backbone.digest, "ClipSet": clips.digest}
    assert lineage.licence == "LTX-2 AND CC-BY-4.0"
    assert lineage.consent == "Ana agrees; Bo agrees"
    pairs = PairSet.draft(tmp_path / "q", lineage).seal()
    later = Lineage.of("gate", {}, backbone, pairs)
    assert (later.licence, later.consent, later.pair_source) == (lineage.licence, lineage.consent, "footage")


def test_an_artifact_of_another_kind_or_schema_is_refused(tmp_path):
    path = filled(tmp_path / "set").path
    with pytest.raises(InvalidArtifactError, match="ClipSet.*PairSet"):
        PairSet.open(path)
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(InvalidArtifactError, match="schema version 99"):
        ClipSet.open(path)


def test_a_folder_of_somebody_elses_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not an artifact"):
        ClipSet.draft(tmp_path, LINEAGE)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_member_that_is_not_there_is_reported(tmp_path):
    opened = filled(tmp_path / "set")
    with pytest.raises(InvalidArtifactError, match="no clip.mp4 of 'c0'"):
        opened.mp4("c0", "clip")
    with pytest.raises(InvalidArtifactError, match="c9"):
        opened.clip("c9", "clip")


def test_bytes_that_are_no_clip_are_reported():
    with pytest.raises(InvalidArtifactError, match="not a stored clip"):
        Clip.from_bytes(b"\x08\0\0\0\0\0\0\0{}      ")


def test_a_full_disk_is_one_sentence_and_leaves_no_partial_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="disk"):
        write_atomically(tmp_path / "file", b"x")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_midway_loses_nothing_sealed_and_the_rerun_goes_on(tmp_path, monkeypatch):
    sealed = filled(tmp_path / "before")
    real, calls = os.fsync, iter(range(100))

    def filling(descriptor: int) -> None:
        if next(calls) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", filling)
        with pytest.raises(DiskFullError):
            filled(tmp_path / "set")
    assert ClipSet.open(sealed.path).digest == sealed.digest
    assert filled(tmp_path / "set").digest == sealed.digest


def test_a_set_without_rows_and_an_artifact_without_rows_both_seal(tmp_path):
    assert PromptSet.draft(tmp_path / "empty", LINEAGE).seal().rows == []
    draft = Adapter.draft(tmp_path / "adapter", LINEAGE)
    draft.write("deep/weights.safetensors", b"w")
    assert Adapter.open(draft.seal({"rank": 4}).path).info == {"rank": 4}


def test_publishing_replaces_whole_folders_and_leaves_equal_ones_alone(tmp_path):
    first, second = filled(tmp_path / "one"), filled(tmp_path / "two", OTHER)
    publish(tmp_path / "volume", release=first.path)
    born = (tmp_path / "volume/release" / MANIFEST).stat().st_ino
    publish(tmp_path / "volume", release=first.path)
    assert (tmp_path / "volume/release" / MANIFEST).stat().st_ino == born
    publish(tmp_path / "volume", release=second.path)
    assert ClipSet.open(tmp_path / "volume/release").digest == second.digest
    assert [path.name for path in (tmp_path / "volume").iterdir()] == ["release"]


def test_publishing_heals_a_damaged_copy(tmp_path):
    made = filled(tmp_path / "one")
    publish(tmp_path / "volume", release=made.path)
    name = next(iter(made.manifest.files))
    place = tmp_path / "volume/release" / name
    damaged = bytearray(place.read_bytes())
    damaged[-1] ^= 1
    place.write_bytes(damaged)
    publish(tmp_path / "volume", release=made.path)
    assert ClipSet.open(tmp_path / "volume/release").digest == made.digest


def test_publishing_moves_all_artifacts_or_none(tmp_path):
    old, new = filled(tmp_path / "one"), filled(tmp_path / "two", OTHER)
    publish(tmp_path / "volume", backbone=old.path, release=old.path)
    broken = filled(tmp_path / "three", OTHER)
    (broken.path / next(iter(broken.manifest.files))).write_bytes(b"damaged")
    with pytest.raises(ChangedArtifactError):
        publish(tmp_path / "volume", backbone=new.path, release=broken.path)
    assert {ClipSet.open(tmp_path / "volume" / name).digest for name in ("backbone", "release")} == {old.digest}
    assert sorted(path.name for path in (tmp_path / "volume").iterdir()) == ["backbone", "release"]


def test_two_that_publish_at_once_leave_one_whole_artifact(tmp_path):
    sets = [filled(tmp_path / "one"), filled(tmp_path / "two", OTHER)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: publish(tmp_path / "volume", release=sets[index % 2].path), range(40)))
    assert ClipSet.open(tmp_path / "volume/release").digest in {one.digest for one in sets}
    assert [path.name for path in (tmp_path / "volume").iterdir()] == ["release"]
