"""What makes it dubbing: reference tokens, where they stand in time, and what may see what.

Every sequence is [target | reference]: the noisy clip first, then the clean source clip, if there is one. Target and
reference share positions, so that the model reads a reference token as "the same place, before". The reference audio
may instead stand before time zero (`negative`), as in Dub-It's release; train and inference must agree.

Axes: B batch, S video tokens, L audio tokens, D numbers per token, T text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dubmill.backbone import Modules
from dubmill.codec import Latents
from dubmill.shapes import LatentShape


@dataclass(frozen=True)
class TextFeatures:
    """Captions as the transformer's cross-attention reads them."""

    video_BTD: torch.Tensor
    audio_BTD: torch.Tensor
    mask_BT: torch.Tensor

    def __len__(self) -> int:
        return len(self.mask_BT)

    def join(self, other: TextFeatures) -> TextFeatures:
        """Both batches in one, `self` first."""
        return TextFeatures(
            torch.cat([self.video_BTD, other.video_BTD]),
            torch.cat([self.audio_BTD, other.audio_BTD]),
            torch.cat([self.mask_BT, other.mask_BT]),
        )

    def pick(self, index: torch.Tensor | Sequence[int]) -> TextFeatures:
        """The rows of `index`, which may repeat."""
        rows = torch.as_tensor(index)
        return TextFeatures(self.video_BTD[rows], self.audio_BTD[rows], self.mask_BT[rows])


@torch.no_grad()
def encode_captions(captions: Sequence[str], modules: Modules) -> TextFeatures:
    """Text features of captions: all hidden states of the text encoder, through the connectors."""
    tokens = modules.tokenizer(
        [caption.strip() for caption in captions],
        padding="max_length",
        padding_side="left",
        max_length=modules.max_text_tokens,
        truncation=True,
        return_tensors="pt",
    ).to(modules.device)
    states = modules.text_encoder(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
    ).hidden_states
    stacked = torch.stack(states, dim=-1).flatten(2).to(modules.dtype)
    return TextFeatures(*modules.connectors(stacked, tokens.attention_mask, padding_side="left"))


@dataclass(frozen=True)
class Layout:
    """Where every token of one clip size stands, and how many of them are the target's."""

    shape: LatentShape
    video_coords: torch.Tensor  # (1, 3, S, 2): start and end in seconds, rows and columns
    audio_coords: torch.Tensor  # (1, 1, L, 2): start and end in seconds
    isolate: bool

    @property
    def num_video(self) -> int:
        """Video tokens of the target."""
        return self.shape.video_tokens

    @property
    def num_audio(self) -> int:
        """Audio tokens of the target."""
        return self.shape.audio

    @property
    def has_reference(self) -> bool:
        """Whether a reference clip follows the target."""
        return self.video_coords.shape[2] > self.num_video


def layout(
    shape: LatentShape, frame_rate: float, modules: Modules, *, reference: str = "none", isolate: bool = False
) -> Layout:
    """The layout of a target of `shape`, with no reference, or one at `shared` or `negative` audio positions."""
    assert reference in ("none", "shared", "negative"), reference
    transformer, device = modules.transformer, modules.device
    video = transformer.rope.prepare_video_coords(1, shape.frames, shape.height, shape.width, device, fps=frame_rate)
    audio = transformer.audio_rope.prepare_audio_coords(1, shape.audio, device)
    if reference == "none":
        return Layout(shape, video, audio, isolate=False)
    earlier = (
        audio - (audio.max() + 1 / modules.geometry.audio_latents_per_second) if reference == "negative" else audio
    )
    return Layout(shape, torch.cat([video, video], dim=2), torch.cat([audio, earlier], dim=2), isolate)


def append(target: Latents, reference: Latents | None) -> Latents:
    """Target tokens followed by the reference's, if there is one."""
    if reference is None:
        return target
    return Latents(
        torch.cat([target.video_BSD, reference.video_BSD], dim=1),
        torch.cat([target.audio_BLD, reference.audio_BLD], dim=1),
    )


def predict(
    transformer: Any,
    tokens: Latents,
    sigma_video_BS: torch.Tensor,
    sigma_audio_BL: torch.Tensor,
    text: TextFeatures,
    where: Layout,
) -> Latents:
    """Velocity (noise - clean) of the target tokens; a token at sigma 0 is given clean."""
    batch = len(text)
    video, audio = transformer(
        hidden_states=tokens.video_BSD.to(transformer.dtype),
        audio_hidden_states=tokens.audio_BLD.to(transformer.dtype),
        encoder_hidden_states=text.video_BTD,
        audio_encoder_hidden_states=text.audio_BTD,
        timestep=sigma_video_BS * 1000,
        audio_timestep=sigma_audio_BL * 1000,
        sigma=sigma_video_BS.amax(dim=1) * 1000,
        audio_sigma=sigma_audio_BL.amax(dim=1) * 1000,
        encoder_attention_mask=text.mask_BT,
        audio_encoder_attention_mask=text.mask_BT,
        video_coords=where.video_coords.expand(batch, -1, -1, -1),
        audio_coords=where.audio_coords.expand(batch, -1, -1, -1),
        return_dict=False,
    )
    return Latents(video[:, : where.num_video].float(), audio[:, : where.num_audio].float())


@contextmanager
def isolated(transformer: Any, where: Layout) -> Iterator[None]:
    """While open, only noisy video and noisy audio see each other across modalities (paper, eq. 2).

    The source's sound never reaches the new picture, nor its lips the new sound. Reference keys are masked with -inf;
    the rows of reference queries, which would have no key left, are computed unmasked and then set to zero, since a
    fully masked row is undefined in some attention kernels and uniform attention under a finite mask.
    """
    if not (where.isolate and where.has_reference):
        yield
        return
    num_all_video, num_all_audio = where.video_coords.shape[2], where.audio_coords.shape[2]
    handles = []
    for block in transformer.transformer_blocks:
        for attention, queries, keys, all_queries, all_keys in (
            (block.audio_to_video_attn, where.num_video, where.num_audio, num_all_video, num_all_audio),
            (block.video_to_audio_attn, where.num_audio, where.num_video, num_all_audio, num_all_video),
        ):
            mask = isolation_mask(queries, keys, all_queries, all_keys).to(where.video_coords.device)
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
