"""The blind study: a page that does not tell the methods, and the figures of its answers."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import DubRow, Line, PairRow
from dubmill.artifacts.store import DubSet, PairSet
from dubmill.cli.main import app
from dubmill.errors import InvalidArtifactError, UsageError
from dubmill.report.study import ASPECTS, KEY, NUM_CHECKS, PAGE, Key, make_study, read_study, study_page

SPANISH, ENGLISH = Line(language="es", text="uno <dos>"), Line(language="en", text="one, two")
METHODS = ("adapter", "base", "other-system")
PEOPLE = 4


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Two held-out pairs of each of four people, dubbed by three methods; no real video is needed."""
    folder = tmp_path_factory.mktemp("study")
    pairs = PairSet.draft(folder / "gate", Lineage(step="gate", params={}))
    dubs = DubSet.draft(folder / "dub", Lineage(step="dub", params={}))
    for person in range(PEOPLE):
        rows, dub_rows, files, dubbed = [], [], {}, {}
        for half in ("first", "second"):
            pair_id = f"p{person}-{half}"
            rows.append(
                PairRow(
                    id=pair_id,
                    split="heldout",
                    source="world",
                    half=half,
                    seed=person,
                    speaker="A person",
                    original=ENGLISH,
                    counterpart=SPANISH,
                    mouth_boxes=[],
                    accepted=False,
                )  # fmt: skip
            )
            files[f"{pair_id}/original.mp4"] = b"original"
            for method in METHODS:
                dub_rows.append(DubRow(id=f"{pair_id}-{method}", pair_id=pair_id, method=method, line=SPANISH, seed=1))
                dubbed[f"{pair_id}-{method}/dub.mp4"] = f"{pair_id} {person}".encode()
        pairs.add_shard(person, rows, files)
        dubs.add_shard(person, dub_rows, dubbed)
    return pairs.seal({"gated": True}), dubs.seal({"methods": list(METHODS)})


@pytest.fixture
def study(room, tmp_path):
    pairs, dubs = room
    make_study(dubs, pairs, ["base"], 4, 5, tmp_path)
    return tmp_path


def key_of(folder):
    return Key.model_validate_json((folder / KEY).read_bytes())


def answer(folder, rater, choose):
    """The answers of a rater who answers every question of a trial with `choose(trial)`."""
    key = key_of(folder)
    answers = {trial.id: dict.fromkeys(ASPECTS, choose(trial)) for trial in key.trials}
    path = folder / f"{rater}.json"
    path.write_text(json.dumps({"study": key.study, "rater": rater, "answers": answers}))
    return path


def adapter_wins(trial):
    return "same" if trial.a == trial.b else "a" if trial.a == "adapter" else "b"


def test_the_page_shows_all_trials_and_names_no_method(study):
    page = (study / PAGE).read_text()
    assert page.count("data-trial=") == len(key_of(study).trials) == 4 + NUM_CHECKS
    words = re.sub(r"data:video/mp4;base64,[^\"]*|<style>.*?</style>", "", page, flags=re.DOTALL)
    assert not [name for name in METHODS if name in words]
    assert "uno &lt;dos&gt;" in page
    assert "http" not in words  # offline
    players = re.findall("<video [^>]*>", page)
    assert len(players) == 3 * (4 + NUM_CHECKS)
    assert not [one for one in players if " src=" in one]  # a browser has few players: the script sets those of a trial


def test_clips_of_other_people_come_before_a_second_clip_of_one_and_sides_are_drawn(room, tmp_path):
    pairs, dubs = room
    make_study(dubs, pairs, ["base"], PEOPLE, 5, tmp_path / "few")
    assert len({trial.cluster for trial in key_of(tmp_path / "few").trials}) == PEOPLE
    make_study(dubs, pairs, ["base", "other-system"], 2 * PEOPLE, 5, tmp_path / "all")
    trials = [trial for trial in key_of(tmp_path / "all").trials if trial.a != trial.b]
    assert len({(trial.pair_id, *sorted((trial.a, trial.b))) for trial in trials}) == len(trials) == 4 * PEOPLE
    assert {trial.a == "adapter" for trial in trials} == {True, False}


