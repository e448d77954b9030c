"""Scripts by machines: only who is named, over a real connection, and held to each cue's time."""

import importlib.util
import io
import json
import os
import sys
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dubmill import media, providers
from dubmill.cli import main as cli
from dubmill.errors import ServiceUnavailableError, UnsupportedTextError, UsageError
from dubmill.media.clips import Clip
from dubmill.text import subtitles
from dubmill.text.subtitles import Cue

CUES = [
    Cue(1.0, 3.0, "The train leaves at nine."),
    Cue(4.0, 5.5, "We have time."),
    Cue(6.0, 9.0, "Take the second street on the left."),
]
SPANISH = {1: "El tren sale a las nueve.", 2: "Tenemos tiempo.", 3: "Toma la segunda calle a la izquierda."}


def completion(content):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def told(texts):
    return completion(json.dumps({"cues": {str(number): text for number, text in texts.items()}}))


def asked_of(body):
    return json.loads(body["messages"][1]["content"])["cues"]


def spanish(url, cues=CUES, attempts=3):
    translator = providers.translator("endpoint", model="m", url=url)
    return providers.translate(cues, translator, source="en", target="es", attempts=attempts)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["dubmill", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


# Translation


def test_a_translation_keeps_the_times_and_its_request_names_seconds_and_limit(endpoint):
    url, requests = endpoint(lambda number, body: told(SPANISH))
    done = spanish(url)
    assert done.flags == []
    assert [cue.text for cue in done.cues] == list(SPANISH.values())
    assert [(cue.start_seconds, cue.end_seconds) for cue in done.cues] == [
        (cue.start_seconds, cue.end_seconds) for cue in CUES
    ]
    ((path, _, body),) = requests
    assert path == "/v1/chat/completions"
    assert "English to Spanish" in body["messages"][0]["content"]
    first = asked_of(body)[0]
    assert first == {"number": 1, "text": CUES[0].text, "seconds": 2.0, "max_syllables": 15}


def test_a_lost_cue_alone_is_requested_again_and_only_it(endpoint):
    def reply(number, body):
        return told({1: SPANISH[1], 3: SPANISH[3], 99: "nadie"} if number == 1 else {2: SPANISH[2], 1: "otra cosa"})

    url, requests = endpoint(reply)
    done = spanish(url)
    assert [cue.text for cue in done.cues] == list(SPANISH.values())
    assert [one["number"] for one in asked_of(requests[1][2])] == [2]
    assert "missing" in asked_of(requests[1][2])[0]["fault"]


def test_an_answer_too_long_for_its_time_is_requested_again_with_the_seconds(endpoint):
    long = "Tenemos muchísimo tiempo, no te preocupes, porque el tren todavía no ha salido de la estación."

    url, requests = endpoint(lambda number, body: told(SPANISH | ({2: long} if number == 1 else {})))
    done = spanish(url)
    assert done.cues[1].text == SPANISH[2]
    assert "1.5 s" in asked_of(requests[1][2])[0]["fault"]


def test_what_stays_too_long_is_kept_and_flagged_with_its_place(endpoint):
    long = "Tenemos muchísimo tiempo, no te preocupes, porque el tren todavía no ha salido de la estación."
    url, requests = endpoint(lambda number, body: told(SPANISH | {2: long}))
    done = spanish(url, attempts=2)
    assert len(requests) == 2
    assert done.cues[1].text == long
    (flag,) = done.flags
    assert flag.startswith("cue 2 at 00:00:04.000: the words need about")


@pytest.mark.parametrize("nonsense", ["Sure! Here they are", "[]", '{"cues": ["a"]}', '{"cues": {"one": "uno"}}', "{}"])
def test_an_answer_of_another_form_loses_every_cue_which_keep_their_words_and_are_flagged(endpoint, nonsense):
    url, requests = endpoint(lambda number, body: completion(nonsense))
    done = spanish(url, attempts=2)
    assert len(requests) == 2
    assert done.cues == CUES
    assert len(done.flags) == 3
    assert "missing" in done.flags[0]


def test_words_in_another_script_are_a_fault(endpoint):
    url, _ = endpoint(lambda number, body: told(SPANISH | {1: "Поезд уходит в девять."}))
    assert "script of Spanish" in spanish(url, attempts=1).flags[0]


def test_a_long_script_is_requested_in_batches_and_no_cue_goes_astray(endpoint):
    def reply(number, body):
        return told({one["number"]: f"línea {one['number']}" for one in asked_of(body)})

    url, requests = endpoint(reply)
    cues = [Cue(float(at), at + 0.9, f"line {at}") for at in range(45)]
    done = spanish(url, cues=cues)
    assert [len(asked_of(body)) for _, _, body in requests] == [20, 20, 5]
    assert [cue.text for cue in done.cues] == [f"línea {number}" for number in range(1, 46)]


def test_an_unknown_language_is_refused_before_anything_is_sent(endpoint):
    url, requests = endpoint(lambda number, body: told(SPANISH))
    translator = providers.translator("endpoint", model="m", url=url)
    for source, target in (("en", "xx"), ("xx", "en")):
        with pytest.raises(UnsupportedTextError, match="language"):
            providers.translate(CUES, translator, source=source, target=target, attempts=1)
    assert requests == []


def test_the_command_writes_a_script_to_mend_and_ends_with_1_while_there_is_something_to(
    endpoint, tmp_path, monkeypatch, capsys
):
    url, _ = endpoint(lambda number, body: told(SPANISH if number == 1 else {1: SPANISH[1]}))
    subtitles.write_cues(tmp_path / "x.srt", CUES)
    asked = ("translate", tmp_path / "x.srt", "--from", "en", "--to", "es", "--with", "endpoint")
    asked = (*asked, "--model", "m", "--url", url, "--out", tmp_path / "y.srt")
    assert run(monkeypatch, *asked) == 0
    assert [cue.text for cue in subtitles.read_cues(tmp_path / "y.srt")] == list(SPANISH.values())
    capsys.readouterr()
    assert run(monkeypatch, *asked) == 1
    assert "cue 2 at 00:00:04.000: its translation is missing" in capsys.readouterr().err


# Who is asked


def test_no_provider_is_used_unless_it_is_named(tmp_path, monkeypatch, capsys):
    subtitles.write_cues(tmp_path / "x.srt", CUES)
    asked = ("translate", tmp_path / "x.srt", "--from", "en", "--to", "es", "--model", "m", "--out", tmp_path / "y.srt")
    assert run(monkeypatch, *asked) == 2
    assert "--with" in capsys.readouterr().err
    assert not (tmp_path / "y.srt").exists()


@pytest.mark.parametrize("find", [providers.transcriber, providers.translator])
def test_an_unknown_provider_and_an_endpoint_without_address_are_refused(find):
    with pytest.raises(UsageError, match="'oracle'"):
        find("oracle", model="m", url="")
    with pytest.raises(UsageError, match="--url"):
        find("endpoint", model="m", url="")


# Transcription


def sound(seconds=2.0):
    return (0.4 * np.sin(np.arange(int(16_000 * seconds)) / 16_000 * 2 * np.pi * 330)).astype(np.float32)


def heard_in(body):
    """The WAV file in a form that was sent."""
    return wave.open(io.BytesIO(body[body.index(b"RIFF") :]))


def test_an_endpoint_hears_a_wav_and_its_segments_become_cues(endpoint):
    segments = [{"start": 0.2, "end": 1.1, "text": " Hello there. "}, {"start": 1.2, "end": 1.9, "text": " "}]
    url, requests = endpoint(lambda number, body: (200, json.dumps({"segments": segments})))
    cues = providers.transcriber("endpoint", model="whisper-1", url=url).transcribe(sound(), language="en")
    assert cues == [Cue(0.2, 1.1, "Hello there.")]
    ((path, _, body),) = requests
    assert path == "/v1/audio/transcriptions"
    assert b"verbose_json" in body
    assert b"whisper-1" in body
    with heard_in(body) as heard:
        assert (heard.getframerate(), heard.getnchannels(), heard.getnframes()) == (16_000, 1, 32_000)


@pytest.mark.parametrize("answer", ['{"text": "no segments"}', '{"segments": [{"start": "x"}]}', "<html>"])
def test_a_transcription_without_times_is_refused(endpoint, answer):
    url, _ = endpoint(lambda number, body: (200, answer))
    with pytest.raises(ServiceUnavailableError, match="not a transcription"):
        providers.transcriber("endpoint", model="m", url=url).transcribe(sound(), language="en")


def test_the_command_hears_the_sound_of_a_video_and_writes_a_script(endpoint, tmp_path, monkeypatch):
    frames = np.random.default_rng(1).integers(0, 255, (50, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "in.mp4").write_bytes(media.mp4_bytes(Clip(frames, Fraction(25), sound()[None], 16_000)))
    segments = [{"start": 0.2, "end": 1.1, "text": "Hello."}]
    url, requests = endpoint(lambda number, body: (200, json.dumps({"segments": segments})))
    asked = ("transcribe", tmp_path / "in.mp4", "--language", "en", "--with", "endpoint", "--model", "m", "--url", url)
    assert run(monkeypatch, *asked, "--out", tmp_path / "x.vtt") == 0
    assert subtitles.read_cues(tmp_path / "x.vtt") == [Cue(0.2, 1.1, "Hello.")]
    with heard_in(requests[0][2]) as heard:
        samples = np.frombuffer(heard.readframes(32_000), "<i2")
    assert np.abs(samples[8_000:24_000]).max() == pytest.approx(0.4 * 32767, rel=0.1)


@pytest.mark.skipif(importlib.util.find_spec("faster_whisper") is not None, reason="faster-whisper is installed")
def test_without_whisper_the_refusal_says_how_to_get_it(tmp_path):
    with pytest.raises(UsageError, match=r"pip install 'dubmill\[transcribe\]'"):
        providers.transcriber("whisper", model=str(tmp_path), url="")


def test_a_folder_without_a_model_is_refused_with_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", type(sys)("faster_whisper"))
    sys.modules["faster_whisper"].WhisperModel = None
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        providers.transcriber("whisper", model=str(tmp_path), url="")


@pytest.mark.whisper
@pytest.mark.skipif(not os.environ.get("DUBMILL_WHISPER"), reason="DUBMILL_WHISPER names no folder of a Whisper model")
def test_whisper_hears_a_real_voice():
    """Needs faster-whisper, a model's folder in DUBMILL_WHISPER, and espeak-ng's voice of the extra `pretrain`."""
    from scipy.signal import resample_poly

    from dubmill.nano.speech import Synthesizer

    said = Synthesizer().say(
        "The last train leaves at nine. We still have time for dinner.", voice="en-us", pitch=50, words_per_minute=150
    )
    audio_N = resample_poly(said.wave_N, 16_000, said.sample_rate_hz).astype(np.float32)
    whisper = providers.transcriber("whisper", model=str(Path(os.environ["DUBMILL_WHISPER"])), url="")
    cues = whisper.transcribe(audio_N, language="en")
    text = " ".join(cue.text for cue in cues).lower()
    assert "train leaves at" in text
    assert "dinner" in text
    assert 0 <= cues[0].start_seconds < cues[-1].end_seconds <= len(audio_N) / 16_000 + 0.5
