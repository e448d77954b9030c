"""The closed world: what is filmed, what is known of it, and what it refuses."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
from safetensors import safe_open

from dubmill.errors import UnsayableText
from dubmill.nano import difficulty, face, lexicon, splits, world
from dubmill.nano.captions import caption
from dubmill.nano.pretrain import data
from dubmill.nano.world import Phrase

ENGLISH, SPANISH = Phrase("en", ("four", "seven", "one")), Phrase("es", ("uno", "tres", "seis"))


def test_a_film_is_the_same_every_time_it_is_shot():
    first, again = (world.film(world.puppet(3), (ENGLISH, SPANISH), motion_seed=5) for _ in range(2))
    assert np.array_equal(first.frames_FHWC, again.frames_FHWC)
    assert np.array_equal(first.audio_N, again.audio_N)


def test_a_film_has_the_shapes_that_it_promises():
    film = world.film(world.puppet(3), (ENGLISH, SPANISH), motion_seed=5)
    assert film.frames_FHWC.shape == (65, 128, 128, 3)
    assert film.frames_FHWC.dtype == np.uint8
    assert film.audio_N.shape == (62400,)
    assert film.audio_N.dtype == np.float32
    assert film.mouth_opening_F.shape == (65,)
    assert film.mouth_box_F4.shape == (65, 4)
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
    assert np.array_equal(here.audio_N[-30480:], there.audio_N[-30480:]), "the untouched half sounds the same"


def test_halves_hold_their_own_words_whole():
    film = world.film(world.puppet(1), (ENGLISH, SPANISH), motion_seed=9)
    first, second = world.halves(film)
    assert first.phrases == (ENGLISH,)
    assert second.phrases == (SPANISH,)
    for half in (first, second):
        assert half.frames_FHWC.shape[0] == 33
        assert half.audio_N.shape == (31680,)
        assert half.word_seconds_W2.min() >= 0
        assert half.word_seconds_W2.max() <= 1.3
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
    assert (onsets_TW.std(axis=0) > 0.03).all()
    for film in films:
        assert (film.word_seconds_W2[1:, 0] - film.word_seconds_W2[:-1, 1]).min() > 0.04, "words do not run together"


@pytest.mark.parametrize("word", [("en", "five"), ("es", "nueve"), ("de", "sieben")])
def test_lips_that_meet_in_a_word_close_in_the_film(word):
    """f and v nearly, b wholly: a mouth that stays open through them is what a viewer notices first."""
    language, said = word
    shapes = lexicon.lexicon()[language, 0, said].visemes
    assert min(opening for _, (opening, _, _) in shapes) < 0.1


def test_every_recorded_voice_says_every_digit_in_every_language():
    assert all(len(words) == 10 for words in world.LANGUAGES.values())
    voices = lexicon.recorded_voices()
    assert set(voices) <= set(range(splits.NUM_VOICES))
    keys = {(tag, voice, word) for tag, words in world.LANGUAGES.items() for voice in voices for word in words}
    assert lexicon.lexicon().keys() == keys


def test_recorded_words_have_the_length_and_the_loudness_of_speech():
    for key, word in lexicon.lexicon().items():
        assert 0.1 < word.seconds <= 0.42, key
        assert np.sqrt((word.wave_N**2).mean()) == pytest.approx(lexicon.WORD_RMS, rel=0.1), key
        starts = [start for start, _ in word.visemes]
        assert starts == sorted(starts), key
        assert -0.05 < starts[0] < 0.1, key


def test_the_lexicon_is_small_and_names_its_licence():
    assert lexicon.LEXICON_PATH.stat().st_size < 12e6
    with safe_open(lexicon.LEXICON_PATH, framework="numpy") as stored:
        assert "Apache-2.0" in stored.metadata()["licence"]


def test_a_colour_has_as_many_words_in_every_language():
    assert {tag: len(set(words)) for tag, words in lexicon.COLOURS.items()} == dict.fromkeys(world.LANGUAGES, 10)


def test_training_and_held_out_seeds_orders_and_voices_never_meet():
    ranges = [split.value for split in splits.Split]
    assert all(before.stop == after.start for before, after in pairwise(ranges))
    rng = np.random.default_rng(0)
    heard = {split: set() for split in splits.Split}
    for split in splits.Split:
        for seed in rng.choice(split.value, 60).tolist():
            assert splits.split_of(seed) is split
            take = data.take(seed, is_drawn=False)
            heard[split].add(take.puppet.voice)
            for phrase in take.film.phrases:
                places = [world.LANGUAGES[phrase.language].index(word) for word in phrase.words]
                assert splits.is_held_out_order(places) == split.is_held_out
    assert heard[splits.Split.NEW_VOICE] <= set(splits.HELD_OUT_VOICES)
    for split in (splits.Split.PRETRAIN, splits.Split.LINE, splits.Split.HELD_OUT):
        assert not heard[split] & set(splits.HELD_OUT_VOICES)


def test_training_draws_no_seed_of_another_split():
    seeds = data.training_seeds(np.random.default_rng(0), 2000)
    assert {splits.split_of(seed) for seed in seeds} == {splits.Split.PRETRAIN}


def test_a_tenth_of_all_orders_is_held_out_and_each_word_is_in_as_many_at_every_place():
    orders = [order for order in product(range(10), repeat=3) if splits.is_held_out_order(order)]
    assert len(orders) == 100
    for place in range(3):
        assert Counter(order[place] for order in orders) == dict.fromkeys(range(10), 10)


def test_a_dub_of_a_held_out_phrase_is_held_out():
    rng = np.random.default_rng(0)
    for _ in range(50):
        words = world.random_words("fr", rng, is_held_out=True)
        digits = [world.LANGUAGES["fr"].index(word) for word in words]
        assert splits.is_held_out_order(digits)


def test_the_sun_tells_where_in_the_clip_one_is():
    """The window's brightest rows rise from frame to frame, whoever is in front of it."""
    for seed in range(4):
        who = world.puppet(seed)
        frames_FHWC = world.babble(who, motion_seed=seed).frames_FHWC.astype(float)
        columns = slice(112, 120) if who.sun_side > 0 else slice(8, 16)
        warm_FH = (frames_FHWC[:, 4:72, columns, 0] - frames_FHWC[:, 4:72, columns, 2]).mean(axis=2)
        rows_F = warm_FH[20::10].argmax(axis=1)
        assert (np.diff(rows_F) < 0).all(), (seed, rows_F)


