"""Generates clips from captions with diffusers' LTX-2 pipeline and nano's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dubmill.nano.modules import TEXT_LENGTH
from dubmill.nano.world import FRAME_RATE, FRAME_SIZE, NUM_FRAMES, SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline

STEPS = 20
GUIDANCE = 3.0


@torch.no_grad()
def sample_clips(
    pipeline: LTX2Pipeline,
    captions: list[str],
    *,
    seed: int,
    num_frames: int = NUM_FRAMES,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 frames (B, F, H, W, 3) and float32 audio (B, N), padded with silence to the clip's length."""
    frames, audio = pipeline(
        prompt=captions,
        height=FRAME_SIZE,
        width=FRAME_SIZE,
        num_frames=num_frames,
        frame_rate=FRAME_RATE,
        num_inference_steps=steps,
        guidance_scale=guidance,
        audio_guidance_scale=guidance,
        stg_scale=0.0,
        audio_stg_scale=0.0,
        modality_scale=1.0,
        audio_modality_scale=1.0,
        guidance_rescale=0.0,
        audio_guidance_rescale=0.0,
        spatio_temporal_guidance_blocks=None,
        max_sequence_length=TEXT_LENGTH,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
        return_dict=False,
    )
    frames_BFHWC = (np.asarray(frames) * 255 + 0.5).astype(np.uint8)
    return frames_BFHWC, whole_clip(audio.float().cpu().numpy()[:, 0], num_frames)


def whole_clip(audio_BN: np.ndarray, num_frames: int) -> np.ndarray:
    """Returns audio (B, N) cut or padded to the length of `num_frames`: the audio VAE's framing loses the last 30 ms."""
    num_samples = round(num_frames / FRAME_RATE * SAMPLE_RATE_HZ)
    return np.pad(audio_BN, ((0, 0), (0, max(0, num_samples - audio_BN.shape[1]))))[:, :num_samples]
