"""The gate over tiny clips in which every fault can be made on purpose, with the real Great Expectations."""

import io
import json
import re
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import Line, PairRow
from dubmill.artifacts.store import Backbone, PairSet
from dubmill.config import params as parameters
from dubmill.config.params import Thresholds
from dubmill.errors import BackboneMismatchError, GateFailedError, UnsealedArtifactError, UsageError
from dubmill.media.clips import Clip
from dubmill.metrics import measure_pair
from dubmill.metrics.lipsync import correlation
from dubmill.quality import apply_gates
from dubmill.steps.gate import gate

RATE_HZ, NUM_FRAMES, SIDE = 16_000, 13, 24
BOX = (8, 14, 16, 20)
WORDS = {  # the tone that says each word
    ("en", "one"): 300, ("en", "two"): 500, ("en", "no"): 700,
    ("es", "uno"): 900, ("es", "dos"): 1100, ("es", "no"): 1300,
}  # fmt: skip
VOICES = (5000, 6000)  # a pilot tone each
GATES = tuple(Thresholds.model_fields)
VALUES = parameters.load(Path(__file__).parents[1] / "params.yaml")
PARAMS, SCORERS = VALUES.gate, VALUES.scorers
GOOD = {
    "words_right": 1.0,
    "language_right": 1.0,
    "voice_cosine": 0.9,
    "identity_cosine": 0.9,
    "sync_correlation": 0.9,
    "lse_c": 1.0,
    "lse_d": 0.1,
    "sync_offset_frames": 0.0,
    "mouth_sharpness": 1.0,
    "outside_psnr_db": 30.0,
    "mouth_change": 0.1,
    "old_motion_correlation": 0.2,
    "loudness_dbfs": -20.0,
    "clipped_share": 0.0,
    "duration_gap_ms": 0.0,
}


class ToneScorers:
    """Scorers that read tones and brightness: words and voices are tones, the mouth is as open as its box is red."""

    def __init__(self, patience=None):
        self.patience = patience  # clips until it is interrupted

    missing = {}

    def prepare(self, frames_FHWC, audio_N):
        pass

    def troubles(self, frames_FHWC, audio_N):
        return []

    def words(self, audio_N):
        if self.patience is not None:
            self.patience -= 1
            if self.patience < 0:
                raise KeyboardInterrupt
        tones = {tone: word for word, tone in WORDS.items()}
        heard = [_strongest(half, tones) for half in np.array_split(audio_N, 2)]
        return [tones[tone] for tone in heard if tone]

    def voice(self, audio_N):
        power = np.array([_power(audio_N, tone) for tone in VOICES])
        return power / np.linalg.norm(power) if power.any() else power

    def identity(self, frames_FHWC):
        skin = frames_FHWC[:, :2, :2].mean(axis=(0, 1, 2))
        return skin / np.linalg.norm(skin)

    def mouth(self, frames_FHWC):
        x0, y0, x1, y1 = BOX
        opening = frames_FHWC[:, y0:y1, x0:x1, 0].mean(axis=(1, 2)) / 255
        return np.column_stack([opening, np.tile(BOX, (len(opening), 1))])

    def speech_opening(self, audio_N, num_frames, frame_rate):
        return np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(audio_N, num_frames)])

    def sync_distances(self, frames_FHWC, audio_N, frame_rate):
        seen, heard = self.mouth(frames_FHWC)[:, 0], self.speech_opening(audio_N, len(frames_FHWC), frame_rate)
        return np.array([2 - 2 * correlation(seen, np.roll(heard, shift)) for shift in range(-3, 4)])


def _power(audio_N, tone):
    waves = np.exp(-2j * np.pi * tone * np.arange(len(audio_N)) / RATE_HZ)
    return abs(waves @ audio_N) / max(1, len(audio_N))


def _strongest(audio_N, tones):
    loudest = max(tones, key=lambda tone: _power(audio_N, tone))
    return loudest if _power(audio_N, loudest) > 1e-6 else None


