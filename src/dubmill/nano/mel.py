"""The log-mel spectrogram that the audio VAE reads: LTX-2's own definition, without torchaudio.

1024-point Hann STFT, hop 160, magnitude, 64 slaney mel bands of slaney norm from 0 to 8 kHz, log of at least 1e-5.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

SAMPLE_RATE_HZ = 16000
HOP_SAMPLES = 160
NUM_BANDS = 64
_WINDOW_SAMPLES = 1024
_FLOOR = 1e-5


def _hertz_to_mel(hertz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1) / 1000) * 27 / np.log(6.4))


def _mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@cache
def mel_filters() -> torch.Tensor:
    """(64, 513) triangular filters of unit area."""
    edges = _mel_to_hertz(np.linspace(0, _hertz_to_mel(np.array(SAMPLE_RATE_HZ / 2.0)), NUM_BANDS + 2))
    bins = np.linspace(0, SAMPLE_RATE_HZ / 2, _WINDOW_SAMPLES // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])[:, None]
    return torch.tensor(filters, dtype=torch.float32)


def log_mel(audio_BN: torch.Tensor) -> torch.Tensor:
    """(B, T, 64) with T = 1 + N // 160 frames."""
    window = torch.hann_window(_WINDOW_SAMPLES, device=audio_BN.device)
    spectrum_BFT = torch.stft(audio_BN, _WINDOW_SAMPLES, HOP_SAMPLES, window=window, return_complex=True).abs()
    mel_BTM = torch.einsum("mf,bft->btm", mel_filters().to(audio_BN.device), spectrum_BFT)
    return torch.log(mel_BTM.clamp(min=_FLOOR))
