"""Changes to the attention layers of an LTX-2 transformer; each lasts as long as its context manager is open.

- `isolated_modalities`: reference tokens take no part in the attention between video and audio (isolation mask).
- `reference_kv_cache`: self-attention also reads cached keys and values of the reference.
- `perturbed_self_attention`: self-attention passes its values through, for spatio-temporal guidance.

Each replaces attention processors. The weights and any LoRA layers on them stay as they are.

Axes: B batch, S tokens, H heads, D numbers per head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_ltx2 import apply_interleaved_rotary_emb, apply_split_rotary_emb

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_ltx2 import (
        LTX2Attention,
        LTX2VideoTransformer3DModel,
        LTX2VideoTransformerBlock,
    )

Rotary = tuple[torch.Tensor, torch.Tensor]
CHECKPOINTING = "_gradient_checkpointing_func"  # of diffusers' models; None while they do not checkpoint


def isolation_mask(num_queries: int, num_keys: int, all_queries: int, all_keys: int) -> torch.Tensor:
    """Returns an additive mask (1, 1, all queries, all keys): target queries attend to target keys only.

    The target's tokens come first. The rows of reference queries are left open: a fully masked row is undefined in some
    attention kernels, and uniform attention under a finite mask.
    """
    mask = torch.zeros(1, 1, all_queries, all_keys)
    mask[:, :, :num_queries, num_keys:] = float("-inf")
    return mask


class LTX2IsolatedAttnProcessor:
    """Attention between video and audio under an isolation mask; the rows of reference queries are zero.

    The mask is broadcast over batch and heads. diffusers' own processor repeats it for each head: at 7,040 video and 242
    audio tokens that is 109 MB a layer in bf16 instead of 3.4 MB.
    """

    def __init__(self, replaced: Any, mask: torch.Tensor, num_target: int) -> None:
        """`mask` as by `isolation_mask`; `num_target` counts the target's queries."""
        self._attention_backend = replaced._attention_backend
        self._parallel_config = replaced._parallel_config
        self.mask, self.num_target = mask, num_target

    def __call__(
        self,
        attn: LTX2Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        query_rotary_emb: Rotary | None = None,
        key_rotary_emb: Rotary | None = None,
    ) -> torch.Tensor:
        """Returns the layer's output (B, S, H * D)."""
        assert encoder_hidden_states is not None, "this layer attends to the other modality"
        assert attention_mask is None, "diffusers gives this layer no mask"
        query = _rotate(attn, attn.norm_q(attn.to_q(hidden_states)), query_rotary_emb)
        key = _rotate(attn, attn.norm_k(attn.to_k(encoder_hidden_states)), key_rotary_emb)
        value = attn.to_v(encoder_hidden_states)
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, value))
        mask = self.mask.to(query.device, query.dtype)  # the same tensor, except under autocast
        mixed = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        output_BSD = _project(attn, mixed.to(query.dtype), hidden_states)
        silent = torch.zeros_like(output_BSD[:, self.num_target :])
        return torch.cat([output_BSD[:, : self.num_target], silent], dim=1)


