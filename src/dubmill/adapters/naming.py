"""Converts layer names between diffusers and Lightricks' own checkpoints, which ComfyUI and Lightricks' tools read.

Names differ part by part between the dots, so one table serves both directions. The layers that a dubbing LoRA usually has
(to_q, to_k, to_v, to_out.0, net.0.proj, net.2) have equal names: only the prefix differs.
"""

from __future__ import annotations

DIFFUSERS_PREFIX, LIGHTRICKS_PREFIX = "transformer.", "diffusion_model."

# diffusers' scripts/convert_ltx2_to_diffusers.py (Apache-2.0) in the other direction, with LTX-2.3's layers.
_LIGHTRICKS = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
    "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
    "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}
_DIFFUSERS = {lightricks: diffusers for diffusers, lightricks in _LIGHTRICKS.items()}


def to_lightricks(name: str) -> str:
    """Returns Lightricks' name for diffusers' `name` of a layer or tensor, without prefix."""
    return ".".join(_LIGHTRICKS.get(part, part) for part in name.split("."))


def to_diffusers(name: str) -> str:
    """Returns diffusers' name; the inverse of `to_lightricks`."""
    return ".".join(_DIFFUSERS.get(part, part) for part in name.split("."))