def opening(cycles):
    return 0.5 + 0.4 * np.sin(2 * np.pi * cycles * np.arange(NUM_FRAMES) / NUM_FRAMES)


def talk(words, mouth_F, *, voice=0, skin=(200, 150, 100), sound_F=None):
    """A face whose mouth opens by `mouth_F`, saying two words as loud as it is open (or by `sound_F`)."""
    frames = np.full((NUM_FRAMES, SIDE, SIDE, 3), 90, np.uint8)
    frames[:, :2, :2] = skin
    x0, y0, x1, y1 = BOX
    frames[:, y0:y1, x0:x1, 0] = (255 * mouth_F).astype(np.uint8)[:, None, None]
    frames[:, y0:y1:2, x0:x1, 1] = 10  # lips have edges
    num_samples = round(NUM_FRAMES / 12.5 * RATE_HZ)
    time = np.arange(num_samples) / RATE_HZ
    halves = np.array_split(time, 2)
    tones = np.concatenate([np.sin(2 * np.pi * WORDS[word] * half) for word, half in zip(words, halves, strict=True)])
    envelope = np.interp(time * 12.5, np.arange(NUM_FRAMES) + 0.5, mouth_F if sound_F is None else sound_F)
    sound = 0.4 * envelope * (tones + 0.5 * np.sin(2 * np.pi * VOICES[voice] * time))
    return Clip(frames, Fraction(25, 2), sound.astype(np.float32)[None], RATE_HZ)


ORIGINAL = talk([("en", "one"), ("en", "no")], opening(2))
GOOD_WORDS = [("es", "uno"), ("es", "no")]
DUBBED = talk(GOOD_WORDS, opening(3))


def _redder(clip):
    """The same mouth motion in another colour: changed, and yet the old motion."""
    return replace(clip, frames_FHWC=np.where(ORIGINAL.frames_FHWC == 90, 150, clip.frames_FHWC).astype(np.uint8))


def _recoloured_mouth():
    frames = talk(GOOD_WORDS, opening(2)).frames_FHWC.copy()
    x0, y0, x1, y1 = BOX
    frames[:, y0:y1, x0:x1, 2] = 255
    return replace(talk(GOOD_WORDS, opening(2)), frames_FHWC=frames)


def _blurred_mouth():
    frames = DUBBED.frames_FHWC.copy()
    x0, y0, x1, y1 = BOX
    frames[:, y0:y1, x0:x1, 1] = 50
    return replace(DUBBED, frames_FHWC=frames)


FAULTS = {
    "min_words_right": talk([("es", "uno"), ("es", "dos")], opening(3)),
    "min_language_right": talk([("es", "uno"), ("en", "no")], opening(3)),
    "min_voice_cosine": talk(GOOD_WORDS, opening(3), voice=1),
    "min_identity_cosine": talk(GOOD_WORDS, opening(3), skin=(0, 0, 255)),
    "min_sync_correlation": talk(GOOD_WORDS, opening(3), sound_F=1 - opening(3)),
    "min_lse_c": talk(GOOD_WORDS, opening(3), sound_F=np.full(NUM_FRAMES, 0.5)),
    "max_lse_d": talk(GOOD_WORDS, opening(3), sound_F=np.full(NUM_FRAMES, 0.5)),
    "max_sync_offset_frames": talk(GOOD_WORDS, opening(3), sound_F=np.roll(opening(3), 1)),
    "min_mouth_sharpness": _blurred_mouth(),
    "min_outside_psnr_db": _redder(DUBBED),
    "min_mouth_change": talk(GOOD_WORDS, opening(2)),
    "max_old_motion_correlation": _recoloured_mouth(),
    "min_loudness_dbfs": replace(DUBBED, audio_CN=DUBBED.audio_CN * 0.001),
    "max_clipped_share": replace(DUBBED, audio_CN=np.clip(DUBBED.audio_CN * 12, -1, 1)),
    "max_duration_gap_ms": replace(DUBBED, audio_CN=DUBBED.audio_CN[:, :-1600]),
}


