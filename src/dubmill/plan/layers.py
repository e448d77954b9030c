"""The transformer as a list of its matrix products, from which parameters, LoRA and floating-point operations follow.

A product of (tokens x inputs) with (inputs x outputs) is 2 * tokens * inputs * outputs operations; attention of q queries
to k keys of width d is two of them, 4 * q * k * d. What is not a product (norms, gates, rotations) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Stream = Literal["video", "audio", "text", "sample"]

FF_RATIO = 4
TIME_CHANNELS = 256
FLASH_BACKWARD = 2.5  # five products against two: the scores are computed again


@dataclass(frozen=True)
class Tokens:
    """How many tokens one sample has in each stream, the reference's among them."""

    video: int
    audio: int
    text: int
    sample: int = 1


@dataclass(frozen=True)
class Linear:
    """One linear layer, and which tokens go through it."""

    name: str
    inputs: int
    outputs: int
    stream: Stream
    has_bias: bool = True

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.inputs * self.outputs + (self.outputs if self.has_bias else 0)

    def flops(self, tokens: Tokens) -> int:
        """Operations of one forward pass."""
        return 2 * getattr(tokens, self.stream) * self.inputs * self.outputs


@dataclass(frozen=True)
class Packed:
    """What lies in 8 bits where that is asked for: weights, and rows, each with a scale."""

    weights: int
    rows: int


@dataclass(frozen=True)
class Attention:
    """One attention: queries of one stream to keys of another, all heads together `width` wide."""

    name: str
    queries: Stream
    keys: Stream
    width: int

    def flops(self, tokens: Tokens) -> int:
        """Operations of one forward pass."""
        return 4 * getattr(tokens, self.queries) * getattr(tokens, self.keys) * self.width


@dataclass(frozen=True)
class Transformer:
    """Blocks, all alike, and what stands around them."""

    num_blocks: int
    block: tuple[Linear, ...]
    attentions: tuple[Attention, ...]
    outer: tuple[Linear, ...]
    loose_in_block: int  # parameters that are no linear layer's: norms and modulation tables
    loose_outside: int
    video_width: int
    audio_width: int
    audio_heads: int

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        return sum(layer.parameters for layer in self.block) + self.loose_in_block

    @property
    def parameters(self) -> int:
        """Parameters of the whole."""
        outer = sum(layer.parameters for layer in self.outer) + self.loose_outside
        return self.num_blocks * self.block_parameters + outer

    @property
    def packed_block(self) -> Packed:
        """Of one block."""
        weights = sum(layer.inputs * layer.outputs for layer in self.block)
        return Packed(weights, sum(layer.outputs for layer in self.block))

    def adapted(self, targets: Sequence[str]) -> tuple[Linear, ...]:
        """The layers of a block that get a LoRA."""
        return tuple(layer for layer in self.block if layer.name.endswith(tuple(f".{target}" for target in targets)))

    def lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Parameters of a LoRA on all blocks."""
        return self.num_blocks * sum(rank * (layer.inputs + layer.outputs) for layer in self.adapted(targets))

    def forward_flops(self, tokens: Tokens) -> int:
        """Operations of one forward pass of one sample, without a LoRA."""
        block = sum(part.flops(tokens) for part in (*self.block, *self.attentions))
        return self.num_blocks * block + sum(layer.flops(tokens) for layer in self.outer)

    def lora_flops(self, tokens: Tokens, rank: int, targets: Sequence[str]) -> int:
        """Operations that a LoRA adds to a forward pass."""
        adapted = self.adapted(targets)
        per_rank = sum(2 * getattr(tokens, layer.stream) * (layer.inputs + layer.outputs) for layer in adapted)
        return self.num_blocks * rank * per_rank

    def train_flops(
        self,
        tokens: Tokens,
        rank: int,
        targets: Sequence[str],
        *,
        checkpointing: bool,
        attention_backward: float = FLASH_BACKWARD,
    ) -> float:
        """Operations of one sample's forward and backward pass while only the LoRA learns.

        The frozen layers pass gradients on, which costs as much as the forward pass; the text's keys and values have
        nobody to pass them to. A LoRA's two matrices pass gradients on and get their own. Checkpointing runs the blocks'
        forward pass twice.
        """
        attention = self.num_blocks * sum(part.flops(tokens) for part in self.attentions)
        frozen = self.num_blocks * sum(layer.flops(tokens) for layer in self.block)
        passing = self.num_blocks * sum(layer.flops(tokens) for layer in self.block if layer.stream != "text")
        lora = self.lora_flops(tokens, rank, targets)
        unpassed = self.num_blocks * sum(
            2 * tokens.text * rank * layer.inputs for layer in self.adapted(targets) if layer.stream == "text"
        )
        outer = sum(layer.flops(tokens) for layer in self.outer)
        passed_out = sum(layer.flops(tokens) for layer in self.outer if layer.name.endswith("proj_out"))
        forward = attention + frozen + lora
        backward = attention_backward * attention + passing + 2 * lora - unpassed
        return forward * (2 if checkpointing else 1) + backward + outer + passed_out


def transformer(config: Mapping[str, Any]) -> Transformer:
    """The layers of diffusers' `LTX2VideoTransformer3DModel` of a config."""
    video = config["num_attention_heads"] * config["attention_head_dim"]
    audio = config["audio_num_attention_heads"] * config["audio_attention_head_dim"]
    block, attentions, loose = _block(config, video, audio)
    return Transformer(
        num_blocks=config["num_layers"],
        block=block,
        attentions=attentions,
        outer=_outer(config, video, audio),
        loose_in_block=loose,
        loose_outside=2 * (video + audio),
        video_width=video,
        audio_width=audio,
        audio_heads=config["audio_num_attention_heads"],
    )