def _rotate(attn: LTX2Attention, tokens: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
    if rotary is None:
        return tokens
    return (apply_split_rotary_emb if attn.rope_type == "split" else apply_interleaved_rotary_emb)(tokens, rotary)


class ReferenceKVCache:
    """State that all self-attention layers of one transformer share: whether they fill the cache or read it."""

    def __init__(self) -> None:
        self.is_filling = False

    @contextmanager
    def filling(self, is_filling: bool) -> Iterator[None]:
        """The layers fill their cache while open, or read it."""
        before, self.is_filling = self.is_filling, is_filling
        try:
            yield
        finally:
            self.is_filling = before


class LTX2ReferenceAttnProcessor:
    """Self-attention whose queries also attend to the cached keys and values of the reference.

    While the cache is being filled, the tokens are the reference's: they attend to themselves, and their keys (after norm
    and rotary embedding) and values are cached. A later batch may hold the cached batch several times over, end to end,
    as classifier-free guidance does.
    """

    def __init__(self, cache: ReferenceKVCache, replaced: Any) -> None:
        self.cache = cache
        self._attention_backend = replaced._attention_backend
        self._parallel_config = replaced._parallel_config
        self.reference: tuple[torch.Tensor, torch.Tensor] | None = None  # keys and values (B, S, H, D)

    def __call__(
        self,
        attn: LTX2Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        query_rotary_emb: Rotary | None = None,
        key_rotary_emb: Rotary | None = None,
        perturbation_mask: torch.Tensor | None = None,
        all_perturbed: bool | None = None,
    ) -> torch.Tensor:
        """Returns the layer's output (B, S, H * D) for `hidden_states` alone; this is self-attention without a mask."""
        assert encoder_hidden_states is None, "only self-attention has a reference"
        assert attention_mask is None, "a reference is read as a whole"
        query = _rotate(attn, attn.norm_q(attn.to_q(hidden_states)), query_rotary_emb)
        key = _rotate(attn, attn.norm_k(attn.to_k(hidden_states)), query_rotary_emb)
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, attn.to_v(hidden_states)))
        if self.cache.is_filling:
            self.reference = (key, value)
        else:
            key, value = self._with_reference(key, value)
        mixed = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return _project(attn, mixed.to(query.dtype), hidden_states)

    def _with_reference(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values followed by the cached ones."""
        assert self.reference is not None, "the cache was not filled"
        cached_key, cached_value = self.reference
        times = len(key) // len(cached_key)
        return (
            torch.cat([key, cached_key.repeat(times, 1, 1, 1)], dim=1),
            torch.cat([value, cached_value.repeat(times, 1, 1, 1)], dim=1),
        )


class LTX2ValueAttnProcessor:
    """Self-attention that returns each token's own value: the perturbation of spatio-temporal guidance."""

    def __call__(
        self,
        attn: LTX2Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        query_rotary_emb: Rotary | None = None,
        key_rotary_emb: Rotary | None = None,
        perturbation_mask: torch.Tensor | None = None,
        all_perturbed: bool | None = None,
    ) -> torch.Tensor:
        """Returns the layer's output (B, S, H * D)."""
        return _project(attn, attn.to_v(hidden_states).unflatten(2, (attn.heads, -1)), hidden_states)


def _project(attn: LTX2Attention, mixed_BSHD: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """Returns output projection of the heads, gated where the layer has gates."""
    if attn.to_gate_logits is not None:
        mixed_BSHD = mixed_BSHD * (2 * torch.sigmoid(attn.to_gate_logits(hidden_states))).unsqueeze(-1)
    return attn.to_out[1](attn.to_out[0](mixed_BSHD.flatten(2, 3)))


def _blocks(transformer: LTX2VideoTransformer3DModel) -> list[LTX2VideoTransformerBlock]:
    blocks: Any = transformer.transformer_blocks  # torch types the members of a ModuleList as plain modules
    return list(blocks)


def _self_attentions(blocks: Sequence[LTX2VideoTransformerBlock]) -> list[LTX2Attention]:
    return [attention for block in blocks for attention in (block.attn1, block.audio_attn1)]


@contextmanager
def _processors(attentions: Sequence[LTX2Attention], replacement_of: Callable[[Any], Any]) -> Iterator[None]:
    """Gives each layer `replacement_of(its processor)` while open."""
    before = [attention.processor for attention in attentions]
    for attention in attentions:
        attention.set_processor(replacement_of(attention.processor))
    try:
        yield
    finally:
        for attention, processor in zip(attentions, before, strict=True):
            attention.set_processor(processor)


@contextmanager
def isolated_modalities(
    transformer: LTX2VideoTransformer3DModel, num_target: tuple[int, int], num_reference: tuple[int, int]
) -> Iterator[None]:
    """Keeps reference tokens out of the attention between video and audio while open (JUST-DUB-IT, eq. 2).

    Counts are (video, audio) tokens; the target's come first in each sequence. So the source's audio never reaches the new
    video, nor the source's lips the new audio.
    """
    (video, audio), (more_video, more_audio) = num_target, num_reference
    to_video = isolation_mask(video, audio, video + more_video, audio + more_audio)
    to_audio = isolation_mask(audio, video, audio + more_audio, video + more_video)
    to_video, to_audio = (mask.to(transformer.device, transformer.dtype) for mask in (to_video, to_audio))
    blocks = _blocks(transformer)
    with (
        _processors(
            [block.audio_to_video_attn for block in blocks],
            lambda old: LTX2IsolatedAttnProcessor(old, to_video, video),
        ),
        _processors(
            [block.video_to_audio_attn for block in blocks],
            lambda old: LTX2IsolatedAttnProcessor(old, to_audio, audio),
        ),
    ):
        yield


@contextmanager
def reference_kv_cache(transformer: LTX2VideoTransformer3DModel) -> Iterator[None]:
    """Gives the self-attention layers a cache for the reference's keys and values while open; see `kv_cache_of`.

    With gradient checkpointing a block runs again in the backward pass; it must then fill or read the cache as it first
    did.
    """
    cache = ReferenceKVCache()
    checkpoint = getattr(transformer, CHECKPOINTING, None)
    layers = _self_attentions(_blocks(transformer))
    with _processors(layers, lambda old: LTX2ReferenceAttnProcessor(cache, old)):
        if checkpoint is not None:
            setattr(transformer, CHECKPOINTING, _checkpoint_with_mode(checkpoint, cache))
        try:
            yield
        finally:
            if checkpoint is not None:
                setattr(transformer, CHECKPOINTING, checkpoint)


def _checkpoint_with_mode(checkpoint: Callable[..., Any], cache: ReferenceKVCache) -> Callable[..., Any]:
    """Returns `checkpoint` that computes a block again with the cache in the mode of the first time."""

    def checkpoint_in_mode(block: Callable[..., Any], *args: Any) -> Any:
        was_filling = cache.is_filling

        def run(*args: Any) -> Any:
            with cache.filling(was_filling):
                return block(*args)

        return checkpoint(run, *args)

    return checkpoint_in_mode


def kv_cache_of(transformer: LTX2VideoTransformer3DModel) -> ReferenceKVCache:
    """Returns the cache that `reference_kv_cache` gave the layers, also if the transformer has been wrapped since."""
    processors = (getattr(module, "processor", None) for module in transformer.modules())
    return next(one.cache for one in processors if isinstance(one, LTX2ReferenceAttnProcessor))


@contextmanager
def perturbed_self_attention(transformer: LTX2VideoTransformer3DModel, block_indices: Sequence[int]) -> Iterator[None]:
    """Makes the self-attention of these blocks return each token's own value while open.

    diffusers perturbs only transformers that were built with `perturbed_attn` (LTX-2.3). Others, such as LTX-2, it leaves
    unperturbed without a warning, and the guidance is then zero.
    """
    perturbed = [_blocks(transformer)[index] for index in block_indices]
    with _processors(_self_attentions(perturbed), lambda old: LTX2ValueAttnProcessor()):
        yield