def row(row_id, split="train"):
    return PairRow(
        id=row_id,
        split=split,
        source="world" if split == "heldout" else "self-made",
        half="first",
        seed=1,
        speaker="a square",
        original=Line(language="en", text="one no"),
        counterpart=Line(language="es", text="uno no"),
        mouth_boxes=[list(map(float, BOX))] * NUM_FRAMES,
        accepted=False,
    )


def members(row_id, counterpart):
    clips = {"original": ORIGINAL, "counterpart": counterpart}
    stored = {f"{row_id}/{name}.clip": clip.to_bytes() for name, clip in clips.items()}
    return stored | {f"{row_id}/{name}.mp4": f"mp4 of {row_id} {name}".encode() for name in clips}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    draft = Backbone.draft(tmp_path_factory.mktemp("backbone") / "b", Lineage(step="backbone", params={}))
    return draft.seal({"source": "test", "text_encoder_digest": "text"})


def pair_set(out, backbone, counterparts, **info):
    """A sealed PairSet; ids that begin with `heldout` are of that split."""
    lineage = Lineage(
        step="inpaint", params={}, backbone=backbone.digest, licence="Apache-2.0", pair_source="self-made"
    )
    draft = PairSet.draft(out, lineage)
    rows = [row(name, "heldout" if name.startswith("heldout") else "train") for name in counterparts]
    files = {key: data for name, clip in counterparts.items() for key, data in members(name, clip).items()}
    draft.add_shard(0, rows, files)
    return draft.seal({"gated": False, **info})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, backbone):
    """Three good pairs, one that says the wrong word, and two held out, one of them just as wrong."""
    wrong = FAULTS["min_words_right"]
    counterparts = {
        "a": DUBBED, "b": DUBBED, "wrong": wrong, "c": DUBBED, "heldout-good": DUBBED, "heldout-wrong": wrong,
    }  # fmt: skip
    return pair_set(
        tmp_path_factory.mktemp("pairs") / "p",
        backbone,
        counterparts,
        note="kept",
        left_out_clips={"dim": "no face is in it"},
    )


@pytest.fixture(autouse=True)
def scorers(monkeypatch):
    monkeypatch.setattr(
        "dubmill.steps.gate.world_of",
        lambda backbone: SimpleNamespace(is_toy=True, scorers=lambda params: ToneScorers()),
    )


@pytest.fixture(scope="module")
def gated(tmp_path_factory, backbone, pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "dubmill.steps.gate.world_of",
            lambda backbone: SimpleNamespace(is_toy=True, scorers=lambda params: ToneScorers()),
        )
        return gate(backbone, pairs, SCORERS, PARAMS, tmp_path_factory.mktemp("gate") / "g")


def strict(**bounds):
    return PARAMS.model_copy(update={"strict": PARAMS.strict.model_copy(update=bounds)})


def test_accepted_and_heldout_pairs_go_on_and_the_rejected_stay_behind(gated, pairs):
    assert [(one.id, one.accepted) for one in gated.rows] == [
        ("a", True), ("b", True), ("c", True), ("heldout-good", False), ("heldout-wrong", False),
    ]  # fmt: skip
    for one in gated.rows:
        for name in ("original.clip", "original.mp4", "counterpart.clip", "counterpart.mp4"):
            assert gated.data(one.id, name) == pairs.data(one.id, name)
    assert gated.split("heldout") == pairs.split("heldout")


def test_the_gate_tells_what_it_did_in_its_info_and_its_figures(gated):
    assert gated.info["gated"] is True
    assert (gated.info["num_accepted"], gated.info["num_rejected"], gated.info["num_heldout"]) == (3, 1, 2)
    assert gated.info["by_gate"] == {name: int(name == "min_words_right") for name in GATES}
    assert gated.info["pair_source"] == "self-made"
    assert gated.info["note"] == "kept"
    assert gated.info["left_out_clips"] == {"dim": "no face is in it"}
    assert gated.lineage.licence == "Apache-2.0"
    figures = json.loads((gated.path / "gate.json").read_text())
    assert figures["accepted_share"] == 0.75
    assert figures["num_left_out_clips"] == 1
    assert "min_words_right,strict,1" in (gated.path / "plots/by_gate.csv").read_text()


