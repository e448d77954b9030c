"""Own recordings as a source: checked one by one, then pairs by inpainting, or true pairs as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from doubles import recordings

from dubmill.artifacts.rows import Line
from dubmill.config import overlays
from dubmill.config import params as parameters
from dubmill.errors import InvalidParamsError, UnreadableMediaError, UsageError
from dubmill.prompting.footage import halves_of, read_footage
from dubmill.steps import synthesize as synthesize_module
from dubmill.steps.backbone import backbone
from dubmill.steps.dub import dub
from dubmill.steps.encode import encode
from dubmill.steps.evaluate import evaluate
from dubmill.steps.gate import gate
from dubmill.steps.inpaint import inpaint
from dubmill.steps.prompts import prompts
from dubmill.steps.synthesize import synthesize
from dubmill.steps.train import train

ROOT = Path(__file__).parents[1]
FEW = {"num_steps": 2, "video_guidance": 1.0, "audio_guidance": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One recording in one language, a true pair to train on, a true pair held out, and one that is too short."""
    folder = tmp_path_factory.mktemp("footage")
    recordings.film(folder / "one.mp4", recordings.ENGLISH)
    recordings.film(folder / "short.mp4", recordings.ENGLISH, is_half=True)
    lines = [recordings.row("one.mp4"), recordings.row("short.mp4", speaker="Bo, a man")]
    for split, seed in (("train", 7), ("heldout", 8)):
        for texts, language in recordings.LANGUAGES.items():
            name = f"{split}-{language}.mp4"
            recordings.film(folder / name, texts, seed=seed, is_half=True)
            lines.append(
                recordings.row(
                    name,
                    language=language,
                    text=texts[0],
                    split=split,
                    content="counting",
                    speaker=f"speaker {seed}",
                    consent=f"speaker {seed} agrees",
                    dub_language="",
                    dub_text="",
                )
            )
    recordings.manifest(folder, lines)
    return folder


@pytest.fixture(scope="module")
def values(folder):
    data = overlays.read_yaml(ROOT / "params.yaml")
    few = {
        "prompts": {
            "source": "footage",
            "footage": str(folder),
            "licence": "CC-BY-4.0",
            "languages": ["en", "es"],
            "line_seconds": 1.32,
        },
        "inpaint": {"sampling": FEW},
        "gate": {"min_accepted_share": 0.0},
        "train": {"num_steps": 1, "num_warmup_steps": 0},
        "dub": {"methods": ["base", "cascade"], "sampling": FEW},
        "evaluate": {"num_bootstrap": 100, "num_showcase": 1},
    }
    return parameters.validate(parameters.Params, overlays.merge(data, few), "test")


@pytest.fixture(scope="module")
def nano(values, tmp_path_factory):
    return backbone(values.backbone, tmp_path_factory.mktemp("nano") / "backbone")


@pytest.fixture(scope="module")
def scripts(values, tmp_path_factory):
    return prompts(values.prompts, tmp_path_factory.mktemp("prompts") / "prompts")


@pytest.fixture(scope="module")
def clips(nano, scripts, values, tmp_path_factory):
    return synthesize(nano, scripts, values.synthesize, tmp_path_factory.mktemp("clips") / "clips")


def test_the_set_holds_the_recordings_byte_for_byte_with_their_consent_and_licence(folder, scripts):
    assert [row.source for row in scripts.rows] == ["footage", "footage", "footage-pair", "footage-pair"]
    assert scripts.data("p00000", "clip.video") == (folder / "one.mp4").read_bytes()
    assert scripts.data("p00002", "counterpart.video") == (folder / "train-es.mp4").read_bytes()
    assert scripts.lineage.licence == "CC-BY-4.0"
    assert scripts.lineage.consent == "Ana agrees to be dubbed; speaker 7 agrees; speaker 8 agrees"
    first = scripts.rows[0]
    assert (first.first.text, first.second.text) == recordings.ENGLISH
    assert (first.first_dubbed.text, first.second_dubbed.text) == recordings.SPANISH
    assert first.caption_first_dubbed.startswith('The woman is speaking Spanish, saying: "uno dos tres"')


