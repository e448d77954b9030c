"""Builds a backbone's modules at full size on torch's meta device, without memory, to compare with the plan's counts."""

from __future__ import annotations

from typing import Any

import torch

from dubmill.errors import InvalidParamsError
from dubmill.plan.architecture import PARTS, Architecture


def on_meta_device(architecture: Architecture, part: str) -> Any:
    """Returns one module of `architecture` whose parameters have shapes and no storage.

    Raises:
        InvalidParamsError: the config does not fit the class.
    """
    try:
        with torch.device("meta"):
            return _build(part, architecture.modules[part])
    except (TypeError, ValueError) as error:
        raise InvalidParamsError(
            f"{architecture.name}: {part} cannot be built ({error})", cure="correct its config"
        ) from error


def _build(part: str, config: dict[str, Any]) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
    from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2 import vocoder
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    if part == "text_encoder":
        return Gemma3ForConditionalGeneration(Gemma3Config(**config))
    classes = {
        "transformer": LTX2VideoTransformer3DModel,
        "connectors": LTX2TextConnectors,
        "vae": AutoencoderKLLTX2Video,
        "audio_vae": AutoencoderKLLTX2Audio,
        "vocoder": vocoder.LTX2VocoderWithBWE if "bwe_in_channels" in config else vocoder.LTX2Vocoder,
    }
    return classes[part].from_config(config)


def count_parameters(architecture: Architecture) -> dict[str, int]:
    """Returns the number of parameters of every part, counted on the modules themselves."""
    return {part: sum(weight.numel() for weight in on_meta_device(architecture, part).parameters()) for part in PARTS}
