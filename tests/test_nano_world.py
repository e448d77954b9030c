"""The closed world: what is filmed, what is known of it, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from dubmill.config.params import WorldParams
from dubmill.errors import UnsupportedTextError
from dubmill.nano import difficulty, lexicon, world
from dubmill.nano.captions import caption
from dubmill.nano.world import Phrase

ENGLISH, SPANISH = Phrase("en", ("four", "seven", "one")), Phrase("es", ("uno", "tres", "seis"))


def test_a_film_is_the_same_every_time_it_is_shot():
    first, again = (world.film(world.puppet(3), (ENGLISH, SPANISH), motion_seed=5) for _ in range(2))
    assert np.array_equal(first.frames_FHWC, again.frames_FHWC)
    assert np.array_equal(first.audio_N, again.audio_N)


def test_a_film_has_the_shapes_that_it_promises():
    film = world.film(world.puppet(3), (ENGLISH, SPANISH), motion_seed=5)
    assert film.frames_FHWC.shape == (33, 128, 128, 3)
    assert film.frames_FHWC.dtype == np.uint8
    assert film.audio_N.shape == (42240,)
    assert film.audio_N.dtype == np.float32
    assert film.mouth_opening_F.shape == (33,)
    assert film.mouth_box_F4.shape == (33, 4)
    assert np.abs(film.audio_N).max() <= 1


def test_the_same_take_in_other_words_differs_only_at_the_mouth():
    here, there = (
        world.film(world.puppet(8), phrases, motion_seed=2)
        for phrases in ((ENGLISH, SPANISH), (Phrase("es", ("ocho", "dos", "cinco")), SPANISH))
    )
    changed_HW = (here.frames_FHWC != there.frames_FHWC).any(axis=(0, 3))
    boxes_F4 = np.concatenate([here.mouth_box_F4, there.mouth_box_F4])
    rows, columns = np.nonzero(changed_HW)
    assert changed_HW.any()
    assert rows.min() >= boxes_F4[:, 1].min() - 2
    assert rows.max() <= boxes_F4[:, 3].max() + 2
    assert columns.min() >= boxes_F4[:, 0].min() - 2
    assert columns.max() <= boxes_F4[:, 2].max() + 2
    assert np.array_equal(here.audio_N[-20480:], there.audio_N[-20480:]), "the untouched half sounds the same"


def test_halves_hold_their_own_words_whole():
    film = world.film(world.puppet(1), (ENGLISH, SPANISH), motion_seed=9)
    first, second = world.halves(film)
    assert first.phrases == (ENGLISH,)
    assert second.phrases == (SPANISH,)
    for half in (first, second):
        assert half.frames_FHWC.shape[0] == 17
        assert half.audio_N.shape == (21760,)
        assert half.word_seconds_W2.min() >= 0
        assert half.word_seconds_W2.max() <= 1.33
    assert np.array_equal(first.frames_FHWC[-1], second.frames_FHWC[0]), "they share the middle frame"


def test_the_mouth_opens_while_words_are_said_and_rests_between():
    film = world.film(world.puppet(1), (ENGLISH, ENGLISH), motion_seed=9)
    seconds_F = np.arange(world.NUM_FRAMES) / world.FRAME_RATE
    is_said_F = np.zeros(world.NUM_FRAMES, bool)
    for start, end in film.word_seconds_W2:
        is_said_F |= (seconds_F > start + 0.05) & (seconds_F < end - 0.05)
    assert film.mouth_opening_F[is_said_F].mean() > 0.2
    assert film.mouth_opening_F[0] < 0.05


def test_the_rhythm_of_words_is_not_a_grid():
    rng = np.random.default_rng(0)
    films = [
        world.film(world.puppet(seed), world.random_phrases(rng), motion_seed=seed, is_drawn=False)
        for seed in range(40)
    ]
    onsets_TW = np.stack([film.word_seconds_W2[:, 0] for film in films])
    assert (onsets_TW.std(axis=0) > 0.04).all()
    for film in films:
        assert (film.word_seconds_W2[1:, 0] - film.word_seconds_W2[:-1, 1]).min() > 0.04, "words do not run together"


@pytest.mark.parametrize("word", [("en", "five"), ("es", "nueve"), ("de", "sieben")])
def test_lips_that_meet_in_a_word_close_in_the_film(word):
    """f and v nearly, b wholly: a mouth that stays open through them is what a viewer notices first."""
    language, said = word
    shapes = lexicon.lexicon()[language, 0, said].visemes
    assert min(opening for _, (opening, _, _) in shapes) < 0.1


def test_every_language_has_a_word_for_every_digit_in_every_voice():
    assert all(len(words) == 10 for words in world.LANGUAGES.values())
    keys = {(tag, voice, word) for tag, words in world.LANGUAGES.items() for voice in range(8) for word in words}
    assert lexicon.lexicon().keys() == keys


HARD = {
    "head_turn": WorldParams(head_turn=1.0, occluder=0.0, noise=0.0, music=0.0, tempo=1.0),
    "occluder": WorldParams(head_turn=0.0, occluder=0.4, noise=0.0, music=0.0, tempo=1.0),
    "noise": WorldParams(head_turn=0.0, occluder=0.0, noise=0.3, music=0.0, tempo=1.0),
    "music": WorldParams(head_turn=0.0, occluder=0.0, noise=0.0, music=0.3, tempo=1.0),
    "tempo": WorldParams(head_turn=0.0, occluder=0.0, noise=0.0, music=0.0, tempo=1.3),
}


@pytest.mark.parametrize("name", HARD)
def test_a_difficulty_changes_what_it_names_and_nothing_else(name):
    easy, hard = (
        world.film(world.puppet(5), (ENGLISH, SPANISH), motion_seed=3, difficulty=difficulty)
        for difficulty in (world.EASY, HARD[name])
    )
    changes = {
        "picture": not np.array_equal(easy.frames_FHWC, hard.frames_FHWC),
        "sound": not np.array_equal(easy.audio_N, hard.audio_N),
        "rhythm": not np.array_equal(easy.word_seconds_W2, hard.word_seconds_W2),
    }
    expected = {"head_turn": {"picture"}, "occluder": {"picture"}, "noise": {"sound"}, "music": {"sound"}}
    assert {what for what, is_changed in changes.items() if is_changed} == expected.get(name, set(changes))


def test_a_turned_head_takes_its_mouth_box_along():
    turned = world.film(world.puppet(5), (ENGLISH, SPANISH), motion_seed=3, difficulty=HARD["head_turn"])
    middles_F = turned.mouth_box_F4[:, [0, 2]].mean(axis=1)
    assert middles_F.max() - middles_F.min() > 8


def test_fast_speech_is_shorter():
    usual, fast = (
        world.film(world.puppet(5), (ENGLISH, SPANISH), motion_seed=3, difficulty=difficulty, is_drawn=False)
        for difficulty in (world.EASY, HARD["tempo"])
    )
    lengths = [np.diff(film.word_seconds_W2, axis=1).sum() for film in (usual, fast)]
    assert lengths[1] == pytest.approx(lengths[0] / 1.3, rel=0.01)


def test_stretching_changes_the_length_of_a_tone_and_not_its_pitch():
    tone_N = np.sin(2 * np.pi * 220 * np.arange(8000) / 16000).astype(np.float32)
    fast_N = difficulty.stretched(tone_N, 1.3)
    assert len(fast_N) == round(8000 / 1.3)
    peak_hz = np.abs(np.fft.rfft(fast_N[: len(fast_N) // 2 * 2], 16000)).argmax()
    assert abs(peak_hz - 220) <= 2


def test_slow_speech_is_held_to_its_half():
    slow = world.film(
        world.puppet(5),
        (ENGLISH, SPANISH),
        motion_seed=3,
        difficulty=WorldParams(head_turn=0, occluder=0, noise=0, music=0, tempo=0.5),
        is_drawn=False,
    )
    assert slow.word_seconds_W2[2, 1] <= 1.28
    assert slow.word_seconds_W2[5, 1] <= 2.61


def test_identities_are_many():
    assert len({world.puppet(seed) for seed in range(2000)}) == 2000
    assert {world.puppet(seed).voice for seed in range(200)} == set(range(len(lexicon.VOICES)))


@pytest.mark.parametrize(
    ("language", "text", "told"),
    [
        ("xx", "uno dos tres", "en, es, fr, de"),
        ("es", "uno two dos", "tres"),
        ("en", "one two", "exactly 3"),
        ("en", "", "exactly 3"),
    ],
)
def test_what_cannot_be_said_is_refused_with_what_can(language, text, told):
    with pytest.raises(UnsupportedTextError, match=told):
        world.check_text(language, text)


def test_text_is_read_however_it_is_typed():
    assert world.check_text("en", " Four, seven ONE. ") == ("four", "seven", "one")
    assert world.check_text("fr", "zero 2 huit") == ("zéro", "deux", "huit")
    assert world.check_text("de", "funf fünf 5") == ("fünf",) * 3


def test_a_caption_tells_the_switch():
    assert caption("A person", [ENGLISH, SPANISH]) == (
        'A person is speaking English, saying: "four seven one", then switches to Spanish, saying: "uno tres seis"'
    )


def test_a_caption_joins_phrases_of_one_language():
    said = "uno tres seis"
    assert caption("A person", [SPANISH, SPANISH]) == f'A person is speaking Spanish, saying: "{said} {said}"'


@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="espeak-ng is needed to bake")
def test_synthesizing_again_gives_the_shipped_lexicon_except_for_the_voices_noise(tmp_path: Path):
    """espeak-ng keeps noise and pitch phase between calls, so two bakings differ by samples, never by words."""
    lexicon.build_lexicon(tmp_path / "lexicon.safetensors")
    baked, shipped = lexicon.lexicon(tmp_path / "lexicon.safetensors"), lexicon.lexicon()
    assert baked.keys() == shipped.keys()
    for key, word in shipped.items():
        assert [shape for _, shape in baked[key].visemes] == [shape for _, shape in word.visemes]
    gaps_seconds = [abs(baked[key].seconds - word.seconds) for key, word in shipped.items()]
    assert sum(gaps_seconds) / len(gaps_seconds) < 0.01  # a noisy tail now and then is trimmed elsewhere, up to 90 ms
