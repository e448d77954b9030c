"""What the parts train on, step by step, free of their models: so that other processes can draw it, and begin quickly.

Axes: B clips, N samples, T word labels (50 a second), C channels, F frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from dubmill.nano.face import FRAME_SIZE
from dubmill.nano.lexicon import SAMPLE_RATE_HZ
from dubmill.nano.pretrain import data
from dubmill.nano.scorer_nets import BLANK, CLASSES
from dubmill.nano.world import NUM_FRAMES

_MOUTH_WEIGHT, _EYES_WEIGHT = 4.0, 4.0
_SHORT_FRAMES = 17
_WORD_RATE_HZ = 50
_CORE = 0.25
"""A word is labelled from this share of its length to one less it, so that blanks part neighbours."""


def video_batch(step: int, rng: np.random.Generator, *, num_halves: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 frames (B, F, H, W, C) and weights (B, 1, F, H, W).

    Every fourth step is of whole clips and every fourth of halves; the others are of two short windows for each half,
    which are as quick and show twice the puppets. The decoder is not causal, so short windows alone would not do. Two
    halves at least: torch convolves a batch of one by a slower path.
    """
    kind = step % 4
    count = {0: max(1, num_halves // 2), 2: num_halves}.get(kind, 2 * num_halves)
    takes = [data.silent_take(seed, is_half=kind != 0) for seed in data.training_seeds(rng, count)]
    frames = torch.from_numpy(np.stack([one.film.frames_FHWC for one in takes]))
    weights = 1 + (_MOUTH_WEIGHT - 1) * data.mouth_mask(takes) + (_EYES_WEIGHT - 1) * data.eyes_mask(takes)
    if kind % 2:
        first = int(rng.integers(0, frames.shape[1] - _SHORT_FRAMES + 1))
        window = slice(first, first + _SHORT_FRAMES)
        frames, weights = frames[:, window], weights[:, :, window]
    return frames, weights


def audio_batch(step: int, rng: np.random.Generator, *, batch_size: int) -> torch.Tensor:
    """(B, N) sound of whole clips and, every other step, of twice as many halves."""
    is_half = step % 2 == 1
    count = batch_size * (2 if is_half else 1)
    return data.heard(data.training_takes(rng, count, is_half=is_half, is_drawn=False))


def vocoder_batch(step: int, rng: np.random.Generator, *, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sound of whole clips at 16 kHz and at 24 kHz."""
    takes = data.training_takes(rng, batch_size, is_drawn=False)
    return data.heard(takes), data.audio(takes)


@dataclass(frozen=True)
class ScorerBatch:
    """Sounds with their words, voices and openings; faces, the second moments after the first; films with their sounds."""

    sound_BN: torch.Tensor
    labels_BT: torch.Tensor
    voices_B: torch.Tensor
    opening_BF: torch.Tensor
    faces_NHWC: torch.Tensor
    mouths_N5: torch.Tensor
    films_BFHWC: torch.Tensor
    film_sound_BN: torch.Tensor


@cache
def _pooled(seed: int) -> data.Take:
    """A film of the pool, drawn once in a process."""
    return data.take(seed)


def scorer_batch(
    step: int, rng: np.random.Generator, *, pool_size: int, num_sounds: int, num_faces: int, num_films: int
) -> ScorerBatch:
    """Sound from fresh clips, pictures from a pool of films."""
    sounds = data.training_takes(rng, num_sounds, is_half=step % 2 == 1, is_drawn=False)
    faces = [_pooled(int(seed)) for seed in rng.choice(pool_size, num_faces, replace=False)]
    moments = [rng.choice(NUM_FRAMES, 2, replace=False) for _ in faces]
    films = [_pooled(int(seed)) for seed in rng.choice(pool_size, num_films, replace=False)]
    pictures = np.stack([one.film.frames_FHWC[at] for one, at in zip(faces, moments, strict=True)], axis=1)
    mouths = np.stack([_mouth_truth(one, at) for one, at in zip(faces, moments, strict=True)], axis=1)
    return ScorerBatch(
        sound_BN=data.heard(sounds),
        labels_BT=torch.from_numpy(np.stack([_word_labels(one) for one in sounds])),
        voices_B=torch.tensor([one.puppet.voice for one in sounds]),
        opening_BF=torch.from_numpy(np.stack([one.film.mouth_opening_F for one in sounds])),
        faces_NHWC=torch.from_numpy(pictures.reshape(-1, *pictures.shape[2:])),
        mouths_N5=torch.from_numpy(mouths.reshape(-1, 5)),
        films_BFHWC=torch.from_numpy(np.stack([one.film.frames_FHWC for one in films])),
        film_sound_BN=data.heard(films),
    )


def _word_labels(take: data.Take) -> np.ndarray:
    """(T,) class of the word said at each 20 ms, or blank."""
    labels_T = np.full(round(len(take.film.audio_N) / SAMPLE_RATE_HZ * _WORD_RATE_HZ), BLANK)
    words = [(phrase.language, word) for phrase in take.film.phrases for word in phrase.words]
    for word, (start, end) in zip(words, take.film.word_seconds_W2, strict=True):
        first, last = (round((start + share * (end - start)) * _WORD_RATE_HZ) for share in (_CORE, 1 - _CORE))
        labels_T[first:last] = CLASSES.index(word)
    return labels_T


def _mouth_truth(take: data.Take, moments: np.ndarray) -> np.ndarray:
    """(2, 5) opening and box as shares of the picture."""
    return np.concatenate(
        [take.film.mouth_opening_F[moments, None], take.film.mouth_box_F4[moments] / FRAME_SIZE], axis=1
    )
