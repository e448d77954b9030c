"""Clips to latent tokens and back, through a backbone's autoencoders and vocoder.

Axes: B batch, C channels, F frames, H height, W width, S video tokens, L audio latents, D numbers per token, N samples.
Latents are normalised with the backbone's statistics: about zero mean and unit spread in every channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import torch
from scipy.signal import resample_poly

from dubmill.media.clips import Clip
from dubmill.model.latents import (
    Latents,
    decode_pixels,
    decode_wave,
    encode_pixels,
    encode_wave,
    unpack_audio,
    unpack_video,
)
from dubmill.model.load import Modules
from dubmill.model.shapes import LatentShape, audio_latents, latent_shape


def shape_of(clip: Clip, modules: Modules) -> LatentShape:
    """Returns the latent extents of one clip.

    Raises:
        InvalidParamsError: its frames or sides do not fit the backbone.
    """
    _, height, width, _ = clip.frames_FHWC.shape
    rate = float(clip.frame_rate)
    return latent_shape(
        num_frames=clip.num_frames, height=height, width=width, frame_rate=rate, geometry=modules.geometry
    )


@torch.no_grad()
def encode_clips(clips: Sequence[Clip], modules: Modules) -> Latents:
    """Returns the latents of clips of one size, each encoded from its own first frame (the video VAE is causal)."""
    return Latents(encode_video([clip.frames_FHWC for clip in clips], modules), encode_audio(clips, modules))


@torch.no_grad()
def encode_video(frames_BFHWC: Iterable[np.ndarray], modules: Modules) -> torch.Tensor:
    """Returns video tokens (B, S, D) of uint8 frames (F, H, W, 3). Pixels are scaled in float32: bf16 has 256 levels."""
    frames = torch.stack([torch.from_numpy(frames).to(modules.device) for frames in frames_BFHWC])
    return encode_pixels(frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1, modules.vae)


@torch.no_grad()
def encode_audio(clips: Sequence[Clip], modules: Modules) -> torch.Tensor:
    """Returns audio tokens (B, L, D) of the clips' audio, as many as cover their video."""
    wave_BCN = torch.from_numpy(np.stack([_vae_audio(clip, modules) for clip in clips])).to(modules.device)
    return encode_wave(wave_BCN, audio_latents(clips[0].seconds, modules.geometry), modules.audio_vae)


def _vae_audio(clip: Clip, modules: Modules) -> np.ndarray:
    """Returns the clip's audio (C, N) at the audio VAE's sample rate and channel count."""
    audio = resample(clip.audio_CN, clip.sample_rate_hz, modules.geometry.sample_rate_hz)
    channels = modules.geometry.audio_in_channels
    return audio if len(audio) == channels else np.repeat(audio.mean(axis=0, keepdims=True), channels, axis=0)


def resample(audio_CN: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Returns audio at another sample rate, through a polyphase filter."""
    if from_hz == to_hz:
        return audio_CN
    ratio = Fraction(to_hz, from_hz)
    return resample_poly(audio_CN, ratio.numerator, ratio.denominator, axis=1).astype(np.float32)


def round_trip(frames_BFHWC: np.ndarray, shape: LatentShape, modules: Modules) -> np.ndarray:
    """Returns frames (B, F, H, W, 3) uint8 encoded and decoded by the video VAE: the best that any dub's video can be."""
    return decode_video(encode_video(frames_BFHWC, modules), shape, modules)


@torch.no_grad()
def decode_clips(latents: Latents, shape: LatentShape, frame_rate: Fraction, modules: Modules) -> list[Clip]:
    """Returns the clips of a batch of latents; the audio is cut or padded to the video's length."""
    frames_BFHWC = decode_video(latents.video_BSD, shape, modules)
    audio_BCN = decode_audio(latents.audio_BLD, modules)
    rate = modules.geometry.output_sample_rate_hz
    return [
        Clip(frames, frame_rate, audio, rate).with_audio(audio)
        for frames, audio in zip(frames_BFHWC, audio_BCN, strict=True)
    ]


@torch.no_grad()
def decode_video(video_BSD: torch.Tensor, shape: LatentShape, modules: Modules) -> np.ndarray:
    """Returns frames (B, F, H, W, 3) uint8 of video tokens."""
    latents_BCFHW = unpack_video(video_BSD, (shape.frames, shape.height, shape.width), modules.vae)
    pixels_BCFHW = decode_pixels(latents_BCFHW, modules.vae)
    return ((pixels_BCFHW.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()


@torch.no_grad()
def decode_audio(audio_BLD: torch.Tensor, modules: Modules) -> np.ndarray:
    """Returns audio (B, C, N) float32 of audio tokens, at the vocoder's rate."""
    latents_BCLM = unpack_audio(audio_BLD, modules.audio_vae)
    return decode_wave(latents_BCLM, modules.audio_vae, modules.vocoder).clamp(-1, 1).cpu().numpy()
