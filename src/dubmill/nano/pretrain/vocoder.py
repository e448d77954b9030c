"""The vocoder: log-spectra at several resolutions, and judges of spectrograms, without whom harmonics smear.

It hears the mel frames of a sound at 16 kHz and makes 24 kHz. Half of its later lessons are the audio VAE's own mel frames.
The judges train beside it with the same optimizer: each side's loss is blind to the other's weights.
Axes: B clips, N samples, T mel frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLLTX2Audio
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from dubmill.nano import modules
from dubmill.nano.lexicon import SAMPLE_RATE_HZ
from dubmill.nano.pretrain import batches, data
from dubmill.nano.pretrain.audio_vae import whole_mel
from dubmill.nano.pretrain.hardware import autocast, device
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.pretrain.sheets import save_mels

_WINDOWS = (240, 600, 1200, 2400)
_SEGMENT_FRAMES, _FRAME_SAMPLES = 48, 240
_SPECTRAL_WEIGHT, _MATCH_WEIGHT = 4.0, 2.0
_JUDGED_FROM = 0.15  # of the run: judges of noise learn nothing


def _spectrum(audio_BN: torch.Tensor, window: int) -> torch.Tensor:
    """(B, F, T) magnitudes with a gradient that stays finite in silence."""
    shape = torch.hann_window(window, device=audio_BN.device)
    spectrum = torch.stft(audio_BN, window, window // 4, window=shape, return_complex=True)
    return torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)


def spectral_loss(made_BN: torch.Tensor, truth_BN: torch.Tensor) -> torch.Tensor:
    """Mean over resolutions of log-magnitude L1 and spectral convergence."""
    loss = made_BN.new_zeros(())
    for window in _WINDOWS:
        made, truth = _spectrum(made_BN, window), _spectrum(truth_BN, window)
        loss = loss + (torch.log(made + 1e-3) - torch.log(truth + 1e-3)).abs().mean()
        loss = loss + (made - truth).norm() / (truth.norm() + 1e-3)
    return loss / len(_WINDOWS)


class Judge(nn.Module):
    """Patches of one spectrogram to how true they look (Jang et al., UnivNet, 2021, at small width)."""

    def __init__(self, window: int, width: int = 16) -> None:
        super().__init__()
        self.window = window
        strides = ((1, 1), (2, 1), (2, 1), (2, 1))
        self.layers = nn.ModuleList(
            nn.Conv2d(1 if place == 0 else width, width, (5, 3), stride=stride, padding=(2, 1))
            for place, stride in enumerate(strides)
        )
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, audio_BN: torch.Tensor) -> list[torch.Tensor]:
        """Features of every layer, the verdicts last."""
        hidden = torch.log(_spectrum(audio_BN, self.window) + 1e-3)[:, None] / 3
        features = []
        for layer in self.layers:
            hidden = functional.leaky_relu(layer(hidden), 0.1)
            features.append(hidden)
        return [*features, self.head(hidden)]


class Judges(nn.Module):
    """One judge for each of three resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.ModuleList(Judge(window) for window in (360, 900, 1800))

    def forward(self, audio_BN: torch.Tensor) -> list[list[torch.Tensor]]:
        return [judge(audio_BN) for judge in self.all]


