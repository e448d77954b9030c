"""Evaluation and its report, over films of the nano world and scorers that know what each clip contains."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dubmill import media, report
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import DubRow, Line, PairRow
from dubmill.artifacts.store import Adapter, Backbone, DubSet, PairSet, Report
from dubmill.config.params import EvaluateParams, load
from dubmill.errors import BackboneMismatchError, InvalidArtifactError
from dubmill.media.clips import Clip
from dubmill.metrics import METRICS
from dubmill.metrics.shares import share_of_way
from dubmill.nano import world
from dubmill.report import charts, figures, page, showcase, stills
from dubmill.steps.evaluate import evaluate

SCORERS = load(Path(__file__).parents[1] / "params.yaml").scorers
PARAMS = EvaluateParams(seed=23, num_bootstrap=200, confidence=0.95, num_showcase=3)
NUM_PAIRS = 8


class LookupScorers:
    """Scorers for films whose content is known: words and mouths are looked up, everything else is calculated from the clip."""

    def __init__(self) -> None:
        self.word_table, self.opening_table = {}, {}

    def register(self, clip: Clip, line: Line, opening_F: np.ndarray) -> Clip:
        self.word_table[_key(clip.mono_N)] = [(line.language, word) for word in line.text.split()]
        self.opening_table[_key(clip.frames_FHWC)] = opening_F
        return clip

    missing = {}

    def prepare(self, frames_FHWC, audio_N):
        pass

    def troubles(self, frames_FHWC, audio_N):
        return []

    def words(self, audio_N):
        return self.word_table[_key(audio_N)]

    def voice(self, audio_N):
        bands = np.abs(np.fft.rfft(audio_N))[:4000].reshape(20, -1).mean(axis=1)
        return bands / np.linalg.norm(bands)

    def identity(self, frames_FHWC):
        colours = frames_FHWC.reshape(-1, 3).mean(axis=0) + 1
        return colours / np.linalg.norm(colours)

    def mouth(self, frames_FHWC):
        boxes = np.tile([24.0, 36.0, 40.0, 48.0], (len(frames_FHWC), 1))
        return np.column_stack([self.opening_table[_key(frames_FHWC)], boxes])

    def speech_opening(self, audio_N, num_frames, frame_rate):
        return np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(audio_N, num_frames)])

    def sync_distances(self, frames_FHWC, audio_N, frame_rate):
        seen, heard = self.mouth(frames_FHWC)[:, 0], self.speech_opening(audio_N, len(frames_FHWC), frame_rate)
        return np.array([np.mean(np.abs(seen - np.roll(heard, shift))) for shift in range(-3, 4)])


def _key(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _take(seed: int, line: Line) -> tuple[Clip, np.ndarray, np.ndarray]:
    """The first half of a film: clip, mouth opening, mouth boxes."""
    phrase = world.Phrase(line.language, tuple(line.text.split()))
    rest = world.Phrase("en", tuple(world.LANGUAGES["en"][: world.WORDS_PER_HALF]))
    half = world.halves(world.film(world.puppet(seed), (phrase, rest), motion_seed=seed))[0]
    clip = Clip(half.frames_FHWC, Fraction(world.FRAME_RATE), half.audio_N[None], world.SAMPLE_RATE_HZ)
    return clip, half.mouth_opening_F, half.mouth_box_F4


def _members(name: str, clip: Clip) -> dict[str, bytes]:
    """The two files of a clip; the MP4, which costs a start of FFmpeg, is one for all."""
    return {f"{name}.clip": clip.to_bytes(), f"{name}.mp4": _any_mp4()}


@functools.cache
def _any_mp4() -> bytes:
    return media.mp4_bytes(_take(0, _lines(0)[0])[0])


def _lines(index: int) -> tuple[Line, Line, Line]:
    """What the source says, what is asked, and what the base says instead."""
    rng = np.random.default_rng(index)
    said, asked, other = (world.random_words(language, rng) for language in ("en", "es", "es"))
    return tuple(
        Line(language=language, text=" ".join(words))
        for language, words in (("en", said), ("es", asked), ("es", other))
    )


@pytest.fixture(scope="session")
def line_up(tmp_path_factory):
    """Backbone, adapter, pairs and dubs of eight puppets, with the scorers that know them."""
    room, scorers = tmp_path_factory.mktemp("evaluate"), LookupScorers()
    backbone = Backbone.draft(room / "backbone", Lineage(step="backbone", params={})).seal(
        {"source": "nano", "repo": "nano", "text_encoder_digest": "t" * 64}
    )
    kin = {"backbone": backbone.digest, "licence": "Apache-2.0"}
    draft = Adapter.draft(room / "adapter", Lineage(step="train", params={}, pair_source="self-made", **kin))
    steps = ({"step": i, "video": 1 / i, "audio": 2 / i, "total": 3 / i, "lr": 0.1} for i in range(1, 60))
    draft.write("losses.jsonl", "".join(json.dumps(one) + "\n" for one in steps).encode())
    adapter = draft.seal()
    pairs, dubs = (
        PairSet.draft(room / "pairs", Lineage(step="gate", params={}, **kin)),
        DubSet.draft(room / "dubs", Lineage(step="dub", params={}, **kin)),
    )
    for index in range(NUM_PAIRS):
        _film_pair(index, scorers, pairs, dubs)
    return backbone, dubs.seal(), pairs.seal({"gated": True}), adapter, scorers


def _film_pair(index: int, scorers: LookupScorers, pairs, dubs) -> None:
    said, asked, other = _lines(index)
    (source, seen, boxes), (truth, true_seen, _) = _take(index, said), _take(index, asked)
    (wrong, wrong_seen, _), name = _take(index, other), f"p{index}"
    scorers.register(source, said, seen)
    scorers.register(truth, asked, true_seen)
    grain = np.random.default_rng(index).integers(-12, 13, truth.frames_FHWC.shape)
    noisy = replace(
        truth,
        frames_FHWC=np.clip(truth.frames_FHWC + grain, 0, 255).astype(np.uint8),
        audio_CN=truth.audio_CN * 0.9,
    )
    says = asked if index else Line(language="es", text=asked.text.rsplit(maxsplit=1)[0])  # the first dub loses a word
    made = {
        "adapter": scorers.register(noisy, says, true_seen),
        "base": scorers.register(wrong, other, wrong_seen[::-1]),
        "cascade": source.with_audio(truth.audio_CN),
    }
    row = PairRow(
        id=name, split="heldout", source="world", half="first", seed=index, speaker="a puppet",
        original=said, counterpart=asked, mouth_boxes=boxes.tolist(), accepted=False,
    )  # fmt: skip
    pairs.add_shard(index, [row], _members(f"{name}/original", source) | _members(f"{name}/counterpart", truth))
    rows = [DubRow(id=f"{name}-{key}", pair_id=name, method=key, line=asked, seed=index) for key in made]
    files = [_members(f"{name}-{key}/dub", clip) for key, clip in made.items()]
    dubs.add_shard(index, rows, {member: data for one in files for member, data in one.items()})


@pytest.fixture(autouse=True)
def _lookup_scorers(request, monkeypatch):
    if "line_up" in request.fixturenames:
        scorers = request.getfixturevalue("line_up")[-1]
        monkeypatch.setattr("dubmill.worlds.nano.NanoWorld.scorers", lambda world, params: scorers)


@pytest.fixture(scope="session")
def sealed(line_up, tmp_path_factory):
    """The report of the line-up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dubmill.worlds.nano.NanoWorld.scorers", lambda world, params: line_up[-1])
        return evaluate(*line_up[:-1], SCORERS, PARAMS, tmp_path_factory.mktemp("out") / "evaluate")


