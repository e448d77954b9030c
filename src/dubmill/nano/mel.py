"""The log-mel spectrogram at nano's settings, which are LTX-2's own."""

from __future__ import annotations

import torch

from dubmill.model import mel

SETTINGS = mel.MelSettings(16000, n_fft=1024, hop_length=160, num_mels=64, scale="slaney", floor=1e-5)
SAMPLE_RATE_HZ, HOP_SAMPLES, NUM_BANDS = SETTINGS.sample_rate_hz, SETTINGS.hop_length, SETTINGS.num_mels


def nano_log_mel(audio_BN: torch.Tensor) -> torch.Tensor:
    """Returns log-mel magnitudes (B, T, 64) with T = 1 + N // 160 frames."""
    return mel.log_mel(audio_BN[:, None], SETTINGS)[:, 0]
