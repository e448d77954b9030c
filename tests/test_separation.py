"""The background that a separator makes of a film's sound: with sherpa-onnx and tiny models, and with a stand-in."""

import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from doubles.dubbers import EchoDubber
from doubles.films import beat_film, ffmpeg, open_film
from doubles.onnx_files import spleeter_models, uvr_model
from doubles.releases import CONSENT, tiny_backbone, tiny_release

from dubmill import media, providers
from dubmill.cli import main as cli
from dubmill.dubbing import open as opening
from dubmill.dubbing.longform import separated_background
from dubmill.errors import UsageError
from dubmill.faces import NO_DETECTION

MODEL = "DUBMILL_SEPARATION"


class LowPass:
    """What is below 1 kHz is speech; remembers how much sound it was given at once."""

    digest = "low"

    def __init__(self):
        self.seconds = []

    def speech(self, sound_CN):
        self.seconds.append(sound_CN.shape[1] / providers.SEPARATION_RATE_HZ)
        spectrum = np.fft.rfft(sound_CN)
        hertz = np.fft.rfftfreq(sound_CN.shape[1], 1 / providers.SEPARATION_RATE_HZ)
        return np.fft.irfft(spectrum * (hertz < 1000), sound_CN.shape[1]).astype(np.float32)


def scored(folder, *, seconds, channels):
    """A film at 48 kHz of speech (300 Hz) over music (2, 9 and 23 kHz), and the music alone (C, N)."""
    seconds_N = np.arange(seconds * 48000) / 48000
    speech_N = 0.3 * np.sin(2 * np.pi * 300 * seconds_N)
    music_CN = 0.1 * np.sin(2 * np.pi * np.array([[2000.0], [9000.0]])[:channels] * seconds_N)
    music_CN = (music_CN + 0.1 * np.sin(2 * np.pi * 23000 * seconds_N)).astype(np.float32)
    (folder / "mix.wav").write_bytes(media.wav_bytes(music_CN + speech_N.astype(np.float32), 48000))
    beat_film(folder / "silent.mov", seconds=seconds)
    inputs = ("-i", folder / "silent.mov", "-i", folder / "mix.wav", "-map", "0:v", "-map", "1:a")
    ffmpeg(*inputs, "-c:v", "copy", "-c:a", "pcm_s16le", folder / "in.mov")
    return music_CN


def sound_of(path, channels):
    return np.concatenate(list(media.sound(path, sample_rate_hz=48000, channels=channels))).T


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_not_speech_stays_to_the_sample_and_is_separated_once(tmp_path, channels):
    """A film of more than one window; music above what the model can hear stays."""
    music_CN, separator = scored(tmp_path, seconds=33, channels=channels), LowPass()
    film = open_film(tmp_path / "in.mov")
    shares = []
    made = separated_background(film, separator, tmp_path / "work", shares.append)
    inner = slice(4800, -4800)
    assert np.abs(sound_of(made, channels) - music_CN)[:, inner].max() < 2e-3
    assert (max(separator.seconds), shares[-1]) == (32, 1.0)
    assert separated_background(film, separator, tmp_path / "work") == made
    assert len(separator.seconds) == 2
    assert [path.name for path in (tmp_path / "work").iterdir()] == [made.name]
    speech = np.concatenate(list(dataclasses.replace(film, background=made).speech(48000, channels)))
    assert np.abs(speech).max() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("kind", ["uvr", "spleeter"])
def test_models_of_sherpa_onnx_separate_speech_from_music(tmp_path, kind):
    pytest.importorskip("sherpa_onnx", reason="the extra `separate` is not installed")
    music_CN = scored(tmp_path, seconds=5, channels=2)
    if kind == "uvr":
        (tmp_path / "model").write_bytes(data := uvr_model(1000))
    else:
        first, second = spleeter_models(1000)
        (tmp_path / "model").mkdir()
        (tmp_path / "model/vocals.onnx").write_bytes(first)
        (tmp_path / "model/accompaniment.onnx").write_bytes(second)
        data = first + second
    model = f"{tmp_path / 'model'}@{hashlib.sha256(data).hexdigest().upper()}"
    separator = providers.separator("sherpa-onnx", model=model)
    made = separated_background(open_film(tmp_path / "in.mov"), separator, tmp_path / "work")
    assert np.abs(sound_of(made, 2) - music_CN)[:, 9600:-9600].max() < 2e-3
    with pytest.raises(UsageError, match=f"sha256 is {separator.digest}, not {'0' * 64}"):
        providers.separator("sherpa-onnx", model=f"{tmp_path / 'model'}@{'0' * 64}")