def _metrics(sealed: Report) -> dict:
    return json.loads((sealed.path / "metrics.json").read_text())


def _page(sealed: Report) -> str:
    return (sealed.path / "report.html").read_text()


class _Outline(HTMLParser):
    """Tags with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.said, self._open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if data.strip() and not {"style", "script", "title", "head"} & set(self._open):
            self.said.append(data.strip())


def test_equal_inputs_give_an_equal_digest(line_up, sealed, tmp_path):
    again = evaluate(*line_up[:-1], SCORERS, PARAMS, tmp_path / "again")
    assert again.manifest.files == sealed.manifest.files
    assert again.digest == sealed.digest


def test_other_params_give_another_digest_but_a_sealed_report_is_not_made_again(line_up, sealed, monkeypatch):
    monkeypatch.setattr("dubmill.worlds.nano.NanoWorld.scorers", lambda world, params: pytest.fail("measured again"))
    assert evaluate(*line_up[:-1], SCORERS, PARAMS, sealed.path).digest == sealed.digest


def test_there_is_a_row_per_pair_and_method_and_an_oracle_that_is_the_truth(sealed):
    rows = pq.read_table(sealed.path / "rows.parquet").to_pylist()
    assert len(rows) == NUM_PAIRS * 5
    assert {row["method"] for row in rows} == {"adapter", "base", "cascade", "oracle", "floor"}
    assert {row["cluster"] for row in rows} == {f"seed-{index}" for index in range(NUM_PAIRS)}
    assert set(METRICS) <= set(rows[0])
    oracle = [row for row in rows if row["method"] == "oracle"]
    assert all(row["words_right"] == 1 and row["truth_mouth_correlation"] == pytest.approx(1) for row in oracle)


def test_the_figures_are_those_of_the_rows(sealed):
    rows = pq.read_table(sealed.path / "rows.parquet").to_pylist()
    words = [row["words_right"] for row in rows if row["method"] == "adapter"]
    figure = _metrics(sealed)["adapter"]["words_right"]
    assert figure["mean"] == pytest.approx(np.mean(words)) == pytest.approx(1 - 1 / world.WORDS_PER_HALF / NUM_PAIRS)
    assert (figure["n"], figure["num_clusters"]) == (NUM_PAIRS, NUM_PAIRS)
    assert figure["low"] <= figure["mean"] <= figure["high"]
    assert _metrics(sealed)["summary"]["words_right"] == figure["mean"] == sealed.info["summary"]["words_right"]


def test_the_tests_find_the_adapter_ahead_where_it_is_and_correct_for_their_number(sealed):
    tests = _metrics(sealed)["tests"]
    assert set(tests) == {"base", "cascade"}
    words = tests["base"]["words_right"]
    assert words["gain"] > 0.3
    assert words["low"] <= words["gain"] <= words["high"]
    assert words["p"] < 0.05
    corrected = [test for own in tests.values() for test in own.values() if "p_holm" in test]
    assert all(test["p"] <= test["p_holm"] <= 1 for test in corrected)
    assert tests["cascade"]["words_right"]["gain"] < 0


def test_a_test_without_any_difference_is_called_equal_and_is_not_in_the_family(sealed):
    tests = _metrics(sealed)["tests"]
    equal = [test for own in tests.values() for test in own.values() if test["verdict"] == "equal"]
    assert equal
    assert all("p_holm" not in test and test["gain"] == 0 for test in equal)
    pairs = _rows(adapter=[1.0] * 12, base=[0.0] * 12)
    for row in pairs:
        row.values["duration_gap_ms"] = 0.0
    assert figures.score(pairs, PARAMS).tests["base"]["words_right"].p_holm == pytest.approx(2 / 2**12)


def test_the_floor_is_made_of_other_puppets_and_a_figure_is_a_share_of_the_way_to_the_ceiling(sealed):
    means = {
        method: own["words_right"]["mean"]
        for method, own in _metrics(sealed).items()
        if "words_right" in own and isinstance(own["words_right"], dict)
    }
    assert means["floor"] < 0.5 < means["oracle"]
    scores = figures.score(_rows(adapter=[0.7] * 4, base=[0.4] * 4, floor=[0.2] * 4, ceiling=[1.0] * 4), PARAMS)
    assert scores.figures["adapter"]["words_right"].share == pytest.approx(0.625)
    assert scores.figures["floor"]["words_right"].share == 0
    assert list(scores.tests) == ["base"]
    assert share_of_way("lse_d", 0.6, 1.0, 0.5) == pytest.approx(0.8)
    assert share_of_way("clipped_share", 0.0, 0.0, 0.0) is None
    assert share_of_way("loudness_dbfs", -20.0, -30.0, -10.0) is None


def test_a_neutral_metric_is_compared_with_the_truth():
    rows = _rows("loudness_dbfs", adapter=[-20.0] * 8, base=[-10.0] * 8, oracle=[-21.0] * 8)
    test = figures.score(rows, PARAMS).tests["base"]["loudness_dbfs"]
    assert (test.verdict, test.gain) == ("better", 10.0)
    assert not figures.score(_rows("loudness_dbfs", adapter=[-20.0] * 8, base=[-10.0] * 8), PARAMS).tests["base"]


def test_metrics_json_has_no_figure_that_is_not_a_number(sealed):
    def leaves(value):
        return [leaf for one in value.values() for leaf in leaves(one)] if isinstance(value, dict) else [value]

    assert all(math.isfinite(leaf) for leaf in leaves(_metrics(sealed)) if isinstance(leaf, float))


def test_plots_hold_the_losses_of_training_and_the_means_of_every_method(sealed):
    losses = json.loads((sealed.path / "plots/losses.json").read_text())
    assert len(losses) == 59
    assert set(losses[0]) == {"step", "video", "audio", "total"}
    methods = json.loads((sealed.path / "plots/methods.json").read_text())
    assert {(one["metric"], one["method"]) for one in methods} >= {("words_right", "base"), ("lse_c", "oracle")}


def test_the_first_line_says_what_trained_the_adapter_and_whose_figures_these_are(sealed):
    for first in (_Outline(_page(sealed)).said[0], (sealed.path / "summary.md").read_text().splitlines()[0]):
        assert "self-made pairs" in first
        assert "nano" in first
    other = page.ReportSubject("world", False, "b", "a", "")
    assert "true pairs" in other.first_line
    assert "nano" not in other.first_line


def test_the_page_is_one_file_that_asks_nobody_for_anything(sealed):
    outline = _Outline(_page(sealed))
    linked = [attrs[name] for _, attrs in outline.tags for name in ("src", "href", "poster") if attrs.get(name)]
    assert linked
    assert all(link.startswith("data:") for link in linked)
    assert not re.search(r"url\((?!#)|@import", _page(sealed))


def test_every_picture_has_words_for_those_who_do_not_see_it_and_every_player_captions(sealed):
    tags = _Outline(_page(sealed)).tags
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")
    videos = [attrs for tag, attrs in tags if tag == "video"]
    assert len(videos) == PARAMS.num_showcase * 5
    assert len([tag for tag, _ in tags if tag == "track"]) == len(videos)
    assert _page(sealed).count('role="img"') == _page(sealed).count("<title>") - 1


def test_proxies_are_marked_and_references_inside_the_page_are_whole(sealed):
    text = _page(sealed)
    assert text.count('class="proxy">proxy') == 2 * sum(metric.is_proxy for metric in METRICS.values())
    wanted = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    assert wanted <= set(re.findall(r'id="([\w-]+)"', text))


def test_a_heavy_page_loses_its_last_clips_and_gets_a_light_one_without_players(line_up, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(page, "MAX_LIGHT_BYTES", 500_000)
    heavy = evaluate(*line_up[:-1], SCORERS, PARAMS.model_copy(update={"num_showcase": 6}), tmp_path / "heavy")
    full, light = ((heavy.path / name).read_text() for name in ("report.html", "report_light.html"))
    assert len(full.encode()) <= 1_000_000
    assert "of 6 clips fit this page" in full
    assert len(light.encode()) <= 500_000
    assert "<video" in full
    assert "<video" not in light
    assert heavy.info["light"] == "report_light.html"


def test_a_pair_without_a_truth_has_no_oracle(line_up, tmp_path):
    backbone, dubs, pairs, adapter, _ = line_up
    row = pairs.rows[0].model_copy(update={"source": "self-made"})
    alone = PairSet.draft(tmp_path / "pairs", pairs.lineage)
    files = {
        f"{row.id}/{name}.{kind}": pairs.data(row.id, f"{name}.{kind}")
        for name in ("original", "counterpart")
        for kind in ("clip", "mp4")
    }
    alone.add_shard(0, [row], files)
    few = DubSet.draft(tmp_path / "dubs", dubs.lineage)
    own = [dub for dub in dubs.rows if dub.pair_id == row.id]
    few.add_shard(
        0, own, {f"{dub.id}/dub.{kind}": dubs.data(dub.id, f"dub.{kind}") for dub in own for kind in ("clip", "mp4")}
    )
    sealed = evaluate(backbone, few.seal(), alone.seal(), adapter, SCORERS, PARAMS, tmp_path / "out")
    found = _metrics(sealed)
    assert "oracle" not in found
    assert "truth_mouth_correlation" not in found["adapter"]
    assert "truth mouth correlation" not in _page(sealed)


def test_dubs_of_another_backbone_or_of_other_pairs_are_refused(line_up, tmp_path):
    backbone, dubs, pairs, adapter, _ = line_up
    other = Backbone.draft(tmp_path / "b", Lineage(step="backbone", params={"seed": 2})).seal(backbone.info)
    with pytest.raises(BackboneMismatchError, match="DubSet"):
        evaluate(other, dubs, pairs, adapter, SCORERS, PARAMS, tmp_path / "out")
    empty = PairSet.draft(tmp_path / "p", pairs.lineage).seal()
    with pytest.raises(InvalidArtifactError, match="not held out here"):
        evaluate(backbone, dubs, empty, adapter, SCORERS, PARAMS, tmp_path / "out")


def _rows(metric: str = "words_right", **values: list[float]) -> list[report.Measured]:
    line = Line(language="es", text="uno dos")
    return [
        report.Measured(f"p{at}", f"seed-{at}", method, line, {metric: value})
        for method, own in values.items()
        for at, value in enumerate(own)
    ]


def test_the_headline_contains_only_what_was_measured_against_the_hardest_baseline():
    scores = figures.score(_rows(adapter=[1.0] * 40, base=[0.0] * 40, cascade=[0.5] * 40), PARAMS)
    assert figures.headline(scores) == (
        "On 40 held-out clips of 40 speakers, the adapter gets 100% of the requested words right "
        "(cascade 50%: better, p ≤ 0.0001, the smallest that this test can give)."
    )
    nothing = figures.score(_rows(adapter=[math.nan]), PARAMS)
    assert "No decisive figure" in figures.headline(nothing)


def test_a_test_of_too_few_speakers_says_so():
    few = figures.score(_rows(adapter=[1.0], base=[0.0]), PARAMS).tests["base"]["words_right"]
    assert (few.verdict, figures.shown_p(few)) == ("no difference shown", "p = 1: 1 speakers are too few for this test")
    rows = _rows(adapter=[1.0] * 40, base=[0.0] * 5 + [1.0] * 35)
    five_differ = figures.score(rows, PARAMS).tests["base"]["words_right"]
    assert figures.shown_p(five_differ) == "p = 0.062: too few speakers differ for this test"


def test_an_adapter_that_lost_is_called_worse_and_a_draw_is_no_difference():
    lost = figures.score(_rows(adapter=[0.0] * 12, base=[1.0] * 12), PARAMS)
    assert lost.tests["base"]["words_right"].verdict == "worse"
    draw = figures.score(_rows(adapter=[0.0, 1.0], base=[1.0, 0.0]), PARAMS)
    assert draw.tests["base"]["words_right"].verdict == "no difference shown"


def test_clips_without_a_figure_are_left_out_of_its_mean_and_its_test():
    scores = figures.score(_rows(adapter=[1.0, math.nan, 0.5], base=[0.0, 0.0, math.nan]), PARAMS)
    assert scores.figures["adapter"]["words_right"].n == 2
    assert scores.tests["base"]["words_right"].n == 1


def test_ranks_run_from_best_to_worst_and_what_was_not_measured_comes_last():
    assert showcase.ranked([("a", [0.5]), ("b", [1.0]), ("c", [math.nan])]) == ["b", "a", "c"]
    assert showcase.spread_ranks(48, 4) == [1, 17, 32, 48]
    assert showcase.spread_ranks(2, 6) == [1, 2]


def test_a_spectrogram_shows_a_tone_at_its_height():
    seconds = np.arange(16_000) / 16_000
    power_TK = stills._power(np.sin(2 * np.pi * 2000 * seconds), 50)
    assert abs(power_TK[25].argmax() - stills.BINS / 4) <= 1
    assert 0.5 < power_TK[25].max() < 1.5


def test_a_contact_sheet_of_clips_of_any_shape_is_made_with_or_without_a_mouth():
    for height, width, frames in ((64, 64, 13), (90, 160, 40), (200, 100, 1)):
        clip = Clip(np.zeros((frames, height, width, 3), np.uint8), Fraction(25), np.zeros((1, 10), np.float32), 16_000)
        for boxes in (np.zeros((0, 4)), np.full((frames, 4), np.nan), np.tile([10.0, 10, 30, 25], (frames, 1))):
            assert stills.contact_sheet(clip, boxes).startswith("data:image/webp")
        assert stills.poster(clip).startswith("data:image/webp")


def test_charts_keep_quiet_about_time_and_draw_no_more_dots_than_can_be_seen():
    figure = figures.Figure(0.5, 0.4, 0.6, 1000, 1000, None)
    many = charts.dot_plot("x", "share", {"adapter": np.linspace(0, 1, 1000)}, {"adapter": figure})
    assert len(many) < 12_000
    assert "date" not in many.lower()
    assert "var(--adapter)" in many
    assert not re.search(r"#0[1-3]0[1-3]0\d", many)
