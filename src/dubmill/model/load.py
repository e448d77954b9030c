"""Loads a backbone's diffusers folder into modules.

nano and LTX-2 are the same diffusers classes, so there is one code path. Ratios and widths are read from the loaded
modules and compared with the manifest.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dubmill.errors import InvalidArtifactError
from dubmill.model.shapes import Geometry

if TYPE_CHECKING:
    import torch

    from dubmill.model.mel import MelSettings

PIPELINE = "pipeline"
TEXT_ENCODER_DEVICE = "DUBMILL_TEXT_ENCODER"
PARTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder", "text_encoder")
UPSAMPLER = "latent_upsampler"  # where LTX-2's repository has it


class StoredBackbone(Protocol):
    """A folder with a diffusers pipeline under `path / PIPELINE`, and what its manifest says of it."""

    path: Path

    @property
    def info(self) -> dict[str, Any]:
        """`geometry`, and optionally `in_8_bits`."""
        ...


@dataclass(frozen=True)
class Modules:
    """The parts of one joint audio-video diffusion model, frozen and in evaluation mode."""

    transformer: Any  # diffusers LTX2VideoTransformer3DModel
    vae: Any  # AutoencoderKLLTX2Video
    audio_vae: Any  # AutoencoderKLLTX2Audio
    vocoder: Any  # LTX2Vocoder
    text_encoder: Any  # transformers Gemma3
    tokenizer: Any
    connectors: Any  # LTX2TextConnectors
    scheduler: Any  # FlowMatchEulerDiscreteScheduler
    geometry: Geometry
    mel: MelSettings
    max_text_tokens: int
    device: torch.device
    dtype: torch.dtype


def load(backbone: StoredBackbone, *, needed: Sequence[str] = PARTS, on_cpu: Sequence[str] = ()) -> Modules:
    """The modules of a backbone, in bf16 where there is a GPU, else in float32.

    Only the `needed` ones go to the GPU, and not those that are to be taken there by the caller, `on_cpu`.

    Those that the manifest names have their blocks' weights in 8 bits; an older manifest names none.

    Raises:
        InvalidArtifactError: the modules disagree with the manifest about their geometry.
    """
    modules = load_folder(backbone.path / PIPELINE, needed, on_cpu, backbone.info.get("in_8_bits", []))
    declared = backbone.info["geometry"]
    if modules.geometry.to_dict() != declared:
        raise InvalidArtifactError(
            f"the modules measure {modules.geometry.to_dict()}, the manifest says {declared}",
            where=str(backbone.path),
            cure="make the backbone again",
        )
    return modules


def skeleton(backbone: StoredBackbone) -> Any:
    """The backbone's transformer without weights (meta device): the names and shapes of its layers, at no cost."""
    import torch
    from diffusers import LTX2VideoTransformer3DModel

    config = LTX2VideoTransformer3DModel.load_config(backbone.path / PIPELINE / "transformer")
    with torch.device("meta"):
        return LTX2VideoTransformer3DModel.from_config(config)


def device_of(part: str, device: torch.device, needed: Collection[str]) -> torch.device:
    """Where a part lies: on `device` if the step needs it, but for a text encoder that is to spare a small GPU.

    With DUBMILL_TEXT_ENCODER=cpu captions are read on the CPU: slower, and in no GPU memory.
    """
    import torch

    is_spared = part == "text_encoder" and os.environ.get(TEXT_ENCODER_DEVICE) == "cpu"
    return device if part in needed and not is_spared else torch.device("cpu")


def load_folder(
    folder: Path, needed: Sequence[str] = PARTS, on_cpu: Sequence[str] = (), packed: Sequence[str] = ()
) -> Modules:
    import torch
    from diffusers import LTX2Pipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from dubmill.model.mel import settings_of
    from dubmill.model.quantization import quantize_blocks

    for noisy in (diffusers_logging, transformers_logging):
        noisy.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        pipeline = LTX2Pipeline.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidArtifactError(
            f"not an LTX-2 pipeline in diffusers' layout ({str(error).splitlines()[0]})",
            where=str(folder),
            cure="give a repository or folder that LTX2Pipeline.from_pretrained opens",
        ) from error
    parts = {name: getattr(pipeline, name) for name in PARTS}
    for name, part in parts.items():
        if name in packed and name in needed:
            quantize_blocks(part)  # before it goes to the GPU, which need never hold it whole
        part.to(device_of(name, device, set(needed) - set(on_cpu))).requires_grad_(False).eval()
    mel = settings_of(pipeline.audio_vae.config)
    return Modules(
        **parts,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        geometry=_geometry(pipeline),
        mel=mel,
        max_text_tokens=min(pipeline.tokenizer.model_max_length, 1024),
        device=device,
        dtype=dtype,
    )


def load_upsampler(backbone: StoredBackbone) -> Any:
    """The model that doubles the height and width of video latents, for a dub's second stage.

    Raises:
        InvalidArtifactError: the backbone has none.
    """
    import torch
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

    folder = backbone.path / PIPELINE / UPSAMPLER
    if not folder.is_dir():
        raise InvalidArtifactError(
            "the backbone has no latent upsampler, which a second stage needs",
            where=str(folder),
            cure="leave second_stage.sigmas empty, or fetch a backbone with one",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return LTX2LatentUpsamplerModel.from_pretrained(folder, torch_dtype=dtype).to(device).requires_grad_(False).eval()


def _geometry(pipeline: Any) -> Geometry:
    """Ratios of the modules; the transformer's own idea of them must agree, or positions would be wrong."""
    temporal, spatial = pipeline.vae_temporal_compression_ratio, pipeline.vae_spatial_compression_ratio
    believed = tuple(pipeline.transformer.config.vae_scale_factors)
    if believed != (temporal, spatial, spatial):
        raise InvalidArtifactError(
            f"the VAE compresses {temporal}x{spatial}, the transformer believes {believed}", cure="fix the configs"
        )
    audio = pipeline.audio_vae.config
    return Geometry(
        temporal=temporal,
        spatial=spatial,
        video_channels=pipeline.transformer.config.in_channels,
        audio_channels=pipeline.transformer.config.audio_in_channels,
        sample_rate_hz=audio.sample_rate,
        output_sample_rate_hz=pipeline.vocoder.config.output_sampling_rate,
        hop_length=audio.mel_hop_length,
        mel_per_latent=pipeline.audio_vae_temporal_compression_ratio,
        audio_in_channels=audio.in_channels,
    )