def _block(config: Mapping[str, Any], video: int, audio: int) -> tuple[tuple[Linear, ...], tuple[Attention, ...], int]:
    """Linear layers, attentions and loose parameters of one block."""
    heads, audio_heads = config["num_attention_heads"], config["audio_num_attention_heads"]
    text, audio_text = config["cross_attention_dim"], config["audio_cross_attention_dim"]
    kinds: tuple[
        tuple[str, Stream, Stream, int, int, int, int], ...
    ] = (  # name, streams, their widths, inner width, heads
        ("attn1", "video", "video", video, video, video, heads),
        ("audio_attn1", "audio", "audio", audio, audio, audio, audio_heads),
        ("attn2", "video", "text", video, text, video, heads),
        ("audio_attn2", "audio", "text", audio, audio_text, audio, audio_heads),
        ("audio_to_video_attn", "video", "audio", video, audio, audio, audio_heads),
        ("video_to_audio_attn", "audio", "video", audio, video, audio, audio_heads),
    )
    linears: list[Linear] = []
    for name, queries, keys, query_width, key_width, inner, num_heads in kinds:
        linears += [
            Linear(f"{name}.to_q", query_width, inner, queries),
            Linear(f"{name}.to_k", key_width, inner, keys),
            Linear(f"{name}.to_v", key_width, inner, keys),
            Linear(f"{name}.to_out.0", inner, query_width, queries),
        ]
        if config["gated_attn" if queries == "video" else "audio_gated_attn"]:
            linears.append(Linear(f"{name}.to_gate_logits", query_width, num_heads, queries))
    for name, stream, width in (("ff", "video", video), ("audio_ff", "audio", audio)):
        wide = FF_RATIO * width
        linears += [Linear(f"{name}.net.0.proj", width, wide, stream), Linear(f"{name}.net.2", wide, width, stream)]
    norms = sum(2 * inner for *_, inner, _ in kinds)
    tables = (_num_modulations(config, "") + 5) * video + (_num_modulations(config, "audio_") + 5) * audio
    prompts = 2 * (video + audio) if _modulates_prompts(config) else 0
    attentions = tuple(Attention(name, queries, keys, inner) for name, queries, keys, _, _, inner, _ in kinds)
    return tuple(linears), attentions, norms + tables + prompts


def _num_modulations(config: Mapping[str, Any], modality: str) -> int:
    return 9 if config[f"{modality}cross_attn_mod"] else 6


def _modulates_prompts(config: Mapping[str, Any]) -> bool:
    return config["cross_attn_mod"] or config["audio_cross_attn_mod"]


def _outer(config: Mapping[str, Any], video: int, audio: int) -> tuple[Linear, ...]:
    """Linear layers around the blocks: in, out, captions, and the noise level of each token."""
    crossing: tuple[Stream, Stream] = ("sample", "sample") if _modulates_prompts(config) else ("video", "audio")
    linears = [
        Linear("proj_in", config["in_channels"], video, "video"),
        Linear("audio_proj_in", config["audio_in_channels"], audio, "audio"),
        Linear("proj_out", video, config["out_channels"], "video"),
        Linear("audio_proj_out", audio, config["audio_out_channels"], "audio"),
        *_noise_level("time_embed", video, _num_modulations(config, ""), "video"),
        *_noise_level("audio_time_embed", audio, _num_modulations(config, "audio_"), "audio"),
        *_noise_level("av_cross_attn_video_scale_shift", video, 4, crossing[0]),
        *_noise_level("av_cross_attn_audio_scale_shift", audio, 4, crossing[1]),
        *_noise_level("av_cross_attn_video_a2v_gate", video, 1, crossing[0]),
        *_noise_level("av_cross_attn_audio_v2a_gate", audio, 1, crossing[1]),
    ]
    if _modulates_prompts(config):
        linears += [
            *_noise_level("prompt_adaln", video, 2, "sample"),
            *_noise_level("audio_prompt_adaln", audio, 2, "sample"),
        ]
    if config["use_prompt_embeddings"]:
        for name, width in (("caption_projection", video), ("audio_caption_projection", audio)):
            linears += [
                Linear(f"{name}.linear_1", config["caption_channels"], width, "text"),
                Linear(f"{name}.linear_2", width, width, "text"),
            ]
    return tuple(linears)


def _noise_level(name: str, width: int, num_modulations: int, stream: Stream) -> tuple[Linear, ...]:
    return (
        Linear(f"{name}.emb.timestep_embedder.linear_1", TIME_CHANNELS, width, stream),
        Linear(f"{name}.emb.timestep_embedder.linear_2", width, width, stream),
        Linear(f"{name}.linear", width, num_modulations * width, stream),
    )
