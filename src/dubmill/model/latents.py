"""Pixels and waveforms to latent tokens and back, through the autoencoders and the vocoder of an LTX-2.

Axes: B batch, C channels, F frames, H height, W width, S video tokens, L audio latents, M mel bins, D numbers per token,
N samples. Tokens are normalised to the autoencoder's statistics: about zero mean and unit spread in every channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import LTX2Pipeline

from dubmill.model.mel import log_mel, settings_of


@dataclass(frozen=True)
class Latents:
    """Tokens of a batch: video (B, S, D) and audio (B, L, D)."""

    video_BSD: torch.Tensor
    audio_BLD: torch.Tensor

    def __len__(self) -> int:
        return len(self.video_BSD)

    def to(self, device: torch.device) -> Latents:
        """The same tokens on a device."""
        return Latents(self.video_BSD.to(device), self.audio_BLD.to(device))

    def repeat(self, times: int) -> Latents:
        """The batch, `times` over."""
        return Latents(self.video_BSD.repeat(times, 1, 1), self.audio_BLD.repeat(times, 1, 1))


def pack_video(latents_BCFHW: torch.Tensor, vae: Any) -> torch.Tensor:
    """Video tokens (B, S, D) of latents as the VAE gives them."""
    normal = LTX2Pipeline._normalize_latents(
        latents_BCFHW, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
    )
    return LTX2Pipeline._pack_latents(normal).float()


def unpack_video(video_BSD: torch.Tensor, size: tuple[int, int, int], vae: Any) -> torch.Tensor:
    """Latents (B, C, F, H, W) of `size` (F, H, W) as the VAE takes them."""
    latents = LTX2Pipeline._unpack_latents(video_BSD, *size)
    return LTX2Pipeline._denormalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)


def pack_audio(latents_BCLM: torch.Tensor, audio_vae: Any) -> torch.Tensor:
    """Audio tokens (B, L, D) of latents as the audio VAE gives them."""
    packed = LTX2Pipeline._pack_audio_latents(latents_BCLM)
    return LTX2Pipeline._normalize_audio_latents(packed, audio_vae.latents_mean, audio_vae.latents_std).float()


def unpack_audio(audio_BLD: torch.Tensor, audio_vae: Any) -> torch.Tensor:
    """Latents (B, C, L, M) as the audio VAE takes them."""
    plain = LTX2Pipeline._denormalize_audio_latents(audio_BLD, audio_vae.latents_mean, audio_vae.latents_std)
    mel_bins = audio_BLD.shape[-1] // audio_vae.config.latent_channels
    return LTX2Pipeline._unpack_audio_latents(plain, audio_BLD.shape[1], mel_bins)


def encode_pixels(pixels_BCFHW: torch.Tensor, vae: Any) -> torch.Tensor:
    """Video tokens (B, S, D) of pixels in [-1, 1]."""
    return pack_video(vae.encode(pixels_BCFHW.to(vae.dtype)).latent_dist.mode(), vae)


def encode_wave(wave_BCN: torch.Tensor, num_latents: int, audio_vae: Any) -> torch.Tensor:
    """Audio tokens (B, L, D) of waveforms at the audio VAE's sample rate: the first `num_latents`."""
    mel_BCTM = log_mel(wave_BCN, settings_of(audio_vae.config))
    mel_BCTM = mel_BCTM[:, :, : audio_vae.temporal_compression_ratio * (num_latents - 1) + 1]
    return pack_audio(audio_vae.encode(mel_BCTM.to(audio_vae.dtype)).latent_dist.mode(), audio_vae)


def decode_pixels(latents_BCFHW: torch.Tensor, vae: Any) -> torch.Tensor:
    """Pixels (B, 3, F, H, W), about [-1, 1], of latents as the VAE takes them."""
    return vae.decode(latents_BCFHW.to(vae.dtype), return_dict=False)[0]


def decode_wave(latents_BCLM: torch.Tensor, audio_vae: Any, vocoder: Any) -> torch.Tensor:
    """Waveforms (B, C, N) at the vocoder's rate of latents as the audio VAE takes them."""
    return vocoder(audio_vae.decode(latents_BCLM.to(audio_vae.dtype), return_dict=False)[0])
