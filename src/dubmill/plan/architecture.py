"""The sizes of a backbone's modules, from the YAML beside this file; nano's from the weights that ship."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from dubmill.config.overlays import read_yaml
from dubmill.model.shapes import Geometry
from dubmill.plan.layers import Packed, Transformer, transformer

HERE = Path(__file__).parent
PARTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder", "text_encoder")


@dataclass(frozen=True)
class Text:
    """Text features of one caption: tokens, and numbers for each."""

    tokens: int
    video_width: int
    audio_width: int


@dataclass(frozen=True)
class Activations:
    """Memory of the transformer's work, in numbers per channel and token."""

    block_video: float
    block_audio: float
    around: float
    inference: float


@dataclass(frozen=True)
class VideoVae:
    """Peak bytes (bf16) and floating-point operations of the video VAE, per pixel of the clip."""

    encode_bytes: float
    decode_bytes: float
    encode_flops: float
    decode_flops: float


@dataclass(frozen=True)
class Architecture:
    """One backbone: the configs of its modules and what was counted of them."""

    name: str
    modules: dict[str, dict[str, Any]]
    counted: dict[str, int]  # parameters of each part but the transformer
    text: Text
    activations: Activations
    video_vae: VideoVae

    @cached_property
    def transformer(self) -> Transformer:
        """The layers of the transformer."""
        return transformer(self.modules["transformer"])

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of each part."""
        return {part: self.transformer.parameters if part == "transformer" else self.counted[part] for part in PARTS}

    @property
    def packed(self) -> dict[str, Packed]:
        """What may lie in 8 bits, of each part that can."""
        block, count = self.transformer.packed_block, self.transformer.num_blocks
        return {
            "transformer": Packed(count * block.weights, count * block.rows),
            "text_encoder": _packed_gemma(self.modules["text_encoder"]["text_config"]),
        }

    @property
    def geometry(self) -> Geometry:
        """Ratios and widths, as the configs declare them."""
        config, audio = self.modules["transformer"], self.modules["audio_vae"]
        return Geometry(
            temporal=config["vae_scale_factors"][0],
            spatial=config["vae_scale_factors"][1],
            video_channels=config["in_channels"],
            audio_channels=config["audio_in_channels"],
            sample_rate_hz=config["audio_sampling_rate"],
            output_sample_rate_hz=self.modules["vocoder"]["output_sampling_rate"],
            hop_length=config["audio_hop_length"],
            mel_per_latent=config["audio_scale_factor"],
            audio_in_channels=audio["in_channels"],
        )


def named(name: str) -> Architecture:
    """The architecture that `backbone.architecture` names."""
    values = read_yaml(HERE / f"{name}.yaml")
    if "folder" in values:
        folder = HERE.parent / values["folder"]
        modules = {part: json.loads((folder / part / "config.json").read_text()) for part in PARTS}
        counted = {part: _stored_parameters(folder / part) for part in PARTS[1:]}
    else:
        modules, counted = values["modules"], values["parameters"]
    return Architecture(
        name=name,
        modules=modules,
        counted=counted,
        text=Text(**values["text"]),
        activations=Activations(**values["activations"]),
        video_vae=VideoVae(**values["video_vae"]),
    )


def _packed_gemma(config: Mapping[str, Any]) -> Packed:
    """The linear layers of Gemma's blocks, which have no biases."""
    width, wide = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    rows = queries + 2 * keys + width + 2 * wide + width  # attention's in and out, the gated layers' in and out
    weights = 2 * width * (queries + keys) + 3 * width * wide
    return Packed(config["num_hidden_layers"] * weights, config["num_hidden_layers"] * rows)


def _stored_parameters(folder: Path) -> int:
    """Numbers in the safetensors files of a folder, by their headers alone."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total
