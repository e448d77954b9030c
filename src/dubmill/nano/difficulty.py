"""Difficulties that can be added to a rendered clip, to test robustness; nano is trained without any of them.

Axes: F frames, N samples.
"""

from __future__ import annotations

import numpy as np

from dubmill.config.params import WorldParams
from dubmill.nano.lexicon import SAMPLE_RATE_HZ, WORD_RMS

_GRAIN, _HOP, _REACH = 400, 200, 80  # samples: 25 ms grains laid every 12.5 ms, matched within 5 ms
_HAND_SPEED = 4.0  # half pictures a second
_SCALE_HZ = (220.0, 261.6, 329.6, 392.0, 440.0)


EASY = WorldParams(head_turn=0.0, occluder=0.0, noise=0.0, music=0.0, tempo=1.0)


def turn(difficulty: WorldParams, rng: np.random.Generator, times_F: np.ndarray) -> np.ndarray:
    """Returns (F,): the direction in which the head looks, from -1 (left) to 1 (right)."""
    return difficulty.head_turn * np.sin(2 * np.pi * 0.45 * times_F + rng.uniform(0, 2 * np.pi))


def hand(difficulty: WorldParams, rng: np.random.Generator, times_F: np.ndarray) -> np.ndarray:
    """Returns (F,): the distance of a hand from the mouth, in half picture widths; beyond 2 it is not visible."""
    side, seconds = rng.choice([-1.0, 1.0]), times_F[-1] * difficulty.occluder
    middle = rng.uniform(0.3, 0.7) * times_F[-1]
    if not difficulty.occluder:
        return np.full(len(times_F), 9.0)
    return side * _HAND_SPEED * np.maximum(0, np.abs(times_F - middle) - seconds / 2)


def background(difficulty: WorldParams, rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Returns (N,): sound to mix under the speech: noise that falls by 3 dB per octave, and plucked notes as music."""
    if not (difficulty.noise or difficulty.music):
        return np.zeros(num_samples)
    spectrum = np.fft.rfft(rng.normal(0, 1, num_samples))
    rumble_N = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), num_samples)
    seconds_N = np.arange(num_samples) / SAMPLE_RATE_HZ
    tune_N = np.zeros(num_samples)
    for start in np.arange(0, seconds_N[-1], 0.25):
        since_N = seconds_N - start
        pluck_N = np.where(since_N >= 0, np.exp(-5 * np.maximum(since_N, 0)), 0)
        tune_N += pluck_N * np.sin(2 * np.pi * rng.choice(_SCALE_HZ) * since_N)
    return difficulty.noise * _at_word_level(rumble_N) + difficulty.music * _at_word_level(tune_N)


def _at_word_level(sound_N: np.ndarray) -> np.ndarray:
    return sound_N * WORD_RMS / np.sqrt((sound_N**2).mean())


def stretched(wave_N: np.ndarray, tempo: float) -> np.ndarray:
    """Returns `wave_N` played at `tempo` times its speed with unchanged pitch, by overlap-add of similar grains (WSOLA)."""
    if tempo == 1.0 or len(wave_N) < 2 * _GRAIN:
        return wave_N
    num_samples = round(len(wave_N) / tempo)
    padded_N = np.pad(wave_N, (0, 2 * _GRAIN + _REACH))
    window_N, made_N, weight_N = (
        np.hanning(_GRAIN),
        np.zeros(num_samples + 2 * _GRAIN),
        np.zeros(num_samples + 2 * _GRAIN),
    )
    wanted_N = padded_N[:_GRAIN]
    for at in range(0, num_samples, _HOP):
        nominal = min(int(at * tempo), len(wave_N))
        starts = range(max(0, nominal - _REACH), nominal + _REACH)
        likeness = [float(padded_N[start : start + _GRAIN] @ wanted_N) for start in starts]
        start = starts[int(np.argmax(likeness))]
        made_N[at : at + _GRAIN] += window_N * padded_N[start : start + _GRAIN]
        weight_N[at : at + _GRAIN] += window_N
        wanted_N = padded_N[start + _HOP : start + _HOP + _GRAIN]
    return (made_N / np.maximum(weight_N, 1e-3))[:num_samples].astype(np.float32)