class Vocoder:
    """Part `vocoder`: segments of 0.48 s."""

    name = "vocoder"

    def __init__(self, audio_vae: Path, *, batch_size: int = 6) -> None:
        torch.manual_seed(0)
        self.device = device()
        self.model = nn.ModuleDict({"vocoder": modules.vocoder(), "judges": Judges()}).to(self.device)
        self.schedule = Schedule(peak_rate=8e-4, warmup_steps=60, betas=(0.8, 0.99), average=0.995)
        self.batch_size = batch_size
        loaded = AutoencoderKLLTX2Audio.from_pretrained(audio_vae)
        self._audio_vae = loaded.to(self.device).eval().requires_grad_(False)

    def batches(self) -> Callable[[int, np.random.Generator], tuple[torch.Tensor, torch.Tensor]]:
        return partial(batches.vocoder_batch, batch_size=self.batch_size)

    def loss(
        self, step: int, progress: float, batch: tuple[torch.Tensor, torch.Tensor], rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        mel = whole_mel(batch[0].to(self.device))
        if step % 2 == 1 and progress > 0.3:
            mel = self._round_trip(mel)
        first = int(rng.integers(0, mel.shape[2] - _SEGMENT_FRAMES))
        with autocast(self.device):
            made_BN = self.model["vocoder"](mel[:, :, first : first + _SEGMENT_FRAMES])[:, 0].float()
        samples = slice(first * _FRAME_SAMPLES, (first + _SEGMENT_FRAMES) * _FRAME_SAMPLES)
        truth_BN = batch[1].to(self.device)[:, samples]
        loss = _SPECTRAL_WEIGHT * spectral_loss(made_BN, truth_BN)
        figures = {"spectral": loss.item() / _SPECTRAL_WEIGHT}
        if progress > _JUDGED_FROM:
            fooled, seen_through = adversarial_losses(self.model["judges"], made_BN, truth_BN)
            figures |= {"fooled": fooled.item(), "judges": seen_through.item()}
            loss = loss + fooled + seen_through
        return loss, figures

    def _round_trip(self, mel: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self._audio_vae.decode(self._audio_vae.encode(mel).latent_dist.mode()).sample

    def evaluate(self) -> dict[str, float]:
        takes = data.held_out_takes(16, is_drawn=False)
        truth_BN = data.audio(takes).to(self.device)
        mel = whole_mel(data.heard(takes).to(self.device))
        figures = {}
        for name, asked in (("truth", mel), ("round_trip", self._round_trip(mel))):
            made_BN = self.model["vocoder"](asked)[:, 0]
            self._heard = made_BN[:4].cpu()
            made_mel = whole_mel(data.resampled(made_BN.cpu()))
            length = min(made_mel.shape[2], mel.shape[2])
            self._seen = mel.cpu()[:, 0, :length], made_mel[:, 0, :length]
            figures[f"{name}_loss"] = spectral_loss(made_BN, truth_BN[:, : made_BN.shape[1]]).item()
            figures[f"{name}_mel_l1"] = (self._seen[1] - self._seen[0]).abs().mean().item()
        return figures

    def save(self, out: Path) -> None:
        from scipy.io import wavfile

        self.model["vocoder"].save_pretrained(out / "vocoder")
        truth, made = self._seen
        save_mels([one for pair in zip(truth[:4], made[:4], strict=True) for one in pair], out / "sheet.png")
        wavfile.write(out / "sample.wav", SAMPLE_RATE_HZ, self._heard.flatten().numpy())


def adversarial_losses(
    judges: nn.Module, made_BN: torch.Tensor, truth_BN: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The maker's loss (least squares and matched features), which moves no judge, and the judges', which moves no maker."""
    frozen = {name: value.detach() for name, value in judges.named_parameters()}
    made = functional_call(judges, frozen, (made_BN,))
    with torch.no_grad():
        truth = judges(truth_BN)
    fooled = made_BN.new_zeros(())
    for made_one, truth_one in zip(made, truth, strict=True):
        fooled = fooled + (1 - made_one[-1]).square().mean()
        pairs = zip(made_one[:-1], truth_one[:-1], strict=True)
        fooled = fooled + _MATCH_WEIGHT * sum((one - other).abs().mean() for one, other in pairs)
    seen_through = made_BN.new_zeros(())
    for made_one, truth_one in zip(judges(made_BN.detach()), judges(truth_BN), strict=True):
        seen_through = seen_through + made_one[-1].square().mean() + (1 - truth_one[-1]).square().mean()
    return fooled, seen_through