def test_another_recording_under_the_same_name_is_other_work(values, scripts, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    recordings.film(copy / "one.mp4", recordings.ENGLISH, seed=9)
    recordings.manifest(copy, [recordings.row("one.mp4")])
    params = values.prompts.model_copy(update={"footage": str(copy)})
    first = prompts(params, tmp_path / "out").digest
    assert prompts(params, tmp_path / "out").digest == first
    recordings.film(copy / "one.mp4", recordings.ENGLISH, seed=10)
    assert prompts(params, tmp_path / "out").digest != first


def test_recordings_become_clips_of_the_lines_size_without_loading_a_model(
    nano, scripts, values, tmp_path, monkeypatch
):
    loads = []
    real = synthesize_module.load
    monkeypatch.setattr(
        synthesize_module, "load", lambda backbone, needed: (loads.append(needed), real(backbone, needed=needed))[1]
    )
    clips = synthesize(nano, scripts, values.synthesize, tmp_path / "clips")
    assert loads == [[]]
    assert clips.info["left_out_clips"] == {"p00001": "the recording lasts 1.36 s, a clip needs 2.64 s"}
    assert [(row.id, row.has_clip) for row in clips.rows] == [("p00000", True), ("p00002", False), ("p00003", False)]
    assert clips.clip("p00000", "clip").num_frames == 33
    assert clips.clip("p00002", "counterpart").num_frames == 17


def test_one_language_becomes_pairs_by_inpainting_and_held_out_true_pairs_stay_as_they_are(
    nano, clips, values, tmp_path
):
    pairs = inpaint(nano, clips, values.inpaint, tmp_path / "pairs")
    assert [(row.id, row.source, row.split) for row in pairs.rows] == [
        ("p00003-first", "footage", "heldout"),
        ("p00000-first", "self-made", "train"),
        ("p00000-second", "self-made", "train"),
    ]
    assert list(pairs.info["left_out_clips"]) == ["p00002"]
    assert pairs.rows[1].consent == "Ana agrees to be dubbed"
    original = clips.clip("p00000", "clip").cut(0, 17)
    assert (pairs.clip("p00000-first", "original").frames_FHWC == original.frames_FHWC).all()
    assert pairs.lineage.licence == "Apache-2.0 AND CC-BY-4.0"


def test_true_pairs_go_through_the_whole_line_with_their_consent_and_are_evaluated_against_the_truth(
    nano, clips, values, tmp_path
):
    params = values.inpaint.model_copy(update={"source": "footage"})
    pairs = inpaint(nano, clips, params, tmp_path / "pairs")
    assert {(row.id, row.source) for row in pairs.rows} == {("p00002-first", "footage"), ("p00003-first", "footage")}
    assert list(pairs.info["left_out_clips"]) == ["p00000"]
    lenient = values.gate.strict.model_copy(
        update={"min_words_right": 0.0, "min_language_right": 0.0, "min_outside_psnr_db": 0.0, "min_mouth_change": 0.0}
    )
    accepted = gate(
        nano, pairs, values.scorers, values.gate.model_copy(update={"strict": lenient}), tmp_path / "accepted"
    )
    latents = encode(nano, accepted, values.encode, tmp_path / "latents")
    adapter = train(nano, latents, values.train, tmp_path / "adapter")
    dubs = dub(nano, adapter, accepted, values.dub, tmp_path / "dubs")
    report = evaluate(nano, dubs, accepted, adapter, values.scorers, values.evaluate, tmp_path / "report")
    for artifact in (pairs, accepted, latents, adapter, dubs, report):
        assert artifact.lineage.pair_source == "footage"
        assert artifact.lineage.consent == clips.lineage.consent != ""
        assert artifact.lineage.licence == "Apache-2.0 AND CC-BY-4.0"
        assert artifact.lineage.backbone == nano.digest
    assert "oracle" in report.file("metrics.json").read_text()


@pytest.fixture
def small(tmp_path):
    """A folder with one recording that is in order."""
    recordings.film(tmp_path / "good.mp4", recordings.ENGLISH)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"consent": ""}, "no consent"),
        ({"speaker": ""}, "no speaker"),
        ({"language": "fi"}, "not among"),
        ({"language": ""}, "not among"),
        ({"text": ""}, "no text"),
        ({"text": 'he says "one"'}, "double quote"),
        ({"text": "один два три"}, "script"),
        ({"text": "one"}, "too few words"),
        ({"split": "test"}, "neither train nor heldout"),
        ({"dub_language": "en"}, "own language"),
        ({"video": "nowhere.mp4"}, "no such file"),
        ({"video": "manifest.csv"}, "not a media file"),
        ({"dub_text": "", "dub_language": "it"}, "phrase bank"),
    ],
)
def test_a_recording_that_cannot_be_used_is_dropped_by_name_and_the_others_go_on(values, small, changes, reason):
    bad = recordings.row("good.mp4", speaker="Bo, a man") | changes
    recordings.manifest(small, [recordings.row("good.mp4"), bad])
    footage = read_footage(values.prompts.model_copy(update={"footage": str(small)}))
    assert len(footage.prompts) == 1
    (dropped,) = footage.dropped
    assert reason in dropped["reason"]
    assert dropped["id"].endswith(bad["video"])


