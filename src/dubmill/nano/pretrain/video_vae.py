"""Trains the video VAE in the latent space of the sketches: two translations between latents and frames, each by itself.

The encoder learns to give the latents that the sketch VAE gives of the same scene's sketch, drawn without the pose that the frames do not
show; the decoder learns to give the frames that belong to a sketch in any pose. So the base, which is trained on latents, does not change
when the picture does.

Axes: B clips, C channels, F frames, H rows, W columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
from torch.nn import functional

from dubmill.nano import modules, world
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.pretrain.sheets import save_rows
from dubmill.nano.world import Rendition

_LATENT_NOISE, _LARGE_LATENT_NOISE, _LARGE_NOISE_FROM = 0.06, 0.2, 5 / 6
"""The deviation of the noise on the decoder's latents; in the last sixth of the training it is up to the larger one, since the
latents that the base makes are further from a sketch's: without it their pictures show texture on flat skin."""
_MOUTH_WEIGHT, _EYES_WEIGHT = 8.0, 6.0
_CHROMA_WEIGHT, _EDGE_WEIGHT = 8.0, 1.5
_LUMA = (0.299, 0.587, 0.114)
_NUM_FRAMES = {False: 5, True: world.HALF_FRAMES}
_ENCODER_EVERY = 4
"""One step of this many trains the encoder, the others train the decoder."""


class VideoVaeTraining:
    """Part `video_vae`: trained on short windows, and on half clips in every fourth round, since the decoder is not causal."""

    name = "video_vae"

    def __init__(self, sketch_vae: Path, *, num_windows: int = 8) -> None:
        torch.manual_seed(0)
        self._sketch_vae = AutoencoderKLLTX2Video.from_pretrained(sketch_vae).float().eval().requires_grad_(False)
        self.model = modules.video_vae()
        _take_over(self.model, self._sketch_vae)
        self.schedule = Schedule(peak_rate=2e-3, warmup_steps=100, betas=(0.9, 0.95), average=0.995)
        self.num_windows = num_windows

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        turn, place = divmod(step, _ENCODER_EVERY)
        is_long, is_encoder = turn % 4 == 3, place == 0
        count = self.num_windows // (3 if is_long else 1)
        num_frames, plainly = _NUM_FRAMES[is_long], data.STILL_SKETCHES if is_encoder else data.SKETCHES
        pairs = [_pair(rng, num_frames, plainly) for _ in range(count)]
        takes = [take for take, _ in pairs]
        latents_BCFHW, pixels_BCFHW = self._latents([plain for _, plain in pairs]), data.video(takes)
        if is_encoder:
            difference = self.model.encode(pixels_BCFHW, return_dict=False)[0].mode() - latents_BCFHW
            loss = (difference**2).mean() / _LATENT_NOISE
            return loss, {"latent_error": (difference**2).mean().sqrt().item()}
        noise_B1111 = torch.full((count, 1, 1, 1, 1), _LATENT_NOISE)
        if progress >= _LARGE_NOISE_FROM:
            noise_B1111 = _LARGE_LATENT_NOISE * torch.rand_like(noise_B1111)
        noisy_BCFHW = latents_BCFHW + noise_B1111 * torch.randn_like(latents_BCFHW)
        decoded_BCFHW = self.model.decode(noisy_BCFHW, return_dict=False)[0]
        weight = 1 + (_MOUTH_WEIGHT - 1) * data.mouth_mask(takes) + (_EYES_WEIGHT - 1) * data.eyes_mask(takes)
        loss = _picture_loss(decoded_BCFHW, pixels_BCFHW, weight)
        return loss, {"l1": (decoded_BCFHW - pixels_BCFHW).detach().abs().mean().item()}

    def _latents(self, sketches: list[np.ndarray]) -> torch.Tensor:
        with torch.no_grad():
            return self._sketch_vae.encode(data.pixels(np.stack(sketches)), return_dict=False)[0].mode()

    def evaluate(self) -> dict[str, float]:
        takes, rows, self._evaluated = data.held_out_takes(8), [], []
        plain = [data.held_out_takes(8, rendition=one) for one in (data.SKETCHES, data.STILL_SKETCHES)]
        for take, posed, still in zip(takes, *plain, strict=True):
            truth = data.video([take])
            aim = self._latents([still.film.frames_FHWC])
            latents = self.model.encode(truth, return_dict=False)[0].mode()
            of_posed = self._latents([posed.film.frames_FHWC])
            decoded = [self.model.decode(one, return_dict=False)[0].clamp(-1, 1) for one in (of_posed, latents)]
            of_sketch = {
                f"{name}_of_sketch": value for name, value in picture_figures(decoded[0], truth, [take]).items()
            }
            rows.append({**picture_figures(decoded[1], truth, [take]), **of_sketch})
            rows[-1]["latent_error"] = (latents - aim).pow(2).mean().sqrt().item()
            self._evaluated.append((truth[0], decoded[1][0]))
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "vae")
        rows = [clip[:, ::4] for pair in self._evaluated[:4] for clip in pair]
        save_rows(rows, out / "sheet.png", zoom=1)


