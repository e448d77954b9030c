"""Augmentations for the scorers' training: distortions such as those of a VAE, a vocoder, a codec or a camera.

Axes: B clips, T mel frames, M mel bands, N pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def distort_audio(audio_BN: torch.Tensor) -> torch.Tensor:
    """Returns the audio with randomly changed phases, as after a vocoder: harmonics are smeared, the envelope stays."""
    num_clips, num_samples = audio_BN.shape
    window = torch.hann_window(512)
    spectrum = torch.stft(audio_BN, 512, 128, window=window, return_complex=True)
    amount = 2.0 * torch.rand(num_clips, 1, 1) * (torch.rand(num_clips, 1, 1) < 0.6)
    turned = spectrum * torch.exp(1j * amount * torch.randn(spectrum.shape))
    return torch.istft(turned, 512, 128, window=window, length=num_samples)


def distort_mel(mel_BTM: torch.Tensor) -> torch.Tensor:
    """Returns the log-mel with random gain, spectral tilt, band noise, blur in time and frequency, and grain."""
    num_clips, _, num_bands = mel_BTM.shape
    slope = torch.linspace(-1, 1, num_bands)
    gain, tilt = (amount * torch.randn(num_clips, 1, 1) for amount in (0.4, 0.4))
    mel_BTM = mel_BTM + gain + tilt * slope
    floor = -7.0 + 2.5 * torch.rand(num_clips, 1, 1) + 0.5 * torch.randn(num_clips, 1, num_bands)
    mel_BTM = torch.logaddexp(mel_BTM, floor + 0.3 * torch.randn_like(mel_BTM))
    for width in (3, 5):
        smooth = (3, width)
        padding = (1, width // 2)
        blurred = functional.avg_pool2d(mel_BTM[:, None], smooth, stride=1, padding=padding, count_include_pad=False)[
            :, 0
        ]
        mel_BTM = torch.lerp(mel_BTM, blurred, torch.rand(num_clips, 1, 1) ** 2)
    return mel_BTM + 0.4 * torch.rand(num_clips, 1, 1) * torch.randn_like(mel_BTM)


def distort_pictures(pictures_NCHW: torch.Tensor, *, colour: float) -> torch.Tensor:
    """Returns the pictures with random blur and grain, and with their colours shifted by about `colour`."""
    num_pictures, num_channels = pictures_NCHW.shape[:2]
    gain, shift = (colour * torch.randn(num_pictures, num_channels, 1, 1) for _ in range(2))
    pictures_NCHW = pictures_NCHW * (1 + gain) + shift
    blurred = functional.avg_pool2d(pictures_NCHW, 3, stride=1, padding=1, count_include_pad=False)
    pictures_NCHW = torch.lerp(pictures_NCHW, blurred, torch.rand(num_pictures, 1, 1, 1))
    coarse = functional.interpolate(
        torch.randn(num_pictures, num_channels, 8, 8), pictures_NCHW.shape[-2:], mode="bilinear"
    )
    grain = torch.rand(num_pictures, 1, 1, 1)
    return pictures_NCHW + 0.1 * grain * (torch.randn_like(pictures_NCHW) + coarse)
