"""nano's card: what it measures, how it judges, what it shows."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dubmill import media
from dubmill.config import overlays, params
from dubmill.media.clips import Clip
from dubmill.model.loras import load_for_sampling
from dubmill.nano import world
from dubmill.nano_card import films, page, pictures, targets
from dubmill.nano_card.pictures import LabelledClip
from dubmill.steps.backbone import backbone
from dubmill.worlds.nano import NanoWorld

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def values() -> params.Params:
    """The committed params, with two steps of sampling."""
    told = params.load(ROOT / "params.yaml")
    quick = told.synthesize.sampling.model_copy(update={"num_steps": 2})
    changed = {name: getattr(told, name).model_copy(update={"sampling": quick}) for name in ("synthesize", "inpaint")}
    return told.model_copy(update=changed)


@pytest.fixture(scope="module")
def rows(values, tmp_path_factory) -> dict[str, list[dict[str, float]]]:
    """What is measured of two takes, one dubbed in its first half, one in its second."""
    nano = backbone(values.backbone, tmp_path_factory.mktemp("card") / "backbone")
    return films.measure_clips(
        load_for_sampling(nano, values.synthesize.sampling.lora), NanoWorld(nano).scorers(), values, num_clips=2
    )


def test_a_take_says_the_same_digits_in_the_other_language_in_one_half_only():
    for index in range(6):
        one = films.dub_case(index)
        kept, changed = 1 - one.half, one.half
        assert one.film.phrases[kept] == one.dubbed.phrases[kept]
        before, after = one.film.phrases[changed], one.dubbed.phrases[changed]
        assert after.language == one.film.phrases[kept].language != before.language
        digits = [[world.LANGUAGES[said.language].index(word) for word in said.words] for said in (before, after)]
        assert digits[0] == digits[1]


def test_every_kind_of_clip_is_measured(rows):
    assert {name: len(some) for name, some in rows.items()} == dict.fromkeys(rows, 2)
    assert set(rows) <= set(page.KINDS)
    for some in rows.values():
        assert all(set(row) <= {*page.MEANINGS, "puppet"} for row in some)
        assert all(np.isfinite(list(row.values())).all() for row in some)


def test_the_oracle_is_right_and_a_round_trip_is_near_its_source(rows):
    assert all(row["words_right"] == 1 and row["sync_correlation"] > 0.9 for row in rows["world"])
    assert all(row["psnr_db"] > 20 for row in rows["round_trip"])
    for trip, made in zip(rows["source_round_trip"], rows["inpainted"], strict=True):
        assert made["outside_psnr_db"] > trip["outside_psnr_db"] - 6  # two steps make a poor mouth, and its edge bleeds


def test_the_command_writes_page_json_and_pictures(tmp_path):
    few_steps = {"num_steps": 2, "video_guidance": 1.0, "audio_guidance": 1.0}
    few = {
        "prompts": {"num_train": 2},
        "synthesize": {"sampling": few_steps},
        "inpaint": {"source": "world"},
        "gate": {"min_accepted_share": 0.0},
        "train": {"num_steps": 2, "num_warmup_steps": 1},
        "dub": {"sampling": few_steps},
    }
    data = overlays.read_yaml(ROOT / "params.yaml")
    told = yaml.safe_dump(overlays.merge(data, few))
    (tmp_path / "params.yaml").write_text(told)
    command = [sys.executable, "-m", "dubmill.nano_card", "--params", tmp_path / "params.yaml", "--docs", tmp_path]
    done = subprocess.run([*command, "--clips", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "nano-card.json").read_text())
    assert card["line"]["num_pairs"] == 4
    assert card["figures"]["adapter"]["words_right"]["num_clips"] == 2
    assert "# Measured quality of nano" in (tmp_path / "nano-card.md").read_text()
    pictures_of_it = {path.name for path in (tmp_path / "images").iterdir()}
    assert pictures_of_it == {"nano-sheet.png", "nano-mels.png", "nano-curves.png", "nano-dub.mp4", "nano-dub.webp"}


def test_a_target_is_plain_a_share_or_a_gap():
    rows = {"made": [{"x": 0.6}, {"x": 1.0}], "oracle": [{"x": 1.0}]}
    kinds = {"plain": 0.8, "share": 0.8, "gap": -0.2}
    for relation, expected in kinds.items():
        target = targets.Target("x", "made", "x", 0.5, relation, "oracle")
        assert targets.reached(target, rows) == pytest.approx(expected)


def test_the_adapter_is_held_against_each_other_method_clip_by_clip():
    def rows_of(values):
        return [{"puppet": float(seed), "x": value} for seed, value in enumerate(values)]

    rows = {"adapter": rows_of([1.0, 0.5]), "base": rows_of([0.5, 0.25])}
    expected = {"mean": 0.375, "low": 0.25, "high": 0.5, "num_clips": 2, "num_puppets": 2}
    assert targets.differences(rows, "base")["x"] == expected


def test_two_clips_of_one_puppet_are_one_unit_of_the_interval():
    rows = {"made": [{"puppet": 1.0, "x": 0.0}, {"puppet": 1.0, "x": 1.0}]}
    assert targets.summary(rows)["made"]["x"] == {
        "mean": 0.5,
        "low": 0.5,
        "high": 0.5,
        "num_clips": 2,
        "num_puppets": 1,
    }


def _card() -> dict:
    kinds = {one.kind for one in targets.TARGETS} | {one.of for one in targets.TARGETS if one.of} | {"base", "cascade"}
    rows = {
        kind: [dict.fromkeys(page.MEANINGS, value) | {"puppet": value} for value in (0.5, 0.7)]
        for kind in sorted(kinds)
    }
    training = {"base": {"steps": 10, "seconds": 60, "shown": ["words"], "curve": {"words": [[5, 0.1], [10, 0.9]]}}}
    facts = {
        "num_clips": 2,
        "num_cores": 2,
        "measured_seconds": 1,
        "line": {"num_pairs": 4, "num_accepted": 3, "seconds": {}},
        "seconds_per_clip": 2.0,
        "films_per_second": 30.0,
        "scorers": {"words": 1.0},
        "training": training,
    }
    return page.card(rows, facts)


def test_the_page_says_of_each_target_whether_it_is_reached(tmp_path):
    card = _card()
    (tmp_path / "tried.md").write_text("## What was tried\n")
    page.write_card(card, tmp_path / "tried.md", tmp_path)
    text = (tmp_path / "nano-card.md").read_text()
    assert json.loads((tmp_path / "nano-card.json").read_text()) == card
    lines = [line for line in text.splitlines() if line.endswith("reached |") or line.endswith("**not reached** |")]
    assert len(lines) == len(targets.TARGETS) + 2
    assert any("a clip from text" in line and "not reached" in line for line in lines)
    assert text.rstrip().endswith("## What was tried")


def test_the_pictures_open_and_the_movie_has_sound_for_each_clip_that_is_heard(tmp_path):
    rng = np.random.default_rng(0)
    shown = [
        LabelledClip(name, Clip(rng.integers(0, 255, (5, 16, 16, 3), dtype=np.uint8), Fraction(25, 2), tone, 16000))
        for name, tone in (
            ("source", np.full((1, 6400), 0.1, np.float32)),
            ("dub", np.full((1, 6400), 0.2, np.float32)),
        )
    ]
    pictures.labelled_rows(shown, tmp_path / "sheet.png")
    pictures.spectrograms(shown, tmp_path / "mels.png")
    pictures.curves(_card()["training"], tmp_path / "curves.png")
    pictures.side_by_side(shown, [0, 1], tmp_path / "dub.mp4", tmp_path / "dub.webp")
    for name in ("sheet.png", "mels.png", "curves.png"):
        assert Image.open(tmp_path / name).size[0] > 300
    assert Image.open(tmp_path / "dub.webp").n_frames == 10
    assert media.probe(tmp_path / "dub.mp4").num_frames == 10
