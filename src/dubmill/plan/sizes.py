"""A backbone's modules at full size on torch's meta device, where they weigh nothing: what the plan's counts are held to."""

from __future__ import annotations

from typing import Any

import torch

from dubmill.errors import InvalidParamsError
from dubmill.plan.architecture import PARTS, Architecture


def on_meta(architecture: Architecture, part: str) -> Any:
    """One module of `architecture`, its parameters shapes without numbers.

    Raises:
        InvalidParamsError: the config does not fit the class.
    """
    config = architecture.modules[part]
    try:
        with torch.device("meta"):
            return _builder(part, config)
    except (TypeError, ValueError) as error:
        raise InvalidParamsError(
            f"{architecture.name}: {part} cannot be built ({error})", cure="mend its config"
        ) from error


def _builder(part: str, config: dict[str, Any]) -> Any:
    import diffusers
    from diffusers.pipelines.ltx2 import vocoder
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    if part == "text_encoder":
        return Gemma3ForConditionalGeneration(Gemma3Config(**config))
    classes = {
        "transformer": diffusers.LTX2VideoTransformer3DModel,
        "connectors": LTX2TextConnectors,
        "vae": diffusers.AutoencoderKLLTX2Video,
        "audio_vae": diffusers.AutoencoderKLLTX2Audio,
        "vocoder": vocoder.LTX2VocoderWithBWE if "bwe_in_channels" in config else vocoder.LTX2Vocoder,
    }
    return classes[part].from_config(config)


def counted(architecture: Architecture) -> dict[str, int]:
    """Parameters of every part, counted on the modules themselves."""
    return {part: sum(weight.numel() for weight in on_meta(architecture, part).parameters()) for part in PARTS}
