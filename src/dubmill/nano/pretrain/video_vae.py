"""The video VAE: mostly L2 on pixels, heavier on mouth and eyes and on colour; later on the decoder alone.

Axes: B clips, C channels, F frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from dubmill.nano import modules
from dubmill.nano.pretrain import batches, data
from dubmill.nano.pretrain.hardware import autocast, device
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.pretrain.sheets import save_rows
from dubmill.nano.splits import Split

_LATENT_NOISE = 0.04
_LATENT_PENALTY = 1e-3
_CHROMA_WEIGHT, _EDGE_WEIGHT = 8.0, 0.5
_LUMA = (0.299, 0.587, 0.114)


class VideoVae:
    """Part `video_vae`."""

    name = "video_vae"

    def __init__(self, *, num_halves: int = 2, num_joint_steps: int = 4500) -> None:
        torch.manual_seed(0)
        self.device = device()
        self.model = modules.video_vae().to(self.device)
        self.schedule = Schedule(peak_rate=8e-4, warmup_steps=200, betas=(0.9, 0.95), average=0.998)
        self.num_halves, self.num_joint_steps = num_halves, num_joint_steps

    def batches(self) -> Callable[[int, np.random.Generator], tuple[torch.Tensor, torch.Tensor]]:
        return partial(batches.video_batch, num_halves=self.num_halves)

    def loss(
        self, step: int, progress: float, batch: tuple[torch.Tensor, torch.Tensor], rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        pixels_BCFHW = _pixels(batch[0].to(self.device))
        weight = batch[1].to(self.device)
        with autocast(self.device):
            with torch.set_grad_enabled(step < self.num_joint_steps):
                latents_BCFHW = self.model.encode(pixels_BCFHW).latent_dist.mode().float()
            noisy_BCFHW = latents_BCFHW + _LATENT_NOISE * torch.randn_like(latents_BCFHW)
            made_BCFHW = self.model.decode(noisy_BCFHW).sample.float()
        loss = picture_loss(made_BCFHW, pixels_BCFHW, weight) + _LATENT_PENALTY * (latents_BCFHW**2).mean()
        return loss, {"l1": (made_BCFHW - pixels_BCFHW).detach().abs().mean().item()}

    def evaluate(self) -> dict[str, float]:
        takes = [data.silent_take(Split.HELD_OUT.value[index]) for index in range(8)]
        made, truth, figures = [], [], []
        for take in takes:  # one by one: a clip of full size takes a gigabyte
            pixels = data.video([take]).to(self.device)
            decoded = self.model.decode(self.model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
            figures.append(picture_figures(decoded, pixels, [take]))
            made.append(decoded[0].cpu())
            truth.append(pixels[0].cpu())
        self._seen = truth, made
        return {name: float(np.mean([row[name] for row in figures])) for name in figures[0]}

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "vae")
        truth, made = self._seen
        rows = [clip[:, ::8] for pair in zip(truth[:4], made[:4], strict=True) for clip in pair]
        save_rows(rows, out / "sheet.png", zoom=1)


def _pixels(frames_BFHWC: torch.Tensor) -> torch.Tensor:
    """(B, C, F, H, W) in [-1, 1]."""
    return frames_BFHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def picture_loss(made: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L1 and L2 of pixels, L2 of colour differences, L1 of the steps between neighbours, where speckle shows.

    Small coloured things such as an iris count little in a mean over colours, so colour is a term of its own.
    """
    difference = made - truth
    luma = (difference * difference.new_tensor(_LUMA).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    chroma = difference - luma
    pixel = ((difference.abs() / 4 + 8 * difference**2) * weight).mean()
    colour = _CHROMA_WEIGHT * (chroma**2 * weight).mean()
    steps = difference.diff(dim=3).abs().mean() + difference.diff(dim=4).abs().mean()
    return pixel + colour + _EDGE_WEIGHT * steps


def picture_figures(made: torch.Tensor, truth: torch.Tensor, takes: list[data.Take]) -> dict[str, float]:
    """PSNR of all, mouth and eyes; the iris's chroma and the blink's strip against the source's.

    `iris_chroma` is the regression of decoded on true colour difference in the eye boxes; `blink_r` the correlation of the
    eye boxes' brightness over time, clip by clip.
    """
    squared = ((made - truth) / 2) ** 2
    figures = {"psnr_db": -10 * squared.mean().log10().item()}
    masks = {"mouth": data.mouth_mask(takes).to(made.device), "eyes": data.eyes_mask(takes).to(made.device)}
    for name, mask in masks.items():
        figures[f"{name}_psnr_db"] = -10 * ((squared * mask).sum() / (mask.sum() * 3)).log10().item()
    luma = truth.new_tensor(_LUMA).view(1, 3, 1, 1, 1)
    eyes = masks["eyes"]
    true_chroma, made_chroma = ((one - (one * luma).sum(1, keepdim=True)) * eyes for one in (truth, made))
    figures["iris_chroma"] = ((true_chroma * made_chroma).sum() / (true_chroma**2).sum().clamp(min=1e-6)).item()
    strips = [((one * luma).sum(1, keepdim=True) * eyes).sum((1, 3, 4)) / eyes.sum((1, 3, 4)) for one in (truth, made)]
    centred = [functional.normalize(strip - strip.mean(1, keepdim=True), dim=1) for strip in strips]
    figures["blink_r"] = (centred[0] * centred[1]).sum(1).mean().item()
    return figures