def _pair(rng: np.random.Generator, num_frames: int, sketches: Rendition) -> tuple[data.Take, np.ndarray]:
    """Returns `num_frames` frames of a random clip, and their sketch (F, H, W, C)."""
    seed, first = int(rng.integers(0, data.HELD_OUT_SEED)), int(rng.integers(0, world.NUM_FRAMES - num_frames + 1))
    frames = slice(first, first + num_frames)
    take, plain = (data.take(seed, rendition=rendition, frames=frames) for rendition in (world.FULL, sketches))
    return take, plain.film.frames_FHWC


def _take_over(model: AutoencoderKLLTX2Video, sketch_vae: AutoencoderKLLTX2Video) -> None:
    """Copy the sketch VAE; its pixels become 2 x 2 pixels, averaged by the encoder and repeated by the decoder."""
    values = sketch_vae.state_dict()
    side, colours = sketch_vae.config["patch_size"], 3

    def doubled(patches: torch.Tensor) -> torch.Tensor:
        patches = patches.reshape(colours, side, side, *patches.shape[1:])
        return patches.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(0, 2)

    for name in ("decoder.conv_out.conv.weight", "decoder.conv_out.conv.bias"):
        values[name] = doubled(values[name])
    name = "encoder.conv_in.conv.weight"
    values[name] = doubled(values[name].transpose(0, 1)).transpose(0, 1) / 4
    model.load_state_dict(values)


def _picture_loss(decoded: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Returns weighted L1 and L2 of pixels, plus L2 of colour differences, plus L1 of the gradients, which sees speckle.

    Colour has its own term because small coloured things, such as an iris, count little in a mean over the channels.
    """
    difference = decoded - truth
    luma = (difference * difference.new_tensor(_LUMA).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    chroma = difference - luma
    pixel = ((difference.abs() / 4 + 8 * difference**2) * weight).mean()
    colour = _CHROMA_WEIGHT * (chroma**2 * weight).mean()
    steps = difference.diff(dim=3).abs().mean() + difference.diff(dim=4).abs().mean()
    return pixel + colour + _EDGE_WEIGHT * steps


def picture_figures(decoded: torch.Tensor, truth: torch.Tensor, takes: list[data.Take]) -> dict[str, float]:
    """Returns the PSNR of the picture, the mouth and the eyes, and how well the iris's colour and the blinks are kept.

    `iris_chroma` is the regression of decoded on true colour differences in the eye boxes; `blink_r` is the correlation over
    time of the eye boxes' brightness, the mean over clips.
    """
    squared = ((decoded - truth) / 2) ** 2
    figures = {"psnr_db": -10 * squared.mean().log10().item()}
    masks = {"mouth": data.mouth_mask(takes), "eyes": data.eyes_mask(takes)}
    for name, mask in masks.items():
        figures[f"{name}_psnr_db"] = -10 * ((squared * mask).sum() / (mask.sum() * 3)).log10().item()
    luma = truth.new_tensor(_LUMA).view(1, 3, 1, 1, 1)
    eyes = masks["eyes"]
    true_chroma, chroma = ((one - (one * luma).sum(1, keepdim=True)) * eyes for one in (truth, decoded))
    figures["iris_chroma"] = ((true_chroma * chroma).sum() / (true_chroma**2).sum().clamp(min=1e-6)).item()
    figures["blink_r"] = _brightness_r((truth * luma).sum(1, keepdim=True), (decoded * luma).sum(1, keepdim=True), eyes)
    return figures


def _brightness_r(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> float:
    """Returns the correlation over time of the mean brightness within `mask`, the mean over clips."""
    strips_BF = [(luma * mask).sum((1, 3, 4)) / mask.sum((1, 3, 4)) for luma in (one, other)]
    centred = [functional.normalize(strip_BF - strip_BF.mean(1, keepdim=True), dim=1) for strip_BF in strips_BF]
    return (centred[0] * centred[1]).sum(1).mean().item()
