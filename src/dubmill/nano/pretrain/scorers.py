"""Trains all scorers together on distorted renders of nano's world, never on latents or on clips that the backbone generates.

Axes: B clips, T mel frames, M mel bands, F film frames, C channels, H rows, W columns, E numbers of an embedding.
"""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from dubmill.nano import scorer_nets as nets
from dubmill.nano.figures import clip_figures, mean_figures, same_and_other, truth_figures
from dubmill.nano.lexicon import SAMPLE_RATE_HZ
from dubmill.nano.mel import nano_log_mel
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.augment import distort_audio, distort_mel, distort_pictures
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.room import FRAME_SIZE
from dubmill.nano.scorers import NanoScorers
from dubmill.nano.world import NUM_FRAMES, film, puppet, random_phrases

_WORD_RATE_HZ = 50
_CORE = 0.25
"""Share of a word's length, at its start and at its end, that is labelled blank, so that neighbouring words are separated."""


class ScorerTraining:
    """Part `scorers`: trained on sound of new clips in each step, and on pictures of clips that are rendered once."""

    name = "scorers"

    def __init__(self, *, pool_size: int = 1500, num_sounds: int = 20, num_faces: int = 40, num_films: int = 5) -> None:
        torch.manual_seed(0)
        self.model = nets.ScorerNets()
        self.schedule = Schedule(peak_rate=2e-3, warmup_steps=50, weight_decay=1e-2, average=0.995)
        self.pool_size, self.num_sounds, self.num_faces, self.num_films = pool_size, num_sounds, num_faces, num_films

    @cached_property
    def _pool(self) -> list[data.Take]:
        return [data.take(seed) for seed in range(self.pool_size)]

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        losses = {**self._sound_losses(step, rng), **self._face_losses(rng), "sync": self._sync_loss(rng)}
        return torch.stack(list(losses.values())).sum(), {name: value.item() for name, value in losses.items()}

    def _sound_losses(self, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        takes = data.training_takes(rng, self.num_sounds, is_half=step % 2 == 1, is_drawn=False)
        audio_BN = data.audio(takes)
        mel_BMT = nets.speech_mel(distort_mel(nano_log_mel(distort_audio(audio_BN))))
        labels_BT = torch.from_numpy(np.stack([_word_labels(one) for one in takes]))
        scores_BCT = self.model.words(mel_BMT)
        num_steps = min(labels_BT.shape[1], scores_BCT.shape[2])
        voices_B = torch.tensor([one.puppet.voice for one in takes])
        voice_net = self.model.voice
        voice_scores = functional.linear(voice_net(mel_BMT), functional.normalize(voice_net.head.weight, dim=1))
        opening_BF = torch.from_numpy(np.stack([one.film.mouth_opening_F for one in takes]))
        implied_BF = self.model.opening(mel_BMT)[:, : opening_BF.shape[1]]
        return {
            "words": functional.cross_entropy(scores_BCT[..., :num_steps], labels_BT[:, :num_steps]),
            "voice": 0.3 * functional.cross_entropy(12 * voice_scores, voices_B),
            "opening": 8 * functional.mse_loss(implied_BF, opening_BF[:, : implied_BF.shape[1]]),
        }

    def _face_losses(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Returns the losses of faces (two frames of one face are nearer than two faces) and of mouths (opening and box)."""
        takes = [self._pool[index] for index in rng.choice(self.pool_size, self.num_faces, replace=False)]
        moments = [rng.choice(NUM_FRAMES, 2, replace=False) for _ in takes]
        frames = np.stack([one.film.frames_FHWC[at] for one, at in zip(takes, moments, strict=True)], axis=1)
        pictures = torch.from_numpy(frames.reshape(-1, *frames.shape[2:])).permute(0, 3, 1, 2).float() / 127.5 - 1
        pictures = nets.shrunk(pictures)
        truth = np.stack([_mouth_truth(one, at) for one, at in zip(takes, moments, strict=True)], axis=1)
        truth_N5 = torch.from_numpy(truth.reshape(-1, 5))
        seen_N5 = self.model.mouth(distort_pictures(pictures, colour=0.08))
        one_E, other_E = self.model.face(distort_pictures(pictures, colour=0.02)).chunk(2)
        alike = one_E @ other_E.T / 0.1
        owners = torch.arange(self.num_faces)
        weight = torch.tensor([1.0, 3, 3, 3, 3])
        return {
            "face": 0.2 * (functional.cross_entropy(alike, owners) + functional.cross_entropy(alike.T, owners)),
            "mouth": 10 * ((seen_N5 - truth_N5).abs() * weight).mean(),
        }

    def _sync_loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Returns the contrastive loss of sync: a mouth is nearer to its own sound than to the sound at any other time or clip."""
        takes = [self._pool[index] for index in rng.choice(self.pool_size, self.num_films, replace=False)]
        windows = nets.mouth_windows(nets.shrunk(data.video(takes))).flatten(0, 1)
        shade = 1 + 0.2 * torch.randn(len(windows), 3, 1, 1).repeat(1, nets.SYNC_WINDOW, 1, 1)
        picture_NE = self.model.sync.see(distort_pictures(windows * shade, colour=0.03))
        mel_BMT = nets.speech_mel(distort_mel(nano_log_mel(distort_audio(data.audio(takes)))))
        speech = nets.speech_windows(mel_BMT, NUM_FRAMES).flatten(0, 1)
        sound_NE = self.model.sync.hear(speech + 0.2 * torch.randn(len(speech), 1, 1))
        alike = picture_NE @ sound_NE.T / 0.1
        owners = torch.arange(len(alike))
        return 0.3 * (functional.cross_entropy(alike, owners) + functional.cross_entropy(alike.T, owners))

    def evaluate(self) -> dict[str, float]:
        return scorer_figures(NanoScorers(copy.deepcopy(self.model)), num_clips=40)

    def save(self, out: Path) -> None:
        save_file(
            {name: value.contiguous() for name, value in self.model.state_dict().items()}, out / "scorers.safetensors"
        )


def scorer_figures(scorers: NanoScorers, *, num_clips: int) -> dict[str, float]:
    """Returns held-out figures on clean renders; each puppet is rendered twice, with other words and another motion."""
    rows, faces, voices, owners, speakers = [], [], [], [], []
    for index in range(num_clips):
        seed = data.HELD_OUT_SEED + index // 2
        who = puppet(seed)
        clip = film(who, random_phrases(np.random.default_rng([seed, index])), motion_seed=seed + index)
        rows.append(
            clip_figures(scorers, clip.frames_FHWC, clip.audio_N, clip.phrases)
            | truth_figures(scorers, clip.frames_FHWC, clip.audio_N, clip.mouth_opening_F, clip.mouth_box_F4)
        )
        faces.append(scorers.identity(clip.frames_FHWC))
        voices.append(scorers.voice(clip.audio_N))
        owners.append(seed)
        speakers.append(who.voice)
    figures = mean_figures(rows)
    figures["face_same"], figures["face_other"] = same_and_other(faces, owners)
    figures["voice_same"], figures["voice_other"] = same_and_other(voices, speakers)
    return figures


def _word_labels(take: data.Take) -> np.ndarray:
    """Returns (T,): the class of the word spoken at each 20 ms, or blank."""
    labels_T = np.full(round(len(take.film.audio_N) / SAMPLE_RATE_HZ * _WORD_RATE_HZ), nets.BLANK)
    words = [(phrase.language, word) for phrase in take.film.phrases for word in phrase.words]
    for word, (start, end) in zip(words, take.film.word_seconds_W2, strict=True):
        first, last = (round((start + share * (end - start)) * _WORD_RATE_HZ) for share in (_CORE, 1 - _CORE))
        labels_T[first:last] = nets.CLASSES.index(word)
    return labels_T


def _mouth_truth(take: data.Take, moments: np.ndarray) -> np.ndarray:
    """Returns (2, 5): mouth opening, and mouth box as shares of the picture size."""
    return np.concatenate(
        [take.film.mouth_opening_F[moments, None], take.film.mouth_box_F4[moments] / FRAME_SIZE], axis=1
    )
