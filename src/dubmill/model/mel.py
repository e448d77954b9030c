"""Waveform to log-mel spectrogram, the input of an LTX-2 audio VAE. Shapes: audio (B, C, N), log-mel (B, C, T, M)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class MelSettings:
    """Settings of the spectrogram; part of the backbone's manifest, since latents made with other settings do not fit."""

    sample_rate_hz: int
    n_fft: int
    hop_length: int
    num_mels: int
    scale: str  # slaney (linear below 1 kHz, filters of unit area) | htk (filters of unit peak)
    floor: float  # smallest amplitude; lower ones are raised to it before the logarithm

    def to_dict(self) -> dict[str, int | float | str]:
        """Returns plain data for a manifest."""
        return asdict(self)


def settings_of(config: Mapping[str, Any]) -> MelSettings:
    """Returns the spectrogram settings of an audio VAE: three are in its config, the others are LTX-2's."""
    return MelSettings(
        sample_rate_hz=config["sample_rate"],
        n_fft=1024,
        hop_length=config["mel_hop_length"],
        num_mels=config["mel_bins"] or 64,
        scale="slaney",
        floor=1e-5,
    )


def _hz_to_mel(hz: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


@cache
def filter_bank(settings: MelSettings) -> torch.Tensor:
    """Returns triangular filters (M, n_fft / 2 + 1); the formulas are Slaney's Auditory Toolbox and HTK's book."""
    edge = _hz_to_mel(np.array([0.0, settings.sample_rate_hz / 2]), settings.scale)
    points_hz = _mel_to_hz(np.linspace(edge[0], edge[1], settings.num_mels + 2), settings.scale)
    bins_hz = np.linspace(0, settings.sample_rate_hz / 2, settings.n_fft // 2 + 1)
    low, mid, high = (points_hz[start : start + settings.num_mels, None] for start in range(3))
    filters = np.maximum(0, np.minimum((bins_hz - low) / (mid - low), (high - bins_hz) / (high - mid)))
    if settings.scale == "slaney":
        filters *= 2 / (high - low)
    for row in np.flatnonzero(filters.sum(axis=1) == 0):  # a filter narrower than a bin takes the nearest bin
        filters[row, np.abs(bins_hz - mid[row]).argmin()] = 1
    return torch.tensor(filters, dtype=torch.float32)


def log_mel(audio_BCN: torch.Tensor, settings: MelSettings) -> torch.Tensor:
    """Returns log-mel magnitudes (B, C, 1 + N // hop, M) of a waveform at the settings' sample rate."""
    batch, channels, _ = audio_BCN.shape
    window = torch.hann_window(settings.n_fft, device=audio_BCN.device)
    spectrum = torch.stft(
        audio_BCN.flatten(0, 1), settings.n_fft, settings.hop_length, window=window, center=True, return_complex=True
    ).abs()
    mel = filter_bank(settings).to(audio_BCN.device) @ spectrum
    return torch.log(mel.clamp(min=settings.floor)).transpose(1, 2).unflatten(0, (batch, channels))
