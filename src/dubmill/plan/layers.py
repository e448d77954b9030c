"""Describes the transformer as a list of matrix products, from which parameters, LoRA size and FLOPs follow.

A product of (tokens x inputs) with (inputs x outputs) is 2 * tokens * inputs * outputs operations; attention of q queries
to k keys of width d is two products, 4 * q * k * d. Everything else (norms, gates, RoPE) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Stream = Literal["video", "audio", "text", "sample"]

FF_RATIO = 4
TIME_CHANNELS = 256
FLASH_BACKWARD = 2.5  # five products against two in the forward pass: FlashAttention recomputes the scores


@dataclass(frozen=True)
class Tokens:
    """Number of tokens of one sample in each stream, including those of the reference."""

    video: int
    audio: int
    text: int
    sample: int = 1


@dataclass(frozen=True)
class Linear:
    """One linear layer, and the stream whose tokens go through it."""

    name: str
    inputs: int
    outputs: int
    stream: Stream
    has_bias: bool = True

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.inputs * self.outputs + (self.outputs if self.has_bias else 0)

    def flops(self, tokens: Tokens) -> int:
        """Returns FLOPs of one forward pass."""
        return 2 * getattr(tokens, self.stream) * self.inputs * self.outputs


@dataclass(frozen=True)
class Int8Layers:
    """Layers that int8 quantization covers: their number of weights, and of rows (each row has a scale)."""

    weights: int
    rows: int


@dataclass(frozen=True)
class Attention:
    """One attention layer: queries of one stream, keys of another; `width` is that of all heads together."""

    name: str
    queries: Stream
    keys: Stream
    width: int

    def flops(self, tokens: Tokens) -> int:
        """Returns FLOPs of one forward pass."""
        return 4 * getattr(tokens, self.queries) * getattr(tokens, self.keys) * self.width


@dataclass(frozen=True)
class Transformer:
    """Equal blocks, and the layers around them."""

    num_blocks: int
    block: tuple[Linear, ...]
    attentions: tuple[Attention, ...]
    outer: tuple[Linear, ...]
    other_in_block: int  # parameters outside linear layers: norms and modulation tables
    other_outside: int
    video_width: int
    audio_width: int
    audio_heads: int

    @property
    def block_parameters(self) -> int:
        """Number of parameters of one block."""
        return sum(layer.parameters for layer in self.block) + self.other_in_block

    @property
    def parameters(self) -> int:
        """Number of parameters of the whole transformer."""
        outer = sum(layer.parameters for layer in self.outer) + self.other_outside
        return self.num_blocks * self.block_parameters + outer

    @property
    def int8_block(self) -> Int8Layers:
        """What int8 quantization covers in one block."""
        weights = sum(layer.inputs * layer.outputs for layer in self.block)
        return Int8Layers(weights, sum(layer.outputs for layer in self.block))

    def adapted(self, targets: Sequence[str]) -> tuple[Linear, ...]:
        """Returns the layers of a block that get a LoRA."""
        return tuple(layer for layer in self.block if layer.name.endswith(tuple(f".{target}" for target in targets)))

    def num_lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Returns the number of parameters of a LoRA on all blocks."""
        return self.num_blocks * sum(rank * (layer.inputs + layer.outputs) for layer in self.adapted(targets))

    def forward_flops(self, tokens: Tokens) -> int:
        """Returns the FLOPs of one forward pass of one sample, without a LoRA."""
        block = sum(part.flops(tokens) for part in (*self.block, *self.attentions))
        return self.num_blocks * block + sum(layer.flops(tokens) for layer in self.outer)

    def lora_flops(self, tokens: Tokens, rank: int, targets: Sequence[str]) -> int:
        """Returns the FLOPs that a LoRA adds to a forward pass."""
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
        """Returns the FLOPs of one sample's forward and backward pass when only the LoRA is trained.

        Frozen layers propagate gradients, which costs as much as their forward pass; keys and values of the text need no
        input gradient. A LoRA's matrices also get gradients of their own. Gradient checkpointing runs the forward pass of
        the blocks twice.
        """
        attention = self.num_blocks * sum(part.flops(tokens) for part in self.attentions)
        frozen = self.num_blocks * sum(layer.flops(tokens) for layer in self.block)
        propagated = self.num_blocks * sum(layer.flops(tokens) for layer in self.block if layer.stream != "text")
        lora = self.lora_flops(tokens, rank, targets)
        not_needed = self.num_blocks * sum(
            2 * tokens.text * rank * layer.inputs for layer in self.adapted(targets) if layer.stream == "text"
        )
        outer = sum(layer.flops(tokens) for layer in self.outer)
        outer_backward = sum(layer.flops(tokens) for layer in self.outer if layer.name.endswith("proj_out"))
        forward = attention + frozen + lora
        backward = attention_backward * attention + propagated + 2 * lora - not_needed
        return forward * (2 if checkpointing else 1) + backward + outer + outer_backward


