"""Counts the bytes of every artifact of a run, and which step reads and writes which."""

from __future__ import annotations

from dubmill.config.params import Params
from dubmill.plan.architecture import Architecture
from dubmill.plan.work import ClipShapes, clip_shapes

FP32 = 4
READ_BY: dict[str, tuple[str, ...]] = {
    "backbone": (),
    "prompts": (),
    "synthesize": ("backbone",),
    "inpaint": ("backbone", "clips"),
    "gate": ("backbone", "pairs"),
    "encode": ("backbone", "gated pairs"),
    "train": ("backbone", "latents", "text features"),
    "dub": ("backbone", "adapter", "gated pairs"),
    "evaluate": ("backbone", "adapter", "gated pairs", "dubs"),
    "register": ("adapter",),
    "promote": ("backbone", "adapter", "gated pairs"),
}
"""Artifacts that each step reads; prompts, reports and model versions are too small to count."""

WRITTEN_BY: dict[str, tuple[str, ...]] = {
    "backbone": ("backbone",),
    "prompts": (),
    "synthesize": ("clips",),
    "inpaint": ("pairs",),
    "gate": ("gated pairs",),
    "encode": ("latents", "text features"),
    "train": ("checkpoints", "adapter"),
    "dub": ("dubs",),
    "evaluate": (),
    "register": (),
    "promote": ("release",),
}
"""Artifacts that each step writes."""


def disk_of(params: Params, architecture: Architecture) -> dict[str, int]:
    """Returns the bytes of each artifact; clips are stored losslessly, and all pairs are assumed to pass the gate."""
    clips = clip_shapes(params, architecture)
    num_clips = params.prompts.num_train + params.prompts.num_heldout
    generated = [method for method in params.dub.methods if method in ("adapter", "base")]
    whole, half = (_clip_bytes(clips, frames, architecture) for frames in (clips.num_frames, clips.half_frames))
    sides = 4 * num_clips * half  # two pairs of a clip, two sides of a pair
    lora = FP32 * architecture.transformer.num_lora_parameters(params.train.rank, params.train.targets)
    num_kept = num_checkpoints(params) + 1  # one more while it is written
    return {
        "backbone": 2 * sum(architecture.parameters.values()),
        "clips": num_clips * whole,
        "pairs": sides,
        "gated pairs": sides,
        "latents": 2 * params.prompts.num_train * pair_latent_bytes(clips, architecture),
        "text features": (4 * params.prompts.num_train + 1) * caption_feature_bytes(architecture),
        "checkpoints": num_kept * 3 * lora,  # weights and two moments
        "adapter": lora,
        "dubs": 2 * params.prompts.num_heldout * (len(params.dub.methods) + ("adapter" in generated)) * half,
        "release": lora,
    }


def _clip_bytes(clips: ClipShapes, num_frames: int, architecture: Architecture) -> int:
    """Returns the bytes of one clip: three per pixel, and its sound in float32."""
    geometry = architecture.geometry
    num_samples = round(num_frames / clips.frame_rate * geometry.output_sample_rate_hz)
    return 3 * num_frames * clips.frame_pixels + FP32 * geometry.audio_in_channels * num_samples


def pair_latent_bytes(clips: ClipShapes, architecture: Architecture) -> int:
    """Returns the bytes of one pair's latents in float32: two sides, and a mask of the face's tokens."""
    geometry, shape = architecture.geometry, clips.half
    side = shape.video_tokens * geometry.video_channels + shape.audio * geometry.audio_channels
    return FP32 * (2 * side + shape.video_tokens)


def caption_feature_bytes(architecture: Architecture) -> int:
    """Returns the bytes of one caption's text features, in the backbone's dtype."""
    text = architecture.text
    return architecture.number_bytes * text.tokens * (text.video_width + text.audio_width)


def num_checkpoints(params: Params) -> int:
    """Returns how many checkpoints lie on disk at the end of training; the last step writes none."""
    return min(params.train.keep_checkpoints, (params.train.num_steps - 1) // params.train.checkpoint_every)
