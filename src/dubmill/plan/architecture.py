"""Loads the sizes of a backbone's modules, from the YAML files beside this one; nano's from its embedded weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

from dubmill.config.overlays import read_yaml
from dubmill.model.shapes import Geometry
from dubmill.plan.layers import Int8Layers, Transformer, transformer_layers

HERE = Path(__file__).parent
PARTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder", "text_encoder")


@dataclass(frozen=True)
class Text:
    """Text features of one caption: tokens, and numbers per token."""

    tokens: int
    video_width: int
    audio_width: int


@dataclass(frozen=True)
class Activations:
    """Activation memory of the transformer, in numbers per channel and token."""

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
    """One backbone: the configs of its modules, and sizes counted from them."""

    name: str
    dtype: Literal["bfloat16", "float32"]  # in which its weights are held and computed
    modules: dict[str, dict[str, Any]]
    other_parameters: dict[str, int]  # of each part but the transformer
    text: Text
    activations: Activations
    video_vae: VideoVae
    distilled_lora_rank: int  # on all linear layers of the blocks

    @cached_property
    def transformer(self) -> Transformer:
        """The layers of the transformer."""
        return transformer_layers(self.modules["transformer"])

    @property
    def number_bytes(self) -> int:
        """Bytes of one number of its weights and activations."""
        return 4 if self.dtype == "float32" else 2

    @property
    def distilled_lora_bytes(self) -> int:
        """Bytes of the LoRA for sampling in few steps."""
        ends = [layer.name.rpartition(".")[2] for layer in self.transformer.block]
        return self.number_bytes * self.transformer.num_lora_parameters(self.distilled_lora_rank, ends)

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of each part."""
        return {"transformer": self.transformer.parameters, **{part: self.other_parameters[part] for part in PARTS[1:]}}

    @property
    def int8_layers(self) -> dict[str, Int8Layers]:
        """What int8 weight-only quantization covers, for each part that supports it."""
        block, count = self.transformer.int8_block, self.transformer.num_blocks
        return {
            "transformer": Int8Layers(count * block.weights, count * block.rows),
            "text_encoder": _gemma_int8_layers(self.modules["text_encoder"]["text_config"]),
        }

    @property
    def geometry(self) -> Geometry:
        """Compression ratios and channel counts, as declared by the configs."""
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


def load_architecture(name: str) -> Architecture:
    """Returns the architecture of that name (`backbone.architecture`)."""
    values = read_yaml(HERE / f"{name}.yaml")
    if "folder" in values:
        folder = HERE.parent / values["folder"]
        modules = {part: json.loads((folder / part / "config.json").read_text()) for part in PARTS}
        parameters = {part: _stored_parameters(folder / part) for part in PARTS[1:]}
    else:
        modules, parameters = values["modules"], values["parameters"]
    return Architecture(
        name=name,
        dtype=values["dtype"],
        modules=modules,
        other_parameters=parameters,
        text=Text(**values["text"]),
        activations=Activations(**values["activations"]),
        video_vae=VideoVae(**values["video_vae"]),
        distilled_lora_rank=values["distilled_lora_rank"],
    )


def _gemma_int8_layers(config: Mapping[str, Any]) -> Int8Layers:
    """Returns the linear layers of Gemma's blocks, which have no biases."""
    width, wide = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    rows = queries + 2 * keys + width + 2 * wide + width  # attention projections, then the gated feed-forward layers
    weights = 2 * width * (queries + keys) + 3 * width * wide
    return Int8Layers(config["num_hidden_layers"] * weights, config["num_hidden_layers"] * rows)


def _stored_parameters(folder: Path) -> int:
    """Returns how many numbers the safetensors files of a folder hold, read from their headers only."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total
