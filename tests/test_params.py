"""params.yaml holds values, params.py their meaning; overlays and KFP's floats go through the same door."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from dubmill.config.overlays import merge, read_yaml
from dubmill.config.params import Params, load, validate
from dubmill.config.sampling import DubSamplingParams, SecondStageParams
from dubmill.config.training import SigmaSamplerParams, TrainParams, ValidationParams
from dubmill.errors import InvalidParamsError

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "params.yaml"


def written(folder: Path, values: dict, name: str = "params.yaml") -> Path:
    """`values` as a YAML file."""
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_committed_values_are_valid():
    assert load(COMMITTED).backbone.source == "nano"


def test_no_section_has_a_default_in_python():
    sections = [field.annotation for field in Params.model_fields.values()]
    sections += [DubSamplingParams, SecondStageParams, SigmaSamplerParams, ValidationParams]
    assert not [
        f"{s.__name__}.{name}" for s in sections for name, field in s.model_fields.items() if not field.is_required()
    ]


def test_whole_floats_are_integers_again_and_others_are_refused():
    section = read_yaml(COMMITTED)["train"] | {"rank": 8.0}
    assert validate(TrainParams, section, "train").rank == 8
    assert isinstance(validate(TrainParams, section, "train").rank, int)
    with pytest.raises(InvalidParamsError, match="rank"):
        validate(TrainParams, section | {"rank": 8.5}, "train")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "rank", 0),
        ("train", "learning_rate", -1),
        ("train", "seed", 2**53),
        ("gate", "min_accepted_share", 1.5),
        ("prompts", "languages", ["en"]),
        ("dub", "methods", ["magic"]),
        ("train", "rnak", 8),
    ],
)
def test_a_broken_bound_type_or_name_is_reported_in_one_sentence(tmp_path, section, name, value):
    values = read_yaml(COMMITTED)
    values[section][name] = value
    with pytest.raises(InvalidParamsError) as told:
        load(written(tmp_path, values))
    assert name in told.value.sentence
    assert "\n" not in told.value.sentence


def test_a_missing_value_is_reported_by_name(tmp_path):
    values = read_yaml(COMMITTED)
    del values["train"]["rank"]
    with pytest.raises(InvalidParamsError, match=r"train\.rank"):
        load(written(tmp_path, values))


def test_an_overlay_changes_only_what_it_names(tmp_path):
    overlay = written(tmp_path, {"train": {"rank": 4}, "synthesize": {"sampling": {"num_steps": 3}}}, "overlay.yaml")
    changed, before = load(COMMITTED, overlay), load(COMMITTED)
    assert (changed.train.rank, changed.synthesize.sampling.num_steps) == (4, 3)
    assert changed.train.model_copy(update={"rank": before.train.rank}) == before.train
    assert changed.inpaint == before.inpaint


def test_an_overlay_replaces_free_form_maps_whole(tmp_path):
    overlay = written(tmp_path, {"promote": {"min_shares": {"sync_correlation": 0.1}}}, "overlay.yaml")
    assert load(COMMITTED, overlay).promote.min_shares == {"sync_correlation": 0.1}


def test_an_overlay_with_a_name_that_does_not_exist_is_refused(tmp_path):
    overlay = written(tmp_path, {"train": {"rnak": 4}}, "overlay.yaml")
    with pytest.raises(InvalidParamsError, match="rnak"):
        load(COMMITTED, overlay)


def test_merging_changes_neither_of_the_two():
    base, overlay = {"a": {"b": 1}}, {"a": {"b": 2}}
    kept = copy.deepcopy((base, overlay))
    assert merge(base, overlay) == {"a": {"b": 2}}
    assert (base, overlay) == kept


@pytest.mark.parametrize("text", ["", "- a list", "a: [", "\x00"])
def test_a_file_that_is_not_a_mapping_is_reported(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InvalidParamsError):
        read_yaml(path)


def test_a_missing_file_is_reported_with_its_path(tmp_path):
    with pytest.raises(InvalidParamsError, match="nowhere"):
        load(tmp_path / "nowhere.yaml")


def test_values_survive_the_way_dvc_writes_them_back(tmp_path):
    """`dvc exp run -S` rewrites params.yaml as YAML 1.2, where a bare `no` is a word; YAML 1.1 reads it as false."""
    stream = io.StringIO()
    YAML().dump(YAML(typ="safe").load(COMMITTED.read_text()), stream)
    (tmp_path / "params.yaml").write_text(stream.getvalue())
    assert load(tmp_path / "params.yaml") == load(COMMITTED)


@pytest.mark.parametrize(
    ("overlay", "told"),
    [
        ({"dub": {"sampling": {"sigmas": [0.4, 0.9]}}}, "without the final 0"),
        ({"dub": {"sampling": {"sigmas": [1.0, 0.4, 0.0]}}}, "without the final 0"),
        ({"dub": {"sampling": {"second_stage": {"sigmas": [1.5]}}}}, "without the final 0"),
        ({"synthesize": {"sampling": {"audio_stg": 1.0}}}, "needs stg_blocks"),
        ({"train": {"reference_attention": "self", "isolate_modalities": False}}, "needs isolate_modalities"),
        (
            {"backbone": {"source": "hub"}},
            "in synthesize.sampling, inpaint.sampling, train.validation.sampling, dub.sampl",
        ),
        (
            {
                "backbone": {"source": "hub"},
                "synthesize": {"sampling": {"lora": "none"}},
                "train": {"validation": {"sampling": {"lora": "none"}}},
                "dub": {"sampling": {"lora": "none"}},
            },
            "`lora: distilled` in inpaint.sampling needs a LoRA in backbone.distilled_lora",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(tmp_path, overlay, told):
    with pytest.raises(InvalidParamsError, match=told):
        load(COMMITTED, written(tmp_path, overlay, "overlay.yaml"))


def test_the_released_schedules_and_scales_can_be_said_in_params(tmp_path):
    """Dub-It's eight and three steps; JUST-DUB-IT's second stage, with the distilled LoRA in the dubbing one's place."""
    eight = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875]
    later = {"sigmas": [0.725, 0.421875], "keep_adapter": False, "lora": "distilled"}
    scales = {"video_stg": 1.0, "stg_blocks": [29], "video_modality": 3.0, "video_rescale": 0.7}
    overlay = {"dub": {"sampling": {"sigmas": eight, **scales, "second_stage": later, "first_frame": True}}}
    made = load(COMMITTED, written(tmp_path, overlay, "overlay.yaml")).dub.sampling
    assert (len(made.sigmas), made.second_stage.sigmas, made.stg_blocks) == (8, [0.725, 0.421875], [29])
