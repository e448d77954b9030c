"""How the attention layers of an LTX-2 transformer are changed for a dub: each change lasts as long as its context.

Three changes: reference tokens are left out of what crosses between picture and sound (`with_isolation`); the keys and
values of a reference wait in the self-attention layers (`with_reference_cache`); self-attention gives its values unmixed, for
spatio-temporal guidance (`perturbed`). The weights stay as they are, and so do LoRA layers on them.

Axes: B batch, S tokens, H heads, D numbers per head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_ltx2 import apply_interleaved_rotary_emb, apply_split_rotary_emb

Rotary = tuple[torch.Tensor, torch.Tensor]


@contextmanager
def with_isolation(transformer: Any, num_target: tuple[int, int], num_reference: tuple[int, int]) -> Iterator[None]:
    """While open, only target video and target audio see each other across modalities (paper, eq. 2).

    Counts are (video, audio) tokens, the target's first in the sequence. The source's sound never reaches the new
    picture, nor its lips the new sound. Reference keys are masked with -inf; the rows of reference queries, which would
    have no key left, are computed unmasked and then set to zero, since a fully masked row is undefined in some attention
    kernels and uniform attention under a finite mask.
    """
    (video, audio), (more_video, more_audio) = num_target, num_reference
    handles = []
    for block in transformer.transformer_blocks:
        for attention, queries, keys, all_queries, all_keys in (
            (block.audio_to_video_attn, video, audio, video + more_video, audio + more_audio),
            (block.video_to_audio_attn, audio, video, audio + more_audio, video + more_video),
        ):
            mask = isolation_mask(queries, keys, all_queries, all_keys).to(transformer.device)
            handles.append(attention.register_forward_pre_hook(_masking(mask), with_kwargs=True))
            handles.append(attention.register_forward_hook(_silencing(queries)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def isolation_mask(num_queries: int, num_keys: int, all_queries: int, all_keys: int) -> torch.Tensor:
    """Additive mask (1, all queries, all keys): target queries see target keys only; reference rows are left open."""
    mask = torch.zeros(1, all_queries, all_keys)
    mask[:, :num_queries, num_keys:] = float("-inf")
    return mask


def _masking(mask: torch.Tensor) -> Callable[..., tuple[tuple, dict[str, Any]]]:
    def give_mask(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        states = args[0] if args else kwargs["hidden_states"]
        return args, {**kwargs, "attention_mask": mask.to(states.dtype).expand(len(states), -1, -1)}

    return give_mask


def _silencing(num_queries: int) -> Callable[..., torch.Tensor]:
    def silence_reference(module: Any, args: tuple, output_BSD: torch.Tensor) -> torch.Tensor:
        silent = torch.zeros_like(output_BSD[:, num_queries:])
        return torch.cat([output_BSD[:, :num_queries], silent], dim=1)

    return silence_reference


class ReferenceKVCache:
    """What all self-attention layers of one transformer share: whether they record a reference or read it."""

    def __init__(self) -> None:
        self.is_recording = False

    @contextmanager
    def recording(self, is_recording: bool) -> Iterator[None]:
        """While open, the layers record, or do not."""
        before, self.is_recording = self.is_recording, is_recording
        try:
            yield
        finally:
            self.is_recording = before


class LTX2ReferenceAttnProcessor:
    """Self-attention whose queries also meet the keys and values of the reference that was recorded last.

    While the memory records, the tokens are the reference's: they attend to themselves, and their keys (after norm and
    rotary embedding) and values are kept. A later batch may hold the recorded one several times over, end to end, as
    classifier-free guidance does.
    """

    def __init__(self, memory: ReferenceKVCache, replaced: Any) -> None:
        self.memory = memory
        self._attention_backend = replaced._attention_backend
        self._parallel_config = replaced._parallel_config
        self.reference: tuple[torch.Tensor, torch.Tensor] | None = None  # keys and values (B, S, H, D)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        query_rotary_emb: Rotary | None = None,
        key_rotary_emb: Rotary | None = None,
        perturbation_mask: torch.Tensor | None = None,
        all_perturbed: bool | None = None,
    ) -> torch.Tensor:
        """The layer's output (B, S, H * D) for `hidden_states` alone; this is self-attention without a mask."""
        assert encoder_hidden_states is None, "only self-attention has a reference"
        assert attention_mask is None, "a reference is read whole"
        rotate = apply_split_rotary_emb if attn.rope_type == "split" else apply_interleaved_rotary_emb
        query = rotate(attn.norm_q(attn.to_q(hidden_states)), query_rotary_emb)
        key = rotate(attn.norm_k(attn.to_k(hidden_states)), query_rotary_emb)
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, attn.to_v(hidden_states)))
        if self.memory.is_recording:
            self.reference = (key, value)
        else:
            key, value = self._behind(key, value)
        mixed = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return _out(attn, mixed.to(query.dtype), hidden_states)

    def _behind(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values with the reference's behind them."""
        assert self.reference is not None, "no reference was remembered"
        times = len(key) // len(self.reference[0])
        more = (part.repeat(times, 1, 1, 1) for part in self.reference)
        return tuple(torch.cat(pair, dim=1) for pair in zip((key, value), more, strict=True))


class LTX2ValueAttnProcessor:
    """Self-attention that gives each token its own value, unmixed: what spatio-temporal guidance steers away from."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        query_rotary_emb: Rotary | None = None,
        key_rotary_emb: Rotary | None = None,
        perturbation_mask: torch.Tensor | None = None,
        all_perturbed: bool | None = None,
    ) -> torch.Tensor:
        """The layer's output (B, S, H * D)."""
        return _out(attn, attn.to_v(hidden_states).unflatten(2, (attn.heads, -1)), hidden_states)


def _out(attn: Any, mixed_BSHD: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """The heads gated, where the layer has gates, and projected."""
    if attn.to_gate_logits is not None:
        mixed_BSHD = mixed_BSHD * (2 * torch.sigmoid(attn.to_gate_logits(hidden_states))).unsqueeze(-1)
    return attn.to_out[1](attn.to_out[0](mixed_BSHD.flatten(2, 3)))


def _self_attentions(blocks: Sequence[Any]) -> list[Any]:
    return [attention for block in blocks for attention in (block.attn1, block.audio_attn1)]


@contextmanager
def _processors(attentions: Sequence[Any], make: Callable[[Any], Any]) -> Iterator[None]:
    """While open, each layer works by `make(its processor)`."""
    before = [attention.processor for attention in attentions]
    for attention in attentions:
        attention.set_processor(make(attention.processor))
    try:
        yield
    finally:
        for attention, processor in zip(attentions, before, strict=True):
            attention.set_processor(processor)


@contextmanager
def with_reference_cache(transformer: Any) -> Iterator[None]:
    """While open, the self-attention layers hold a reference: see `memory`.

    Under gradient checkpointing a block runs again in the backward pass; it must then record or read as it first did.
    """
    shared = ReferenceKVCache()
    checkpoint = getattr(transformer, "_gradient_checkpointing_func", None)

    def checkpoint_as_it_was(block: Any, *args: Any) -> Any:
        was_recording = shared.is_recording

        def run(*again: Any) -> Any:
            with shared.recording(was_recording):
                return block(*again)

        return checkpoint(run, *args)

    with _processors(
        _self_attentions(transformer.transformer_blocks), lambda old: LTX2ReferenceAttnProcessor(shared, old)
    ):
        if checkpoint is not None:
            transformer._gradient_checkpointing_func = checkpoint_as_it_was
        try:
            yield
        finally:
            if checkpoint is not None:
                transformer._gradient_checkpointing_func = checkpoint


def memory(transformer: Any) -> ReferenceKVCache:
    """The memory that `with_reference_cache` gave the layers, also where the transformer has been wrapped since."""
    processors = (getattr(module, "processor", None) for module in transformer.modules())
    return next(one.memory for one in processors if isinstance(one, LTX2ReferenceAttnProcessor))


@contextmanager
def perturbed(transformer: Any, blocks: Sequence[int]) -> Iterator[None]:
    """While open, the self-attention of these blocks gives its values unmixed.

    diffusers perturbs only transformers that were made with `perturbed_attn` (LTX-2.3); others, LTX-2 among them, it
    leaves unperturbed without a word, and guidance by the difference is then guidance by nothing.
    """
    chosen = [transformer.transformer_blocks[index] for index in blocks]
    with _processors(_self_attentions(chosen), lambda old: LTX2ValueAttnProcessor()):
        yield