def test_a_blink_closes_the_eyes_in_the_picture():
    who = world.puppet(3)
    film = world.babble(who, motion_seed=3)
    closed, wide = int(film.eyes_open_F.argmin()), int(film.eyes_open_F.argmax())
    whites = []
    for moment in (closed, wide):
        x0, y0, x1, y1 = film.eyes_box_F4[moment].round().astype(int)
        whites.append((film.frames_FHWC[moment, y0:y1, x0:x1].min(axis=2) > 225).sum())
    assert film.eyes_open_F[closed] < 0.05
    assert whites[0] == 0
    assert whites[1] > 20


def test_long_words_are_hurried_into_their_half(monkeypatch):
    longest = max(world.LANGUAGES["de"], key=lambda word: lexicon.lexicon()["de", 0, word].seconds)
    long = {
        key: lexicon.Word(np.tile(word.wave_N, 3)[: round(0.46 * 24000)], word.visemes)
        for key, word in lexicon.lexicon().items()
    }
    monkeypatch.setattr(world, "lexicon", lambda: long)
    who = world.puppet(5)
    film = world.film(who, (Phrase("de", (longest,) * 3), SPANISH), motion_seed=3, is_drawn=False)
    assert film.word_seconds_W2[2, 1] <= 1.27
    assert (film.word_seconds_W2[1:, 0] - film.word_seconds_W2[:-1, 1]).min() > 0.04


HARD = {
    "head_turn": world.Difficulty(1.0, 0.0, 0.0, 0.0, 1.0),
    "occluder": world.Difficulty(0.0, 0.4, 0.0, 0.0, 1.0),
    "noise": world.Difficulty(0.0, 0.0, 0.3, 0.0, 1.0),
    "music": world.Difficulty(0.0, 0.0, 0.0, 0.3, 1.0),
    "tempo": world.Difficulty(0.0, 0.0, 0.0, 0.0, 1.3),
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
    assert middles_F.max() - middles_F.min() > 12


def test_fast_speech_is_shorter():
    usual, fast = (
        world.film(world.puppet(5), (ENGLISH, SPANISH), motion_seed=3, difficulty=difficulty, is_drawn=False)
        for difficulty in (world.EASY, HARD["tempo"])
    )
    lengths = [np.diff(film.word_seconds_W2, axis=1).sum() for film in (usual, fast)]
    spoken = [
        lexicon.lexicon()[said.language, world.puppet(5).voice, word] for said in usual.phrases for word in said.words
    ]
    assert lengths[1] == pytest.approx(sum(word.seconds for word in spoken) / 1.3, rel=0.01)
    assert lengths[1] < lengths[0]


def test_stretching_changes_the_length_of_a_tone_and_not_its_pitch():
    tone_N = np.sin(2 * np.pi * 220 * np.arange(8000) / 16000).astype(np.float32)
    fast_N = difficulty.stretched(tone_N, 1.3)
    assert len(fast_N) == round(8000 / 1.3)
    peak_hz = np.abs(np.fft.rfft(fast_N[: len(fast_N) // 2 * 2], 16000)).argmax()
    assert abs(peak_hz - 220) <= 2


def test_slow_speech_is_held_to_its_half():
    slow = world.film(
        world.puppet(5), (ENGLISH, SPANISH), motion_seed=3, difficulty=world.Difficulty(0, 0, 0, 0, 0.5), is_drawn=False
    )
    assert slow.word_seconds_W2[2, 1] <= 1.27
    assert slow.word_seconds_W2[5, 1] <= 2.58


def test_identities_are_many():
    assert len({world.puppet(seed) for seed in range(2000)}) == 2000
    trained = set(splits.TRAINED_VOICES) & set(lexicon.recorded_voices())
    assert {world.puppet(seed).voice for seed in range(300)} == trained
    assert {world.puppet(seed).style for seed in range(100)} == set(face.STYLES)


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
    with pytest.raises(UnsayableText, match=told):
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