def test_preferences_are_counted_whatever_the_side_and_equal_clips_apart(study):
    files = [answer(study, "ana", adapter_wins), answer(study, "eve", lambda trial: "same")]
    result = read_study(study / KEY, files)
    overall = next(one for one in result.preferences if one.aspect == "overall")
    assert (overall.wins, overall.same, overall.losses, overall.mean) == (4, 4, 0, 0.5)
    assert (result.num_raters, result.num_checks, result.num_same) == (2, 20, 20)
    assert overall.p_holm == pytest.approx(5 * 2 / 2**PEOPLE)  # four people flip together, five aspects
    assert "| base | overall | 4 | 4 | 0 | +0.50 (+0.50 to +0.50) | 0.625 | unknown |" in study_page(result)


def test_the_number_of_people_for_a_later_study_follows_the_spread(study):
    chosen = {
        trial.cluster: place
        for place, trial in enumerate(trial for trial in key_of(study).trials if trial.a != trial.b)
    }
    files = [answer(study, "ana", lambda trial: adapter_wins(trial) if chosen[trial.cluster] % 2 else "same")]
    (overall,) = (one for one in read_study(study / KEY, files).preferences if one.aspect == "overall")
    spread = np.std([0, 1, 0, 1], ddof=1)
    assert overall.needed == np.ceil(((1.959964 + 0.841621) * spread / 0.2) ** 2)


def test_answers_of_another_study_of_one_rater_twice_or_unknown_ones_are_refused(study, room, tmp_path):
    file = answer(study, "ana", adapter_wins)
    with pytest.raises(UsageError, match="'ana' is in another file too"):
        read_study(study / KEY, [file, file])
    twin = answer(study, "Ana ", adapter_wins)
    with pytest.raises(UsageError, match="'Ana ' is in another file too"):
        read_study(study / KEY, [file, twin])
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "study": "other"}))
    with pytest.raises(UsageError, match="study other"):
        read_study(study / KEY, [file])
    file.write_text(json.dumps({**content, "answers": {"t1": {"overall": "c"}}}))
    with pytest.raises(InvalidArtifactError, match="'c' is no answer"):
        read_study(study / KEY, [file])
    with pytest.raises(InvalidArtifactError, match="not a file of a study"):
        read_study(study / PAGE, [])
    file.write_text("[" * 100_000)
    with pytest.raises(InvalidArtifactError, match="RecursionError"):
        read_study(study / KEY, [file])


def test_a_folder_with_another_study_keeps_its_key_and_a_method_without_dubs_is_refused(study, room):
    pairs, dubs = room
    before = (study / KEY).read_bytes()
    with pytest.raises(UsageError, match="another study"):
        make_study(dubs, pairs, ["base"], 3, 5, study)
    assert (study / KEY).read_bytes() == before
    for methods, count in ((["none"], 1), ([], 1), (["adapter"], 1), (["base"], 2 * PEOPLE + 1)):
        with pytest.raises(UsageError, match="are needed"):
            make_study(dubs, pairs, methods, count, 5, study / "other")


def test_the_commands_make_a_study_and_print_its_results(room, tmp_path):
    pairs, dubs = room
    options = ["study", "new", "--dubs", str(dubs.path), "--pairs", str(pairs.path), "--clips", "2"]
    options += ["--against", "base", "--against", "base", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, options)
    assert result.output.startswith("study: 4 comparisons in ")
    answers = answer(tmp_path, "ana", adapter_wins)
    result = CliRunner().invoke(app, ["study", "results", str(tmp_path / KEY), str(answers)])
    assert "| base | overall | 2 | 0 | 0 |" in result.output
    assert CliRunner().invoke(app, [*options, "--seed", "-1"]).exit_code == 2
