"""Trains the video VAE of sketches, whose latent space the shipped one takes over.

The loss is one of pixels, mostly L2, that weighs the mouth more; later only the decoder is trained, with fixed latents.

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

_LATENT_NOISE = 0.04
_LATENT_PENALTY = 1e-3


class SketchVaeTraining:
    """Part `sketch_vae`: trained on whole clips of 33 and 17 frames, since the decoder is not causal."""

    name = "sketch_vae"

    def __init__(
        self,
        *,
        batch_size: int = 2,
        mouth_weight: float = 5.0,
        num_joint_steps: int = 2290,
    ) -> None:
        torch.manual_seed(0)
        self.model = modules.sketch_vae()
        self.schedule = Schedule(peak_rate=6e-4, warmup_steps=100, betas=(0.9, 0.95), average=0.998)
        self.batch_size, self.mouth_weight, self.num_joint_steps = batch_size, mouth_weight, num_joint_steps

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        is_half = step % 2 == 1
        takes = data.training_takes(
            rng, self.batch_size * (2 if is_half else 1), is_half=is_half, rendition=data.SKETCHES
        )
        pixels_BCFHW = data.video(takes)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(step < self.num_joint_steps):
                latents_BCFHW = self.model.encode(pixels_BCFHW, return_dict=False)[0].mode().float()
            noisy_BCFHW = latents_BCFHW + _LATENT_NOISE * torch.randn_like(latents_BCFHW)
            difference = self.model.decode(noisy_BCFHW, return_dict=False)[0].float() - pixels_BCFHW
        weight = 1 + (self.mouth_weight - 1) * data.mouth_mask(takes)
        loss = ((difference.abs() / 4 + 8 * difference**2) * weight).mean() + _LATENT_PENALTY * (
            latents_BCFHW**2
        ).mean()
        return loss, {"l1": difference.detach().abs().mean().item()}

    def evaluate(self) -> dict[str, float]:
        takes = data.held_out_takes(16, rendition=data.SKETCHES)
        pixels_BCFHW, mask = data.video(takes), data.mouth_mask(takes)
        latents_BCFHW = self.model.encode(pixels_BCFHW, return_dict=False)[0].mode()
        self._evaluated = pixels_BCFHW, self.model.decode(latents_BCFHW, return_dict=False)[0].clamp(-1, 1)
        squared = ((self._evaluated[1] - pixels_BCFHW) / 2) ** 2
        mouth = (squared * mask).sum() / (mask.sum() * 3)
        return {
            "psnr_db": -10 * squared.mean().log10().item(),
            "mouth_psnr_db": -10 * mouth.log10().item(),
            "latent_std": latents_BCFHW.std().item(),
        }

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "vae")
        truth, decoded = self._evaluated
        save_rows(
            [clip[:, ::2] for pair in zip(truth[:4], decoded[:4], strict=True) for clip in pair], out / "sheet.png"
        )
