"""The scorers hear and see what is known of clean clips, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from dubmill.metrics.lipsync import correlation
from dubmill.metrics.speech import words_right
from dubmill.nano import scorers, weights
from dubmill.nano.figures import text_of
from dubmill.nano.pretrain import data
from dubmill.nano.world import film, puppet, random_phrases


@pytest.fixture(scope="module")
def nano_scorers() -> scorers.NanoScorers:
    return scorers.load_scorers(weights.WEIGHTS)


@pytest.mark.parametrize("is_half", [True, False])
def test_words_are_heard_in_order_and_language(nano_scorers, is_half: bool):
    right = []
    for take in data.held_out_takes(12, is_half=is_half):
        right.append(words_right(text_of(take.film.phrases).split(), nano_scorers.words(take.film.audio_N)))
    assert np.mean(right) > 0.97


def test_silence_and_noise_say_nothing_in_no_voice(nano_scorers):
    for audio_N in (np.zeros(32000, np.float32), np.random.default_rng(0).normal(0, 1e-3, 32000).astype(np.float32)):
        assert nano_scorers.words(audio_N) == []
        assert not nano_scorers.voice(audio_N).any()


def test_the_mouth_is_read_from_pixels_and_from_sound(nano_scorers):
    film_ = data.held_out_takes(1)[0].film
    seen_F5 = nano_scorers.mouth(film_.frames_FHWC)
    assert correlation(seen_F5[:, 0], film_.mouth_opening_F) > 0.95
    assert np.abs(seen_F5[:, 1:] - film_.mouth_box_F4).mean() < 1.5
    assert correlation(nano_scorers.speech_opening(film_.audio_N, len(film_.frames_FHWC)), film_.mouth_opening_F) > 0.9


def test_a_shift_of_the_sound_is_found(nano_scorers):
    take = data.held_out_takes(1)[0]
    late_N = np.roll(take.film.audio_N, 3 * 1280)
    distances = nano_scorers.sync_distances(take.film.frames_FHWC, late_N)
    assert distances.shape == (2 * scorers.MAX_OFFSET_FRAMES + 1,)
    assert abs(int(distances.argmin()) - scorers.MAX_OFFSET_FRAMES - 3) <= 1


def test_a_puppet_is_itself_in_other_words_and_no_one_else(nano_scorers):
    rng = np.random.default_rng(0)
    seeds = range(data.HELD_OUT_SEED, data.HELD_OUT_SEED + 6)
    films = [[film(puppet(seed), random_phrases(rng), motion_seed=take) for take in (1, 2)] for seed in seeds]
    faces = [[nano_scorers.identity(one.frames_FHWC) for one in pair] for pair in films]
    assert min(float(one @ other) for one, other in faces) > 0.9
    assert np.mean([float(faces[i][0] @ faces[i + 1][0]) for i in range(5)]) < 0.6


def test_voices_of_one_speaker_are_alike(nano_scorers):
    takes = [data.take(data.HELD_OUT_SEED + index, is_drawn=False) for index in range(24)]
    voices = [(take.puppet.voice, nano_scorers.voice(take.film.audio_N)) for take in takes]
    same = [float(a @ b) for i, (x, a) in enumerate(voices) for y, b in voices[:i] if x == y]
    other = [float(a @ b) for i, (x, a) in enumerate(voices) for y, b in voices[:i] if x != y]
    assert np.mean(same) > np.mean(other) + 0.5


def test_the_scorers_of_a_folder_load_from_it_or_from_their_own_place(nano_scorers):
    take = data.held_out_takes(1)[0]
    again = scorers.load_scorers(weights.WEIGHTS / "scorers")
    assert np.array_equal(again.voice(take.film.audio_N), nano_scorers.voice(take.film.audio_N))
