"""Trains the vocoder by spectral losses at four resolutions; half of the later steps use mel frames from the audio VAE.

Axes: B clips, N samples, T mel frames, M mel bands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio

from dubmill.nano import modules
from dubmill.nano.mel import HOP_SAMPLES, SAMPLE_RATE_HZ, nano_log_mel
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.audio_vae import whole_mel
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.pretrain.sheets import save_mels

_WINDOWS = (256, 512, 1024, 2048)
_SEGMENT_FRAMES = 40


def _spectrum(audio_BN: torch.Tensor, window: int) -> torch.Tensor:
    """Returns magnitudes (B, F, T) whose gradient stays finite in silence."""
    spectrum = torch.stft(audio_BN, window, window // 4, window=torch.hann_window(window), return_complex=True)
    return torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)


def spectral_loss(output_BN: torch.Tensor, truth_BN: torch.Tensor) -> torch.Tensor:
    """Returns the mean over resolutions of log-magnitude L1 and spectral convergence."""
    loss = output_BN.new_zeros(())
    for window in _WINDOWS:
        output, truth = _spectrum(output_BN, window), _spectrum(truth_BN, window)
        loss = loss + (torch.log(output + 1e-3) - torch.log(truth + 1e-3)).abs().mean()
        loss = loss + (output - truth).norm() / (truth.norm() + 1e-3)
    return loss / len(_WINDOWS)


class VocoderTraining:
    """Part `vocoder`: trained on segments of 0.4 s, without a discriminator."""

    name = "vocoder"

    def __init__(self, audio_vae: Path, *, batch_size: int = 6) -> None:
        torch.manual_seed(0)
        self.model = modules.vocoder()
        self.schedule = Schedule(peak_rate=1.5e-3, warmup_steps=60, betas=(0.8, 0.99))
        self.batch_size = batch_size
        self._audio_vae = AutoencoderKLLTX2Audio.from_pretrained(audio_vae).eval().requires_grad_(False)

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        audio_BN = data.audio(data.training_takes(rng, self.batch_size, is_drawn=False))
        mel = whole_mel(audio_BN)
        if step % 2 == 1 and progress > 0.3:
            mel = self._round_trip(mel)
        first = int(rng.integers(0, mel.shape[2] - _SEGMENT_FRAMES))
        with torch.autocast("cpu", torch.bfloat16):
            output_BN = self.model(mel[:, :, first : first + _SEGMENT_FRAMES])[:, 0].float()
        truth_BN = audio_BN[:, first * HOP_SAMPLES : (first + _SEGMENT_FRAMES) * HOP_SAMPLES]
        return spectral_loss(output_BN, truth_BN), {}

    def _round_trip(self, mel: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            latents = self._audio_vae.encode(mel, return_dict=False)[0].mode()
            return self._audio_vae.decode(latents, return_dict=False)[0]

    def evaluate(self) -> dict[str, float]:
        audio_BN = data.audio(data.held_out_takes(16, is_drawn=False))
        mel = whole_mel(audio_BN)
        figures = {}
        for name, mel_in in (("truth", mel), ("round_trip", self._round_trip(mel))):
            output_BN = self.model(mel_in)[:, 0]
            self._evaluated = mel, nano_log_mel(output_BN)[:, :-1]
            self._sample = output_BN[:4]
            figures[f"{name}_loss"] = spectral_loss(output_BN, audio_BN[:, : output_BN.shape[1]]).item()
            figures[f"{name}_mel_l1"] = (nano_log_mel(output_BN)[:, :-1] - mel[:, 0]).abs().mean().item()
        return figures

    def save(self, out: Path) -> None:
        from scipy.io import wavfile

        self.model.save_pretrained(out / "vocoder")
        truth, output = self._evaluated
        save_mels([one for pair in zip(truth[:4, 0], output[:4], strict=True) for one in pair], out / "sheet.png")
        wavfile.write(out / "sample.wav", SAMPLE_RATE_HZ, self._sample.flatten().numpy())