def test_rejected_pairs_are_kept_to_look_at_with_their_reasons(gated):
    rejects = pq.read_table(gated.path / "rejects.parquet").to_pylist()
    assert [(one["id"], one["reasons"]) for one in rejects] == [("wrong", "min_words_right: 0.5 is below 1")]
    assert rejects[0]["recognised_counterpart"] == "uno dos (es)"
    with tarfile.open(fileobj=io.BytesIO((gated.path / "rejects.tar").read_bytes())) as tar:
        assert tar.getnames() == ["wrong/counterpart.mp4", "wrong/original.mp4"]
        assert tar.extractfile("wrong/original.mp4").read() == b"mp4 of wrong original"


def test_heldout_pairs_are_measured_and_not_judged(gated):
    table = pq.read_table(gated.path / "measurements.parquet").to_pylist()
    found = {one["id"]: one for one in table}
    assert len(found) == 6
    assert found["heldout-wrong"]["words_right"] == 0.5
    assert (found["heldout-wrong"]["verdict"], found["heldout-wrong"]["reasons"]) == ("held out", "")


def test_every_page_reads_without_a_network(gated):
    pages = sorted(gated.path.rglob("*.html"))
    assert len(pages) >= 6
    for page in pages:
        text = page.read_text()
        assert not re.search(r"<script|(?:src|href)=\"https?:|url\(.?https?:|@import", text), page
        for link in re.findall(r'href="([^"#]+)"', text):
            assert (page.parent / link).resolve().is_file(), (page, link)


def test_the_page_names_the_pair_source_first_and_the_reasons(gated):
    page = (gated.path / "gate.html").read_text()
    assert page.index("4 self-made training pairs") < page.index("<table>")
    assert "min_words_right: 0.5 is below 1" in page
    assert page.count("<svg") == len(GATES)
    assert "oracle" in page
    assert "Clips without a pair (1)" in page
    assert "no face is in it" in page


def test_each_gate_rejects_its_own_fault_by_name():
    rows = [measure_pair(ORIGINAL, clip, row=row(name), scorers=ToneScorers()) for name, clip in FAULTS.items()]
    rows.append(measure_pair(ORIGINAL, DUBBED, row=row("good"), scorers=ToneScorers()))
    verdicts = {one.id: one for one in apply_gates(rows, PARAMS).verdicts}
    assert set(FAULTS) == set(GATES)
    assert verdicts["good"].is_accepted, verdicts["good"].reasons
    for name in GATES:
        assert name in {violation.gate.name for violation in verdicts[name].violations}, (name, verdicts[name].reasons)


def test_a_column_outside_its_bound_breaks_exactly_its_gate():
    off = {name: GOOD | {column(name): beyond(name)} for name in GATES}
    result = apply_gates([{"id": name, **figures} for name, figures in off.items()], PARAMS)
    for verdict in result.verdicts:
        assert [one.gate.name for one in verdict.violations] == [verdict.id]
    assert result.by_gate("strict") == dict.fromkeys(GATES, 1)


def column(name):
    return name.removeprefix("min_").removeprefix("max_")


def beyond(name):
    return getattr(PARAMS.strict, name) + (-0.001 if name.startswith("min_") else 0.001)


def test_one_threshold_flips_a_verdict():
    rows = [{"id": "one", **GOOD, "voice_cosine": 0.55}]
    assert apply_gates(rows, PARAMS).verdicts[0].is_accepted
    assert apply_gates(rows, PARAMS).verdicts[0].warning_reasons == "min_voice_cosine: 0.55 is below 0.6"
    assert (
        apply_gates(rows, strict(min_voice_cosine=0.57)).verdicts[0].reasons == "min_voice_cosine: 0.55 is below 0.57"
    )
    assert apply_gates(rows, strict(min_voice_cosine=0.55)).verdicts[0].is_accepted, "a bound itself is inside"


