"""Trains the audio VAE by an L1 loss and a small L2 loss on log-mel frames.

Axes: B clips, T mel frames, M mel bands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dubmill.nano import modules
from dubmill.nano.mel import nano_log_mel
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.pretrain.sheets import save_mels

_LATENT_NOISE = 0.05
_LATENT_PENALTY = 1e-3


def whole_mel(audio_BN: torch.Tensor) -> torch.Tensor:
    """Returns log-mel frames (B, 1, T, M) with T = 4 k + 1, which k + 1 latents represent."""
    mel_BTM = nano_log_mel(audio_BN)
    num_frames = (mel_BTM.shape[1] - 2) // 4 * 4 + 1
    return mel_BTM[:, None, :num_frames]


class AudioVaeTraining:
    """Part `audio_vae`: trained on full and half clips from their first frame, since encoder and decoder are causal."""

    name = "audio_vae"

    def __init__(self, *, batch_size: int = 3) -> None:
        torch.manual_seed(0)
        self.model = modules.audio_vae()
        self.schedule = Schedule(peak_rate=1e-3, warmup_steps=100, average=0.998)
        self.batch_size = batch_size

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        is_half = step % 2 == 1
        takes = data.training_takes(rng, self.batch_size * (2 if is_half else 1), is_half=is_half, is_drawn=False)
        mel = whole_mel(data.audio(takes))
        with torch.autocast("cpu", torch.bfloat16):
            latents = self.model.encode(mel, return_dict=False)[0].mode().float()
            noisy = latents + _LATENT_NOISE * torch.randn_like(latents)
            difference = self.model.decode(noisy, return_dict=False)[0].float() - mel
        loss = difference.abs().mean() + 0.1 * (difference**2).mean() + _LATENT_PENALTY * (latents**2).mean()
        return loss, {"l1": difference.detach().abs().mean().item()}

    def evaluate(self) -> dict[str, float]:
        mel = whole_mel(data.audio(data.held_out_takes(32, is_drawn=False)))
        latents = self.model.encode(mel, return_dict=False)[0].mode()
        self._evaluated = mel, self.model.decode(latents, return_dict=False)[0]
        difference = (self._evaluated[1] - mel).abs()
        loud = mel > -5
        return {
            "mel_l1": difference.mean().item(),
            "loud_mel_l1": difference[loud].mean().item(),
            "latent_std": latents.std().item(),
        }

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "audio_vae")
        truth, decoded = self._evaluated
        save_mels([clip[0] for pair in zip(truth[:4], decoded[:4], strict=True) for clip in pair], out / "sheet.png")
