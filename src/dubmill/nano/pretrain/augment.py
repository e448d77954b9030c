"""What may happen to a clip before a scorer sees it: the wear of a VAE, a vocoder, a codec or a camera.

Axes: B clips, T mel frames, M mel bands, N pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def wear_audio(audio_BN: torch.Tensor) -> torch.Tensor:
    """Phases scrambled a little, much or not at all, as a vocoder's are: harmonics smear, envelopes stay."""
    num_clips, num_samples = audio_BN.shape
    place = audio_BN.device
    window = torch.hann_window(512, device=place)
    spectrum = torch.stft(audio_BN, 512, 128, window=window, return_complex=True)
    amount = 2.0 * torch.rand(num_clips, 1, 1, device=place) * (torch.rand(num_clips, 1, 1, device=place) < 0.6)
    turned = spectrum * torch.exp(1j * amount * torch.randn(spectrum.shape, device=place))
    return torch.istft(turned, 512, 128, window=window, length=num_samples)


def wear_mel(mel_BTM: torch.Tensor) -> torch.Tensor:
    """Gain, spectral tilt, band noise, blur in time and pitch, and grain."""
    (num_clips, _, num_bands), place = mel_BTM.shape, mel_BTM.device
    slope = torch.linspace(-1, 1, num_bands, device=place)
    gain, tilt = (amount * torch.randn(num_clips, 1, 1, device=place) for amount in (0.4, 0.4))
    mel_BTM = mel_BTM + gain + tilt * slope
    shape = torch.randn(num_clips, 1, num_bands, device=place)
    floor = -7.0 + 2.5 * torch.rand(num_clips, 1, 1, device=place) + 0.5 * shape
    mel_BTM = torch.logaddexp(mel_BTM, floor + 0.3 * torch.randn_like(mel_BTM))
    for width in (3, 5):
        smooth = (3, width)
        padding = (1, width // 2)
        blurred = functional.avg_pool2d(mel_BTM[:, None], smooth, stride=1, padding=padding, count_include_pad=False)[
            :, 0
        ]
        mel_BTM = torch.lerp(mel_BTM, blurred, torch.rand(num_clips, 1, 1, device=place) ** 2)
    return mel_BTM + 0.4 * torch.rand(num_clips, 1, 1, device=place) * torch.randn_like(mel_BTM)


def wear_pictures(pictures_NCHW: torch.Tensor, *, colour: float) -> torch.Tensor:
    """Softness, grain, and a drift of colour by about `colour`."""
    (num_pictures, num_channels), place = pictures_NCHW.shape[:2], pictures_NCHW.device
    gain, shift = (colour * torch.randn(num_pictures, num_channels, 1, 1, device=place) for _ in range(2))
    pictures_NCHW = pictures_NCHW * (1 + gain) + shift
    blurred = functional.avg_pool2d(pictures_NCHW, 3, stride=1, padding=1, count_include_pad=False)
    pictures_NCHW = torch.lerp(pictures_NCHW, blurred, torch.rand(num_pictures, 1, 1, 1, device=place))
    coarse = functional.interpolate(
        torch.randn(num_pictures, num_channels, 8, 8, device=place), pictures_NCHW.shape[-2:], mode="bilinear"
    )
    grain = torch.rand(num_pictures, 1, 1, 1, device=place)
    return pictures_NCHW + 0.1 * grain * (torch.randn_like(pictures_NCHW) + coarse)
