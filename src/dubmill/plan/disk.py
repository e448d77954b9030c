"""Disk that a run takes, in bytes, by what is kept there."""

from __future__ import annotations

from dubmill.config.params import Params
from dubmill.plan.architecture import Architecture
from dubmill.plan.work import Clips, clips_of

FP32 = 4
ADAPTER_COPIES = 2  # as trained, and in the release


def disk_of(params: Params, architecture: Architecture) -> dict[str, int]:
    """Bytes of each artifact; clips are kept without loss, and all pairs are taken to pass the gate."""
    clips = clips_of(params, architecture)
    num_clips = params.prompts.num_train + params.prompts.num_heldout
    made = [method for method in params.dub.methods if method != "cascade"]
    whole, half = (_clip(clips, frames, architecture) for frames in (clips.num_frames, clips.half_frames))
    halves = 4 * num_clips * half  # two pairs of a clip, two sides of a pair
    lora = architecture.transformer.lora_parameters(params.train.rank, params.train.targets)
    return {
        "backbone": 2 * sum(architecture.parameters.values()),
        "clips": num_clips * whole,
        "pairs": halves,
        "gated pairs": halves,
        "latents": 2 * params.prompts.num_train * pair_latents(clips, architecture),
        "text features": (4 * params.prompts.num_train + 1) * caption_features(architecture),
        "checkpoints": (num_checkpoints(params) + 1)
        * 3
        * FP32
        * lora,  # weights, two moments; one more while it is written
        "adapter": ADAPTER_COPIES * FP32 * lora,
        "dubs": 2 * params.prompts.num_heldout * (len(params.dub.methods) + ("adapter" in made)) * half,
    }


def _clip(clips: Clips, num_frames: int, architecture: Architecture) -> int:
    """Bytes of one clip: three for a pixel, and stereo or mono sound in float32."""
    geometry = architecture.geometry
    samples = round(num_frames / clips.frame_rate * geometry.output_sample_rate_hz)
    return 3 * num_frames * clips.frame_pixels + FP32 * geometry.audio_in_channels * samples


def pair_latents(clips: Clips, architecture: Architecture) -> int:
    """Bytes of one pair's latents in float32: two sides, and which tokens are the face."""
    geometry, shape = architecture.geometry, clips.half
    side = shape.video_tokens * geometry.video_channels + shape.audio * geometry.audio_channels
    return FP32 * (2 * side + shape.video_tokens)


def caption_features(architecture: Architecture) -> int:
    """Bytes of one caption's features, as precise as the backbone runs."""
    text = architecture.text
    return (FP32 if architecture.name == "nano" else 2) * text.tokens * (text.video_width + text.audio_width)


def num_checkpoints(params: Params) -> int:
    """Checkpoints that lie on disk at the end of training; the last step writes none."""
    return min(params.train.keep_checkpoints, (params.train.num_steps - 1) // params.train.checkpoint_every)
