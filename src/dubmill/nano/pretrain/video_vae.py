"""The video VAE: L1 and L2 on pixels, heavier on the mouth; at the end the decoder alone.

Axes: B clips, C channels, F frames, H rows, W columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dubmill.nano import modules
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.pretrain.sheets import save_rows

_LATENT_NOISE = 0.08
_LATENT_PENALTY = 1e-3


class VideoVae:
    """Part `video_vae`: whole windows of 25 and 13 frames, since the decoder is not causal."""

    name = "video_vae"

    def __init__(self, *, batch_size: int = 3, mouth_weight: float = 5.0, decoder_only_share: float = 0.2) -> None:
        torch.manual_seed(0)
        self.model = modules.video_vae()
        self.schedule = Schedule(peak_rate=1e-3, warmup_steps=100, betas=(0.9, 0.95), average=0.998)
        self.batch_size, self.mouth_weight, self.decoder_only_share = batch_size, mouth_weight, decoder_only_share

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        is_half = step % 2 == 1
        takes = data.training_takes(rng, self.batch_size * (2 if is_half else 1), is_half=is_half)
        pixels_BCFHW = data.video(takes)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(progress < 1 - self.decoder_only_share):
                latents_BCFHW = self.model.encode(pixels_BCFHW).latent_dist.mode().float()
            noisy_BCFHW = latents_BCFHW + _LATENT_NOISE * torch.randn_like(latents_BCFHW)
            difference = self.model.decode(noisy_BCFHW).sample.float() - pixels_BCFHW
        weight = 1 + (self.mouth_weight - 1) * data.mouth_mask(takes)
        loss = ((difference.abs() + 2 * difference**2) * weight).mean() + _LATENT_PENALTY * (latents_BCFHW**2).mean()
        return loss, {"l1": difference.detach().abs().mean().item()}

    def evaluate(self) -> dict[str, float]:
        takes = data.held_out_takes(16)
        pixels_BCFHW, mask = data.video(takes), data.mouth_mask(takes)
        latents_BCFHW = self.model.encode(pixels_BCFHW).latent_dist.mode()
        self._seen = pixels_BCFHW, self.model.decode(latents_BCFHW).sample.clamp(-1, 1)
        squared = ((self._seen[1] - pixels_BCFHW) / 2) ** 2
        mouth = (squared * mask).sum() / (mask.sum() * 3)
        return {
            "psnr_db": -10 * squared.mean().log10().item(),
            "mouth_psnr_db": -10 * mouth.log10().item(),
            "latent_std": latents_BCFHW.std().item(),
        }

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "vae")
        truth, made = self._seen
        save_rows([clip[:, ::2] for pair in zip(truth[:4], made[:4], strict=True) for clip in pair], out / "sheet.png")