def test_a_face_that_is_not_there_is_told_apart_from_another_face():
    row = {"id": "one", **GOOD, "identity_cosine": 0.0, "not_measured": "no face is in it"}
    bounds = PARAMS.model_copy(update={"strict": PARAMS.strict.model_copy(update={"min_identity_cosine": 0.5})})
    assert apply_gates([row], bounds).verdicts[0].reasons == "min_identity_cosine: 0 is below 0.5 (no face is in it)"


def test_what_could_not_be_measured_is_rejected():
    verdict = apply_gates([{"id": "one", **GOOD, "outside_psnr_db": float("nan")}], PARAMS).verdicts[0]
    assert verdict.reasons == "min_outside_psnr_db: could not be measured"


def test_too_few_accepted_pairs_fail_and_name_the_gates_that_ate_them(tmp_path, backbone):
    counterparts = {
        "a": FAULTS["min_words_right"], "b": FAULTS["min_words_right"], "c": FAULTS["min_voice_cosine"],
    }  # fmt: skip
    pairs = pair_set(tmp_path / "pairs", backbone, counterparts)
    with pytest.raises(GateFailedError) as failure:
        gate(backbone, pairs, SCORERS, PARAMS, tmp_path / "out")
    said = failure.value.sentence
    assert "only 0 of 3 pairs passed" in said
    assert "min_words_right rejected 2, min_voice_cosine rejected 1" in said
    assert str(tmp_path / "out/gate.html") in said
    assert "min_voice_cosine: 0" in (tmp_path / "out/gate.html").read_text()
    with pytest.raises(UnsealedArtifactError):
        PairSet.open(tmp_path / "out")


def test_a_run_killed_while_measuring_goes_on_and_ends_the_same(tmp_path, monkeypatch, backbone, pairs, gated):
    """The batch that was saved is not measured again: the second run would be interrupted if it were."""
    monkeypatch.setattr("dubmill.steps.gate.BATCH", 2)
    monkeypatch.setattr(
        "dubmill.steps.gate.world_of",
        lambda backbone: SimpleNamespace(is_toy=True, scorers=lambda params: ToneScorers(patience=5)),
    )
    with pytest.raises(KeyboardInterrupt):
        gate(backbone, pairs, SCORERS, PARAMS, tmp_path / "out")
    with pytest.raises(UnsealedArtifactError):
        PairSet.open(tmp_path / "out")
    monkeypatch.setattr(
        "dubmill.steps.gate.world_of",
        lambda backbone: SimpleNamespace(is_toy=True, scorers=lambda params: ToneScorers(patience=8)),
    )
    resumed = gate(backbone, pairs, SCORERS, PARAMS, tmp_path / "out")
    assert resumed.digest == gated.digest
    monkeypatch.setattr(
        "dubmill.steps.gate.world_of",
        lambda backbone: SimpleNamespace(is_toy=True, scorers=lambda params: ToneScorers(patience=0)),
    )
    assert gate(backbone, pairs, SCORERS, PARAMS, tmp_path / "out").digest == gated.digest


def test_gated_pairs_and_foreign_pairs_are_refused(tmp_path, backbone, gated, pairs):
    with pytest.raises(UsageError, match="through the gate already"):
        gate(backbone, gated, SCORERS, PARAMS, tmp_path / "out")
    other = Backbone.draft(tmp_path / "other", Lineage(step="backbone", params={"another": 1}))
    with pytest.raises(BackboneMismatchError):
        gate(other.seal({"text_encoder_digest": "text"}), pairs, SCORERS, PARAMS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_without_training_pairs_fails_plainly(tmp_path, backbone):
    pairs = pair_set(tmp_path / "pairs", backbone, {"heldout-only": DUBBED})
    with pytest.raises(GateFailedError, match="no training pair"):
        gate(backbone, pairs, SCORERS, PARAMS, tmp_path / "out")