@pytest.mark.parametrize(
    ("files", "model", "sentence"),
    [
        ({}, "", "no model is named"),
        ({}, "m.onnx", "m.onnx: there is no such model; give a UVR model's .onnx file, or a folder"),
        ({"m.onnx": b"hello"}, "m.onnx", "this is no UVR model of sherpa-onnx"),
        ({"m/vocals.onnx": spleeter_models(1000)[0]}, "m", "accompaniment.onnx: there is no such model"),
        ({"m/vocals.onnx": uvr_model(1000), "m/accompaniment.onnx": b""}, "m", "this is no Spleeter model"),
    ],
)
def test_a_model_that_is_none_is_refused_before_the_library_sees_it(tmp_path, monkeypatch, files, model, sentence):
    """sherpa-onnx ends the whole process where a model is of another kind."""
    monkeypatch.setitem(sys.modules, "sherpa_onnx", type(sys)("sherpa_onnx"))
    monkeypatch.chdir(tmp_path)
    for name, data in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(data)
    with pytest.raises(UsageError, match=sentence.replace(".", r"\.")):
        providers.separator("sherpa-onnx", model=model)


def test_without_the_library_the_refusal_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sherpa_onnx", None)
    with pytest.raises(UsageError, match=r"pip install 'dubmill\[separate\]'"):
        providers.separator("sherpa-onnx", model="m.onnx")
    with pytest.raises(UsageError, match="there is no separator 'spleeter'; use sherpa-onnx"):
        providers.separator("spleeter", model="m.onnx")


def test_a_film_keeps_its_music_in_both_commands_and_ducks_it_where_that_is_wanted(tmp_path, monkeypatch, capsys):
    """The model's dub is silent: what is heard under its words is the music, and half of it with --duck 6.02."""

    class Mute(EchoDubber):
        def dub(self, clip, **how):
            return super().dub(clip, **how).with_audio(np.zeros_like(clip.audio_CN))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dubmill", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().err

    music_CN, separator = scored(tmp_path, seconds=6, channels=2), LowPass()
    tiny_release(tmp_path / "work/release", tiny_backbone(tmp_path / "work/backbone"))
    monkeypatch.setattr(opening, "open_dubber", lambda backbone, source: Mute())
    monkeypatch.setattr(opening, "open_face_masker", lambda backbone: NO_DETECTION)
    monkeypatch.setattr(providers, "separator", lambda name, model: separator)
    monkeypatch.chdir(tmp_path)
    Path("long.srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nhola\n")
    Path("es.srt").write_text("1\n00:00:01,500 --> 00:00:02,500\nhola\n")
    how = ("--to", "es", "--script", "es.srt", "--consent", CONSENT, "--separate", "sherpa-onnx")
    code, err = run("dub", "in.mov", "--out", "out.mov", *how, "--script", "long.srt")
    assert (code, "split it into shorter cues" in err, separator.seconds) == (2, True, [])
    code, err = run("dub", "in.mov", "--out", "out.mov", *how)
    assert code == 0, err
    assert "music and effects under" not in err
    assert not list(tmp_path.glob(".out*"))
    code, err = run("film", "new", "in.mov", "--project", "p", *how, "--duck", "6.0206", "--container", ".mov")
    assert code == 0, err
    Path("p").rename("moved")
    assert run("film", "render", "moved")[0] == 0
    assert len(separator.seconds) == 2
    inner = slice(round(1.6 * 48000), round(2.4 * 48000))
    for path, share in (("out.mov", 1.0), ("moved/renders/in.es.mov", 0.5)):
        assert np.abs(sound_of(path, 2)[:, inner] - share * music_CN[:, inner]).max() < 3e-3
    rest = slice(4 * 48000, 5 * 48000)
    assert np.abs(sound_of(path, 2)[:, rest] - sound_of("in.mov", 2)[:, rest]).max() < 1e-3
    code, err = run("dub", "in.mov", "--out", "o.mov", *how, "--background", "mix.wav")
    assert (code, "--background beside --separate" in err) == (2, True)
    code, err = run("dub", "in.mov", "--out", "o.mov", *how[:-2], "--duck", "6")
    assert (code, "--duck without a background" in err) == (2, True)
    code, err = run("dub", "in.mov", "--out", "o.mov", *how, "--duck", "nan")
    assert (code, "cannot be lowered by nan dB" in err) == (2, True)


@pytest.mark.separation
@pytest.mark.skipif(not os.environ.get(MODEL), reason=f"{MODEL} names no separation model of sherpa-onnx")
def test_a_real_model_finds_a_voice_over_music(tmp_path):
    """Needs the extras `separate` and `pretrain`: espeak-ng's voice over a chord."""
    from scipy.signal import resample_poly

    from dubmill.nano.speech import Synthesizer

    said = Synthesizer().say("The last train leaves at nine.", voice="en-us", pitch=50, words_per_minute=150)
    voice_N = resample_poly(said.wave_N, providers.SEPARATION_RATE_HZ, said.sample_rate_hz)
    seconds_N = np.arange(len(voice_N)) / providers.SEPARATION_RATE_HZ
    chord_N = sum(np.sin(2 * np.pi * hertz * seconds_N) for hertz in (220, 277, 330)) * voice_N.std() / 2
    separator = providers.separator("sherpa-onnx", model=os.environ[MODEL])
    speech_N = separator.speech(np.stack([voice_N + chord_N] * 2))[0]
    voice_N, chord_N = voice_N[: len(speech_N)], chord_N[: len(speech_N)]
    assert np.corrcoef(speech_N, voice_N)[0, 1] > 0.8
    assert abs(np.corrcoef(speech_N, chord_N)[0, 1]) < 0.3