def test_without_words_to_dub_sentences_of_the_phrase_bank_that_fit_are_taken(values, small):
    recordings.manifest(small, [recordings.row("good.mp4", dub_text="", dub_language="")])
    params = values.prompts.model_copy(update={"footage": str(small), "line_seconds": 5.0})
    (prompt,) = read_footage(params).prompts
    assert prompt.first_dubbed.language == prompt.second_dubbed.language == "es"
    assert prompt.first_dubbed.text != prompt.second_dubbed.text


def test_a_second_recording_of_the_same_language_and_content_makes_no_pair(values, small):
    lines = [recordings.row("good.mp4", content="a"), recordings.row("good.mp4", content="a")]
    recordings.manifest(small, lines)
    footage = read_footage(values.prompts.model_copy(update={"footage": str(small)}))
    assert [prompt.source for prompt in footage.prompts] == ["footage"]
    assert "no second language" in footage.dropped[0]["reason"]


def test_no_usable_recording_ends_the_step_with_the_first_reason(values, small, tmp_path):
    recordings.manifest(small, [recordings.row("good.mp4", consent="")])
    with pytest.raises(InvalidParamsError, match="no consent") as refused:
        prompts(values.prompts.model_copy(update={"footage": str(small)}), tmp_path / "out")
    assert refused.value.where == str(small / "manifest.csv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "video,language,text,speaker\ngood.mp4,en,one two,Ana\n",
        'video,language,text,speaker,consent\ngood.mp4,en,"one',
    ],
)
def test_a_manifest_without_a_column_or_without_a_file_is_refused(values, tmp_path, text):
    if text:
        (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(UsageError) as refused:
        read_footage(values.prompts.model_copy(update={"footage": str(tmp_path)}))
    assert refused.value.where == str(tmp_path / "manifest.csv")


def test_a_field_of_a_manifest_may_hold_any_separator_of_lines(values, small):
    recordings.manifest(small, [recordings.row("good.mp4", consent="yes\u2028on paper\nof 2026")])
    footage = read_footage(values.prompts.model_copy(update={"footage": str(small)}))
    assert (footage.consent, footage.dropped) == ("yes\u2028on paper\nof 2026", [])


def test_only_recordings_that_are_too_short_end_the_step(nano, values, tmp_path):
    recordings.film(tmp_path / "short.mp4", recordings.ENGLISH, is_half=True)
    recordings.manifest(tmp_path, [recordings.row("short.mp4")])
    scripts = prompts(values.prompts.model_copy(update={"footage": str(tmp_path)}), tmp_path / "prompts")
    with pytest.raises(UnreadableMediaError, match="lasts"):
        synthesize(nano, scripts, values.synthesize, tmp_path / "clips")


def test_a_text_without_a_mark_is_parted_by_speaking_time():
    former, latter = halves_of(Line(language="en", text="Good morning everybody. It is nice to see you here."), 2.0)
    assert (former.text, latter.text) == ("Good morning everybody.", "It is nice to see you here.")


def test_many_consent_statements_are_counted_and_digested(values, small):
    lines = [recordings.row("good.mp4", speaker=f"s{index}", consent=f"s{index} agrees") for index in range(21)]
    recordings.manifest(small, lines)
    consent = read_footage(values.prompts.model_copy(update={"footage": str(small)})).consent
    assert consent.startswith("21 statements, sha256 ")
