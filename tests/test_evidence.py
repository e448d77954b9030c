"""The experiments on nano: which pairs an arm gets, and what its tables say."""

import json

import pytest
import torch
from safetensors.torch import load_file, save

from benchmarks import evidence_line
from benchmarks.evidence import EXPERIMENTS, ROOT, SHOWN, seeds_of, table
from benchmarks.evidence_line import PAIRS, PER_CAPTION, PER_PAIR, PLAIN, Arm, Line, passing
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import Line as Words
from dubmill.artifacts.rows import PairRow
from dubmill.artifacts.store import LatentSet
from dubmill.config.params import load
from dubmill.errors import UsageError
from dubmill.training.batches import LATENTS

PARAMS = load(ROOT / "params.yaml")
HARD = Arm("hard", changes={"background_weight": 1.0})


@pytest.fixture
def line(tmp_path):
    line = Line(tmp_path, PARAMS, is_quick=False)
    line.pairs_in_words = lambda arm: "4 (2)"
    return line


def write_rows(line, arm, seed, words_right):
    """Figures of six clips of three puppets, all 0.5 but the words."""
    file = line.rows_file(arm, seed)
    file.parent.mkdir(exist_ok=True)
    rows = [
        {"pair": f"p{place}", "cluster": f"seed-{place // 2}", **dict.fromkeys(SHOWN, 0.5), "words_right": value}
        for place, value in enumerate(words_right)
    ]
    file.write_text(json.dumps(rows))


def test_a_table_has_the_mean_over_seeds_its_spread_and_the_paired_difference_to_the_first_arm(line):
    write_rows(line, PLAIN, 0, [0.9] * 6)
    write_rows(line, PLAIN, 1, [0.7] * 6)
    write_rows(line, HARD, 0, [0.6] * 6)
    text = table(line, (PLAIN, HARD), 3, PARAMS.evaluate)
    assert "| as committed | 4 (2) | 2 | 0.800 ± 0.141 | 0.500 ± 0.000 |" in text
    assert "| hard | 4 (2) | 1 | 0.600 | 0.500 |" in text
    # three puppets flip together: 2 of 8 sign patterns are as extreme; of equal figures nothing is shown
    assert "| hard | -0.200 (-0.200 to -0.200), d nan, p 0.25 | +0.000 (+0.000 to +0.000), d nan, p 1 |" in text


def test_an_arm_that_was_not_measured_is_not_in_the_table(line):
    write_rows(line, PLAIN, 0, [0.9] * 6)
    assert "hard" not in table(line, (PLAIN, HARD), 1, PARAMS.evaluate)


def test_only_arms_with_an_adapter_have_seeds_and_arms_that_differ_have_files_of_their_own(line):
    assert len(seeds_of(Arm("base", method="base"), 3)) == 1
    arms = [arm for _, arms in EXPERIMENTS.values() for arm in arms if arm.name not in ("self-made", PLAIN.name)]
    files = [line.rows_file(arm, seed) for arm in (PLAIN, *arms) for seed in seeds_of(arm, 3)]
    assert len(set(files)) == len(files)
    assert line.rows_file(Arm("self-made"), 0) == line.rows_file(PLAIN, 0)  # trained once, for three tables


def test_all_changes_of_arms_are_fields_of_the_params():
    for arm in (arm for _, arms in EXPERIMENTS.values() for arm in arms):
        assert set(arm.changes) <= set(type(PARAMS.train).model_fields)
        assert set(arm.world) <= set(type(PARAMS.inpaint.world).model_fields)
        assert all(set(PAIRS.get(name, {})) <= set(type(PARAMS.inpaint).model_fields) for name in arm.pairs)


def pair_row(seed, half):
    words = Words(language="en", text="one")
    return PairRow(
        id=f"{seed}-{half}", split="train", source="self-made", half=half, seed=seed, speaker="", original=words,
        counterpart=words, mouth_boxes=[], consent="", accepted=True,
    )  # fmt: skip


SETS = {"gated": [(1, "first"), (1, "second"), (2, "first"), (4, "second")], "true": [(seed, half) for seed in (1, 2, 3, 4) for half in ("first", "second")],
        "not gated": [(1, "first"), (1, "second"), (2, "first"), (3, "first")]}  # fmt: skip


