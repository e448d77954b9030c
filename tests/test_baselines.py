"""Other systems in the report: exported held-out clips, and their outputs beside the dubs."""

import csv
import shutil
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

from dubmill import media
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import DubRow, Line, PairRow
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import DubSet, PairSet
from dubmill.cli.main import app
from dubmill.errors import UsageError
from dubmill.media.clips import Clip
from dubmill.report.baselines import EXPORTED, add_baseline, export_heldout

IDS = ("p0", "p1")
SPANISH, ENGLISH = Line(language="es", text="uno dos"), Line(language="en", text="one, two")


def clip(colour, num_frames=6, size=64):
    """A clip of one colour with a sine of 440 Hz."""
    frames_FHWC = np.full((num_frames, size, size, 3), colour, np.uint8)
    sine_N = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(num_frames / 25 * 16_000)) / 16_000)
    return Clip(frames_FHWC, Fraction(25), sine_N[None].astype(np.float32), 16_000)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Two held-out pairs, their dubs by the adapter, and the folder that is exported for other systems."""
    folder = tmp_path_factory.mktemp("baselines")
    pairs, dubs = (
        kind.draft(folder / name, Lineage(step=name, params={"seed": 1}))
        for kind, name in ((PairSet, "gate"), (DubSet, "dub"))
    )
    for index, pair_id in enumerate(IDS):
        source, truth = clip(40 + 50 * index), clip(60 + 50 * index)
        row = PairRow(
            id=pair_id, split="heldout", source="world", half="first", seed=index, speaker="A person", original=ENGLISH,
            counterpart=SPANISH, mouth_boxes=[[8, 8, 16, 16]] * 6, accepted=False,
        )  # fmt: skip
        pairs.add_shard(
            index, [row], clip_members(f"{pair_id}/original", source) | clip_members(f"{pair_id}/counterpart", truth)
        )
        dub = DubRow(id=f"{pair_id}-adapter", pair_id=pair_id, method="adapter", line=SPANISH, seed=index)
        trip = {f"{dub.id}/round-trip.clip": source.to_bytes()}
        dubs.add_shard(index, [dub], clip_members(f"{dub.id}/dub", truth) | trip)
    dubs.seal({"methods": ["adapter"], "has_round_trips": True, "num_clips": 2, "left_out_clips": {}})
    pairs.seal({"gated": True})
    return folder


def outputs(room, folder, *, videos=None, column="video"):
    """A folder as another system leaves it: the exported sources, or other videos by pair."""
    export_heldout(PairSet.open(room / "gate"), folder)
    with (folder / "manifest.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["pair_id", column])
        for pair_id in IDS if videos is None else videos:
            writer.writerow([pair_id, f"{pair_id}-source.mp4"])
            if videos:
                (folder / f"{pair_id}-source.mp4").write_bytes(media.mp4_bytes(videos[pair_id]))
    return folder


def test_held_out_clips_are_exported_with_what_each_has_to_say(room, tmp_path):
    done = CliRunner().invoke(app, ["baseline", "export", str(room / "gate"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "manifest.csv").read_text().splitlines()))
    assert [tuple(row.values()) for row in rows] == [
        (name, f"{name}-source.mp4", f"{name}-truth.mp4", "en", "one, two", "es", "uno dos") for name in IDS
    ]
    assert tuple(rows[0]) == EXPORTED
    source = media.read(tmp_path / "p1-source.mp4", frame_rate=None, sample_rate_hz=16_000)
    assert source.num_frames == 6
    assert abs(source.frames_FHWC.mean() - 90) < 3


def test_outputs_of_another_system_stand_beside_the_dubs_and_both_keep_their_bytes(room, tmp_path):
    folder = outputs(room, tmp_path / "outputs")
    arguments = ["--name", "other", "--dubs", room / "dub", "--pairs", room / "gate", "--out", tmp_path / "all"]
    done = CliRunner().invoke(app, ["baseline", "add", str(folder), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    before, after = DubSet.open(room / "dub"), DubSet.open(tmp_path / "all")
    assert [(row.id, row.method) for row in after.rows] == [
        ("p0-adapter", "adapter"), ("p1-adapter", "adapter"), ("p0-other", "other"), ("p1-other", "other"),
    ]  # fmt: skip
    for name in ("dub.clip", "dub.mp4", "round-trip.clip"):
        assert after.data("p1-adapter", name) == before.data("p1-adapter", name)
    assert after.lineage.params.keys() == {"seed", "baselines"}
    assert after.info == before.info | {"methods": ["adapter", "other"]}
    dub, source = after.clip("p1-other", "dub"), PairSet.open(room / "gate").clip("p1", "original")
    assert np.abs(dub.frames_FHWC.astype(int) - source.frames_FHWC).mean() < 3
    assert (dub.frame_rate, dub.audio_CN.shape) == (source.frame_rate, source.audio_CN.shape)


@pytest.mark.parametrize(
    ("videos", "sentence"),
    [
        ({"p0": clip(9)}, "1 of 2 pairs have no video, the first is p1"),
        ({"p0": clip(9), "p1": clip(9, size=32)}, "6 frames of 32x32, its source 6 of 64x64"),
        ({"p0": clip(9, num_frames=9), "p1": clip(9)}, "9 frames of 64x64, its source 6 of 64x64"),
    ],
)
def test_outputs_that_are_not_of_equal_clips_are_refused_and_nothing_is_sealed(room, tmp_path, videos, sentence):
    folder = outputs(room, tmp_path / "outputs", videos=videos)
    for pair_id in set(IDS) - set(videos):
        (folder / f"{pair_id}-source.mp4").unlink()
    with pytest.raises(UsageError, match=sentence):
        add(room, folder, tmp_path / "all")
    assert not (tmp_path / "all" / "manifest.json").exists()


def test_an_output_of_one_frame_more_is_cut_to_its_source(room, tmp_path):
    folder = outputs(room, tmp_path / "outputs", videos={"p0": clip(9, num_frames=7), "p1": clip(9, num_frames=5)})
    dubs = add(room, folder, tmp_path / "all")
    assert [dubs.clip(f"{name}-other", "dub").num_frames for name in IDS] == [6, 6]


def test_the_title_of_an_output_which_may_name_its_system_is_not_kept(room, tmp_path):
    """A blind study's page carries these bytes."""
    folder = outputs(room, tmp_path / "outputs")
    for name in IDS:
        mp4 = media.mp4_bytes(clip(9), {"title": "by the other system", "comment": "the other system, version 3"})
        (folder / f"{name}-source.mp4").write_bytes(mp4)
    assert media.metadata(folder / "p0-source.mp4")["title"] == "by the other system"
    dubs = add(room, folder, tmp_path / "all")
    for name in IDS:
        assert b"other system" not in dubs.mp4(f"{name}-other", "dub")


@pytest.mark.parametrize("method", ["adapter", "oracle", "Other", "", "a b", "x" * 41])
def test_a_name_that_is_taken_or_cannot_be_a_column_is_refused(room, tmp_path, method):
    with pytest.raises(UsageError, match="cannot be the name of a baseline"):
        add(room, outputs(room, tmp_path / "outputs"), tmp_path / "all", method=method)


def test_a_manifest_without_the_column_or_no_manifest_is_refused(room, tmp_path):
    folder = outputs(room, tmp_path / "outputs", column="file")
    with pytest.raises(UsageError, match="no column video"):
        add(room, folder, tmp_path / "all")
    (folder / "manifest.csv").write_text('pair_id,video\n"p0,')
    with pytest.raises(UsageError, match="no manifest"):
        add(room, folder, tmp_path / "all")
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match="no manifest"):
        add(room, folder, tmp_path / "all")


def add(room, folder, out, method="other"):
    return add_baseline(DubSet.open(room / "dub"), PairSet.open(room / "gate"), folder, method=method, out=out)
