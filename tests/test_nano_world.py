"""The closed world: what is filmed, what is known of it, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from dubmill.errors import UnsayableText
from dubmill.nano import lexicon, world
from dubmill.nano.captions import caption
from dubmill.nano.world import Phrase

ENGLISH, SPANISH = Phrase("en", ("four", "seven")), Phrase("es", ("uno", "tres"))


def test_a_film_is_the_same_every_time_it_is_shot():
    first, again = (world.film(world.puppet(3), (ENGLISH, SPANISH), motion_seed=5) for _ in range(2))
    assert np.array_equal(first.frames_FHWC, again.frames_FHWC)
    assert np.array_equal(first.audio_N, again.audio_N)


def test_a_film_has_the_shapes_that_it_promises():
    film = world.film(world.puppet(3), (ENGLISH, SPANISH), motion_seed=5)
    assert film.frames_FHWC.shape == (25, 64, 64, 3)
    assert film.frames_FHWC.dtype == np.uint8
    assert film.audio_N.shape == (32000,)
    assert film.audio_N.dtype == np.float32
    assert film.mouth_opening_F.shape == (25,)
    assert film.mouth_box_F4.shape == (25, 4)
    assert np.abs(film.audio_N).max() <= 1


def test_the_same_take_in_other_words_differs_only_at_the_mouth():
    here, there = (
        world.film(world.puppet(8), phrases, motion_seed=2)
        for phrases in ((ENGLISH, SPANISH), (Phrase("es", ("ocho", "dos")), SPANISH))
    )
    changed_HW = (here.frames_FHWC != there.frames_FHWC).any(axis=(0, 3))
    boxes_F4 = np.concatenate([here.mouth_box_F4, there.mouth_box_F4])
    rows, columns = np.nonzero(changed_HW)
    assert changed_HW.any()
    assert rows.min() >= boxes_F4[:, 1].min() - 2
    assert rows.max() <= boxes_F4[:, 3].max() + 2
    assert columns.min() >= boxes_F4[:, 0].min() - 2
    assert columns.max() <= boxes_F4[:, 2].max() + 2
    assert np.array_equal(here.audio_N[-16000:], there.audio_N[-16000:]), "the untouched half sounds the same"


def test_halves_hold_their_own_words_whole():
    film = world.film(world.puppet(1), (ENGLISH, SPANISH), motion_seed=9)
    first, second = world.halves(film)
    assert first.phrases == (ENGLISH,)
    assert second.phrases == (SPANISH,)
    for half in (first, second):
        assert half.frames_FHWC.shape[0] == 13
        assert half.audio_N.shape == (16640,)
        assert half.word_seconds_W2.min() >= 0
        assert half.word_seconds_W2.max() <= 1.01
    assert np.array_equal(first.frames_FHWC[-1], second.frames_FHWC[0]), "they share the middle frame"


def test_the_mouth_opens_while_words_are_said_and_rests_between():
    film = world.film(world.puppet(1), (ENGLISH, ENGLISH), motion_seed=9)
    seconds_F = np.arange(25) / world.FRAME_RATE
    is_said_F = np.zeros(25, bool)
    for start, end in film.word_seconds_W2:
        is_said_F |= (seconds_F > start + 0.05) & (seconds_F < end - 0.05)
    assert film.mouth_opening_F[is_said_F].mean() > 0.2
    assert film.mouth_opening_F[0] == 0


def test_identities_are_many():
    assert len({world.puppet(seed) for seed in range(2000)}) == 2000
    assert {world.puppet(seed).voice for seed in range(200)} == set(range(len(lexicon.VOICES)))


@pytest.mark.parametrize(
    ("language", "text", "told"),
    [
        ("xx", "uno dos", "en, es"),
        ("es", "uno two", "tres"),
        ("en", "one two three", "exactly 2"),
        ("en", "", "exactly 2"),
    ],
)
def test_what_cannot_be_said_is_refused_with_what_can(language, text, told):
    with pytest.raises(UnsayableText, match=told):
        world.check_text(language, text)


def test_text_is_read_however_it_is_typed():
    assert world.check_text("en", " Four, SEVEN. ") == ("four", "seven")
    assert world.check_text("es", "úno 7") == ("uno", "siete")


def test_a_caption_tells_the_switch():
    assert caption("A person", [ENGLISH, SPANISH]) == (
        'A person is speaking English, saying: "four seven", then switches to Spanish, saying: "uno tres"'
    )


def test_a_caption_joins_phrases_of_one_language():
    assert caption("A person", [SPANISH, SPANISH]) == 'A person is speaking Spanish, saying: "uno tres uno tres"'


@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="espeak-ng is needed to bake")
def test_baking_again_gives_the_shipped_lexicon_but_for_the_voice_noise(tmp_path: Path):
    """espeak-ng keeps noise and pitch phase between calls, so two bakings differ by samples, never by words."""
    lexicon.bake(tmp_path / "lexicon.safetensors")
    baked, shipped = lexicon.lexicon(tmp_path / "lexicon.safetensors"), lexicon.lexicon()
    assert baked.keys() == shipped.keys()
    for key, word in shipped.items():
        assert [shape for _, shape in baked[key].visemes] == [shape for _, shape in word.visemes]
    gaps_seconds = [abs(baked[key].seconds - word.seconds) for key, word in shipped.items()]
    assert sum(gaps_seconds) / len(gaps_seconds) < 0.01  # a noisy tail now and then is trimmed elsewhere, up to 90 ms