def transformer_layers(config: Mapping[str, Any]) -> Transformer:
    """Returns the layers of diffusers' `LTX2VideoTransformer3DModel` for its config."""
    video = config["num_attention_heads"] * config["attention_head_dim"]
    audio = config["audio_num_attention_heads"] * config["audio_attention_head_dim"]
    block, attentions, other = _block(config, video, audio)
    return Transformer(
        num_blocks=config["num_layers"],
        block=block,
        attentions=attentions,
        outer=_outer(config, video, audio),
        other_in_block=other,
        other_outside=2 * (video + audio),
        video_width=video,
        audio_width=audio,
        audio_heads=config["audio_num_attention_heads"],
    )


def _block(config: Mapping[str, Any], video: int, audio: int) -> tuple[tuple[Linear, ...], tuple[Attention, ...], int]:
    """Returns linear layers, attentions and the number of other parameters of one block."""
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
    linears += [*_feed_forward("ff", video, "video"), *_feed_forward("audio_ff", audio, "audio")]
    norms = sum(2 * inner for *_, inner, _ in kinds)
    tables = (_num_modulations(config, "") + 5) * video + (_num_modulations(config, "audio_") + 5) * audio
    prompts = 2 * (video + audio) if _modulates_prompts(config) else 0
    attentions = tuple(Attention(name, queries, keys, inner) for name, queries, keys, _, _, inner, _ in kinds)
    return tuple(linears), attentions, norms + tables + prompts


def _feed_forward(name: str, width: int, stream: Stream) -> tuple[Linear, Linear]:
    inner = FF_RATIO * width
    return Linear(f"{name}.net.0.proj", width, inner, stream), Linear(f"{name}.net.2", inner, width, stream)


def _num_modulations(config: Mapping[str, Any], modality: str) -> int:
    return 9 if config[f"{modality}cross_attn_mod"] else 6


def _modulates_prompts(config: Mapping[str, Any]) -> bool:
    return config["cross_attn_mod"] or config["audio_cross_attn_mod"]


def _outer(config: Mapping[str, Any], video: int, audio: int) -> tuple[Linear, ...]:
    """Returns the linear layers around the blocks: input, output, captions, and the timestep embedding of each token."""
    crossing: tuple[Stream, Stream] = ("sample", "sample") if _modulates_prompts(config) else ("video", "audio")
    linears = [
        Linear("proj_in", config["in_channels"], video, "video"),
        Linear("audio_proj_in", config["audio_in_channels"], audio, "audio"),
        Linear("proj_out", video, config["out_channels"], "video"),
        Linear("audio_proj_out", audio, config["audio_out_channels"], "audio"),
        *_timestep_embedding("time_embed", video, _num_modulations(config, ""), "video"),
        *_timestep_embedding("audio_time_embed", audio, _num_modulations(config, "audio_"), "audio"),
        *_timestep_embedding("av_cross_attn_video_scale_shift", video, 4, crossing[0]),
        *_timestep_embedding("av_cross_attn_audio_scale_shift", audio, 4, crossing[1]),
        *_timestep_embedding("av_cross_attn_video_a2v_gate", video, 1, crossing[0]),
        *_timestep_embedding("av_cross_attn_audio_v2a_gate", audio, 1, crossing[1]),
    ]
    if _modulates_prompts(config):
        linears += [
            *_timestep_embedding("prompt_adaln", video, 2, "sample"),
            *_timestep_embedding("audio_prompt_adaln", audio, 2, "sample"),
        ]
    if config["use_prompt_embeddings"]:
        for name, width in (("caption_projection", video), ("audio_caption_projection", audio)):
            linears += [
                Linear(f"{name}.linear_1", config["caption_channels"], width, "text"),
                Linear(f"{name}.linear_2", width, width, "text"),
            ]
    return tuple(linears)


def _timestep_embedding(name: str, width: int, num_modulations: int, stream: Stream) -> tuple[Linear, ...]:
    return (
        Linear(f"{name}.emb.timestep_embedder.linear_1", TIME_CHANNELS, width, stream),
        Linear(f"{name}.emb.timestep_embedder.linear_2", width, width, stream),
        Linear(f"{name}.linear", width, num_modulations * width, stream),
    )