@pytest.fixture
def sets(line, tmp_path, monkeypatch):
    """Three sets of pairs, of prompts 1 to 4; a latent says which row of which set it is: 0, 100 or 200 and more."""
    latents = {}
    for first, (name, of_set) in enumerate(SETS.items()):
        draft = LatentSet.draft(tmp_path / name, Lineage.of("encode", {"name": name}))
        numbers = torch.arange(len(of_set)) + 100.0 * first
        tensors = {each: numbers[:, None].clone() for each in PER_PAIR}
        texts = torch.cat([numbers.repeat_interleave(2) + torch.tensor([0.0, 0.5] * len(of_set)), torch.tensor([-1.0])])
        draft.write(LATENTS, save(tensors | {each: texts[:, None].clone() for each in PER_CAPTION}))
        latents[name] = draft.seal({"num_pairs": len(of_set), "kept": "yes"})
    monkeypatch.setattr(line, "pairs", lambda name: [pair_row(*pair) for pair in SETS[name]])
    monkeypatch.setattr(line, "latents", latents.__getitem__)
    monkeypatch.setattr(evidence_line, "accepted", list)
    line.backbone = latents["gated"]  # of the lineage only
    return line


def video(line, names, count):
    return load_file(line.chosen(names, count).file(LATENTS))["video"].flatten().tolist()


def test_of_each_prompt_one_pair_is_taken_before_a_second_one(sets):
    assert video(sets, ("gated",), 3) == [0.0, 2.0, 3.0]
    assert video(sets, ("gated",), 4) == [0.0, 2.0, 3.0, 1.0]
    assert video(sets, ("not gated",), 3) == [200.0, 202.0, 203.0]


def test_true_pairs_are_of_the_prompts_and_halves_that_the_gate_accepted(sets):
    assert [SETS["true"][int(number) - 100] for number in video(sets, ("true",), 4)] == [
        (1, "first"), (2, "first"), (4, "second"), (1, "second")]  # fmt: skip


def test_arms_of_two_sets_have_equal_shares_of_different_prompts(sets):
    chosen = sets.chosen(("gated", "true"), 3)
    # prompts 1 and 4 are of the first set, prompt 2 of the second, which has no other that the gate accepted
    assert load_file(chosen.file(LATENTS))["video"].flatten().tolist() == [0.0, 3.0, 102.0]
    assert chosen.info == {"num_pairs": 3, "kept": "yes"}
    assert type(sets).pairs_in_words(sets, Arm("half", ("gated", "true"), share_of_pairs=0.75)) == "3 (3)"


def test_captions_stay_with_their_pairs_and_the_empty_one_is_last(sets):
    tensors = load_file(sets.chosen(("not gated",), 2).file(LATENTS))
    assert tensors["text_mask"].flatten().tolist() == [200.0, 200.5, 202.0, 202.5, -1.0]


def test_too_few_pairs_are_refused_before_a_training_and_a_smaller_set_says_its_number(sets):
    with pytest.raises(UsageError, match="5 are needed"):
        sets.chosen(("gated",), 5)
    sets.common_count = 6
    assert sets.num_pairs(Arm("second round", ("not gated",))) == 4
    assert sets.num_pairs(Arm("half", share_of_pairs=0.5)) == 3


def test_a_folder_of_other_params_is_refused(tmp_path):
    Line(tmp_path, PARAMS, is_quick=False)
    Line(tmp_path, PARAMS, is_quick=True)
    other = PARAMS.model_copy(update={"encode": PARAMS.encode.model_copy(update={"batch_size": 3})})
    with pytest.raises(UsageError, match="empty folder"):
        Line(tmp_path, other, is_quick=False)


def test_a_dub_is_taken_for_the_second_round_only_within_every_strict_bound():
    strict = {name: bound for name, bound in PARAMS.gate.strict.model_dump().items() if bound != "none"}
    figures = {name[4:]: bound for name, bound in strict.items()}
    worse = {name: figures[name] + (-1 if f"min_{name}" in strict else 1) for name in figures}
    rows = [{**figures, "id": "good"}]
    rows += [{**figures, name: value, "id": f"worse {name}"} for name, value in worse.items()]
    rows += [{**figures, name: float("nan"), "id": f"unknown {name}"} for name in figures]
    assert passing(rows, PARAMS) == {"good"}
