"""The scorers, trained together on worn renders of the world: never on latents, never on what the backbone makes.

Axes: B clips, T mel frames, M mel bands, F film frames, C channels, H rows, W columns, E numbers of an embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from dubmill.nano import scorer_nets as nets
from dubmill.nano.figures import clip_figures, mean_figures, same_and_other, truth_figures
from dubmill.nano.mel import log_mel
from dubmill.nano.pretrain import batches, data
from dubmill.nano.pretrain.augment import wear_audio, wear_mel, wear_pictures
from dubmill.nano.pretrain.hardware import device
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.scorers import Scorers
from dubmill.nano.splits import Split
from dubmill.nano.world import NUM_FRAMES, film, puppet, random_phrases


class ScorerTraining:
    """Part `scorers`: sound from fresh clips, pictures from a pool that is drawn once."""

    name = "scorers"

    def __init__(self, *, pool_size: int = 400, num_sounds: int = 20, num_faces: int = 40, num_films: int = 5) -> None:
        torch.manual_seed(0)
        self.device = device()
        self.model = nets.ScorerNets().to(self.device)
        self.schedule = Schedule(peak_rate=2e-3, warmup_steps=50, weight_decay=1e-2, average=0.995)
        self.pool_size, self.num_sounds, self.num_faces, self.num_films = pool_size, num_sounds, num_faces, num_films

    def batches(self) -> Callable[[int, np.random.Generator], batches.ScorerBatch]:
        return partial(
            batches.scorer_batch,
            pool_size=self.pool_size,
            num_sounds=self.num_sounds,
            num_faces=self.num_faces,
            num_films=self.num_films,
        )

    def loss(
        self, step: int, progress: float, batch: batches.ScorerBatch, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        batch = batches.ScorerBatch(*(value.to(self.device) for value in astuple(batch)))
        losses = {**self._sound_losses(batch), **self._face_losses(batch), "sync": self._sync_loss(batch)}
        return torch.stack(list(losses.values())).sum(), {name: value.item() for name, value in losses.items()}

    def _sound_losses(self, batch: batches.ScorerBatch) -> dict[str, torch.Tensor]:
        mel_BMT = nets.speech_mel(wear_mel(log_mel(wear_audio(batch.sound_BN))))
        scores_BCT = self.model["words"](mel_BMT)
        num_steps = min(batch.labels_BT.shape[1], scores_BCT.shape[2])
        voice_net = self.model["voice"]
        voice_scores = functional.linear(voice_net(mel_BMT), functional.normalize(voice_net.head.weight, dim=1))
        implied_BF = self.model["opening"](mel_BMT)[:, : batch.opening_BF.shape[1]]
        return {
            "words": functional.cross_entropy(scores_BCT[..., :num_steps], batch.labels_BT[:, :num_steps]),
            "voice": 0.3 * functional.cross_entropy(12 * voice_scores, batch.voices_B),
            "opening": 8 * functional.mse_loss(implied_BF, batch.opening_BF[:, : implied_BF.shape[1]]),
        }

    def _face_losses(self, batch: batches.ScorerBatch) -> dict[str, torch.Tensor]:
        """Two moments of each face must be nearer than two faces; each moment must tell its mouth."""
        pictures = batch.faces_NHWC.permute(0, 3, 1, 2).float() / 127.5 - 1
        seen_N5 = self.model["mouth"](wear_pictures(pictures, colour=0.08))
        one_E, other_E = self.model["face"](wear_pictures(pictures, colour=0.02)).chunk(2)
        alike = one_E @ other_E.T / 0.1
        owners = torch.arange(len(alike), device=self.device)
        weight = torch.tensor([1.0, 3, 3, 3, 3], device=self.device)
        return {
            "face": 0.2 * (functional.cross_entropy(alike, owners) + functional.cross_entropy(alike.T, owners)),
            "mouth": 10 * ((seen_N5 - batch.mouths_N5).abs() * weight).mean(),
        }

    def _sync_loss(self, batch: batches.ScorerBatch) -> torch.Tensor:
        """A moment's mouth must be nearer to its own sound than to any other moment's, in its clip and in others."""
        video_BCFHW = batch.films_BFHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        windows = nets.mouth_windows(video_BCFHW).flatten(0, 1)
        shade = 1 + 0.2 * torch.randn(len(windows), 3, 1, 1, device=self.device).repeat(1, nets.SYNC_WINDOW, 1, 1)
        seen = self.model["sync"].see(wear_pictures(windows * shade, colour=0.03))
        mel_BMT = nets.speech_mel(wear_mel(log_mel(wear_audio(batch.film_sound_BN))))
        speech = nets.speech_windows(mel_BMT, NUM_FRAMES).flatten(0, 1)
        heard = self.model["sync"].hear(speech + 0.2 * torch.randn(len(speech), 1, 1, device=self.device))
        alike = seen @ heard.T / 0.1
        owners = torch.arange(len(alike), device=self.device)
        return 0.3 * (functional.cross_entropy(alike, owners) + functional.cross_entropy(alike.T, owners))

    def evaluate(self) -> dict[str, float]:
        return scorer_figures(Scorers(copy.deepcopy(self.model).cpu()), num_clips=40)

    def save(self, out: Path) -> None:
        save_file(
            {name: value.contiguous() for name, value in self.model.state_dict().items()}, out / "scorers.safetensors"
        )


def scorer_figures(scorers: Scorers, *, num_clips: int) -> dict[str, float]:
    """Held-out figures on clean renders; each puppet is filmed twice, with other words and another motion."""
    rows, faces, voices, owners, speakers = [], [], [], [], []
    for index in range(num_clips):
        seed = Split.HELD_OUT.value[index // 2]
        who = puppet(seed)
        phrases = random_phrases(np.random.default_rng([seed, index]), is_held_out=True)
        clip = film(who, phrases, motion_seed=seed + index)
        heard_N = data.heard([data.Take(who, clip)])[0].numpy()
        rows.append(
            clip_figures(scorers, clip.frames_FHWC, heard_N, clip.phrases)
            | truth_figures(scorers, clip.frames_FHWC, heard_N, clip.mouth_opening_F, clip.mouth_box_F4)
        )
        faces.append(scorers.identity(clip.frames_FHWC))
        voices.append(scorers.voice(heard_N))
        owners.append(seed)
        speakers.append(who.voice)
    figures = mean_figures(rows)
    figures["face_same"], figures["face_other"] = same_and_other(faces, owners)
    figures["voice_same"], figures["voice_other"] = same_and_other(voices, speakers)
    return figures
