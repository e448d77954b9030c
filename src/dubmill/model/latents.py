"""Pixels and waveforms to latent tokens and back, through the autoencoders and the vocoder of an LTX-2.

Axes: B batch, C channels, F frames, H height, W width, S video tokens, L audio latents, M mel bins, D numbers per token,
N samples. Tokens are normalised with the autoencoder's statistics: about zero mean and unit spread in every channel.
Tokens, pixels and waveforms are float32; the modules compute in their own dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline

from dubmill.model.mel import log_mel, settings_of
from dubmill.model.memory import explained_out_of_memory

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
    from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE


MAX_UNTILED_PIXELS = 121 * 736 * 1280
"""Pixels of a clip that the video VAE takes as a whole; docs/gpu.md says what that needs. Larger clips are tiled."""
MAX_UNTILED_FRAMES = 257
CURE = "lower the step's batch_size, its height and width or its num_frames"


@dataclass(frozen=True)
class Latents:
    """Tokens of a batch: video (B, S, D) and audio (B, L, D)."""

    video_BSD: torch.Tensor
    audio_BLD: torch.Tensor

    def __len__(self) -> int:
        return len(self.video_BSD)

    def to(self, device: torch.device) -> Latents:
        """Returns the same tokens on a device."""
        return Latents(self.video_BSD.to(device), self.audio_BLD.to(device))

    def repeat(self, times: int) -> Latents:
        """Returns the batch `times` over, end to end."""
        return Latents(self.video_BSD.repeat(times, 1, 1), self.audio_BLD.repeat(times, 1, 1))


def pack_video(latents_BCFHW: torch.Tensor, vae: AutoencoderKLLTX2Video) -> torch.Tensor:
    """Returns video tokens (B, S, D) of latents as the VAE encodes them."""
    normal = LTX2Pipeline._normalize_latents(
        latents_BCFHW, vae.latents_mean, vae.latents_std, vae.config["scaling_factor"]
    )
    return LTX2Pipeline._pack_latents(normal).float()


def unpack_video(video_BSD: torch.Tensor, size: tuple[int, int, int], vae: AutoencoderKLLTX2Video) -> torch.Tensor:
    """Returns latents (B, C, F, H, W) of `size` (F, H, W) as the VAE decodes them."""
    latents = LTX2Pipeline._unpack_latents(video_BSD, *size)
    return LTX2Pipeline._denormalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config["scaling_factor"])


def pack_audio(latents_BCLM: torch.Tensor, audio_vae: AutoencoderKLLTX2Audio) -> torch.Tensor:
    """Returns audio tokens (B, L, D) of latents as the audio VAE encodes them."""
    packed = LTX2Pipeline._pack_audio_latents(latents_BCLM)
    return LTX2Pipeline._normalize_audio_latents(packed, audio_vae.latents_mean, audio_vae.latents_std).float()


def unpack_audio(audio_BLD: torch.Tensor, audio_vae: AutoencoderKLLTX2Audio) -> torch.Tensor:
    """Returns latents (B, C, L, M) as the audio VAE decodes them."""
    plain = LTX2Pipeline._denormalize_audio_latents(audio_BLD, audio_vae.latents_mean, audio_vae.latents_std)
    mel_bins = audio_BLD.shape[-1] // audio_vae.config["latent_channels"]
    return LTX2Pipeline._unpack_audio_latents(plain, audio_BLD.shape[1], mel_bins)


@contextmanager
def tiling(vae: AutoencoderKLLTX2Video, size: Sequence[int]) -> Iterator[None]:
    """Lets the VAE work in overlapping tiles while open if a clip of `size` (F, H, W) would take too much memory.

    Tiles are blended, so results differ a little: smaller clips are never tiled.
    """
    frames, height, width = size
    before = vae.use_tiling, vae.use_framewise_encoding, vae.use_framewise_decoding
    if frames * height * width > MAX_UNTILED_PIXELS:
        vae.use_tiling = True
        vae.use_framewise_encoding = vae.use_framewise_decoding = frames > MAX_UNTILED_FRAMES
    try:
        yield
    finally:
        vae.use_tiling, vae.use_framewise_encoding, vae.use_framewise_decoding = before


def encode_pixels(pixels_BCFHW: torch.Tensor, vae: AutoencoderKLLTX2Video) -> torch.Tensor:
    """Returns video tokens (B, S, D) of pixels in [-1, 1]."""
    with tiling(vae, pixels_BCFHW.shape[2:]), explained_out_of_memory("encoding video", CURE):
        return pack_video(vae.encode(pixels_BCFHW.to(vae.dtype), return_dict=False)[0].mode(), vae)


@explained_out_of_memory("encoding audio", CURE)
def encode_wave(wave_BCN: torch.Tensor, num_latents: int, audio_vae: AutoencoderKLLTX2Audio) -> torch.Tensor:
    """Returns the first `num_latents` audio tokens (B, L, D) of waveforms at the audio VAE's sample rate."""
    mel_BCTM = log_mel(wave_BCN, settings_of(audio_vae.config))
    mel_BCTM = mel_BCTM[:, :, : audio_vae.temporal_compression_ratio * (num_latents - 1) + 1]
    return pack_audio(audio_vae.encode(mel_BCTM.to(audio_vae.dtype), return_dict=False)[0].mode(), audio_vae)


def decode_pixels(latents_BCFHW: torch.Tensor, vae: AutoencoderKLLTX2Video) -> torch.Tensor:
    """Returns pixels (B, 3, F, H, W), float32 and about [-1, 1], of latents as the VAE decodes them."""
    frames, height, width = latents_BCFHW.shape[2:]
    temporal, spatial = vae.temporal_compression_ratio, vae.spatial_compression_ratio
    size = ((frames - 1) * temporal + 1, height * spatial, width * spatial)
    with tiling(vae, size), explained_out_of_memory("decoding video", CURE):
        return vae.decode(latents_BCFHW.to(vae.dtype), return_dict=False)[0].float()


@explained_out_of_memory("decoding audio", CURE)
def decode_wave(
    latents_BCLM: torch.Tensor, audio_vae: AutoencoderKLLTX2Audio, vocoder: LTX2Vocoder | LTX2VocoderWithBWE
) -> torch.Tensor:
    """Returns float32 waveforms (B, C, N) at the vocoder's rate of latents as the audio VAE decodes them."""
    mel_BCTM = audio_vae.decode(latents_BCLM.to(audio_vae.dtype), return_dict=False)[0]
    with torch.autocast(mel_BCTM.device.type, enabled=False):  # validation dubs run under bf16 autocast
        return vocoder(mel_BCTM.to(vocoder.dtype)).float()
