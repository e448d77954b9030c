"""What makes it dubbing: reference tokens, where they stand in time, and what may see what.

The noisy clip is the target, the clean source clip its reference. They share positions, so that the model reads a
reference token as "the same place, before". The reference audio may instead stand before time zero (`negative`), as in
Dub-It's release; train and inference must agree.

A reference is read in one of two ways, and here too train and inference must agree:
- `full`: one sequence [target | reference]; every token attends to every token of its modality.
- `self`: reference tokens attend to themselves alone, at sigma 0, under the empty caption, and meet neither the target
  nor the other modality. Nothing of them depends on the step, the caption or the guidance, so they go through the
  transformer once (`cache_reference`); their keys and values wait in each layer for the target's queries.

Axes: B batch, S video tokens, L audio tokens, D numbers per token, T text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dubmill.model.attention import memory, with_isolation, with_reference_cache
from dubmill.model.latents import Latents

if TYPE_CHECKING:
    from dubmill.model.shapes import LatentShape


@dataclass(frozen=True)
class TextFeatures:
    """Captions as the transformer's cross-attention reads them."""

    video_BTD: torch.Tensor
    audio_BTD: torch.Tensor
    mask_BT: torch.Tensor

    def __len__(self) -> int:
        return len(self.mask_BT)

    def pick(self, index: torch.Tensor | Sequence[int]) -> TextFeatures:
        """The rows of `index`, which may repeat."""
        rows = torch.as_tensor(index)
        return TextFeatures(self.video_BTD[rows], self.audio_BTD[rows], self.mask_BT[rows])

    def to(self, device: torch.device) -> TextFeatures:
        """The same features on a device."""
        return TextFeatures(self.video_BTD.to(device), self.audio_BTD.to(device), self.mask_BT.to(device))


@torch.no_grad()
def encode_captions(captions: Sequence[str], modules: Any) -> TextFeatures:
    """Text features of captions by a backbone's `Modules`: all hidden states of the encoder, through the connectors."""
    tokens = modules.tokenizer(
        [caption.strip() for caption in captions],
        padding="max_length",
        padding_side="left",
        max_length=modules.max_text_tokens,
        truncation=True,
        return_tensors="pt",
    ).to(modules.text_encoder.device)
    states = modules.text_encoder(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
    ).hidden_states
    stacked = torch.stack(states, dim=-1).flatten(2).to(modules.device, modules.dtype)
    return TextFeatures(*modules.connectors(stacked, tokens.attention_mask.to(modules.device), padding_side="left"))


@dataclass(frozen=True)
class SequenceLayout:
    """Where the tokens of one clip size stand, target and reference, and how the reference is read."""

    video_coords: torch.Tensor  # (1, 3, S, 2): start and end in seconds, rows and columns
    audio_coords: torch.Tensor  # (1, 1, L, 2): start and end in seconds
    reference_video_coords: torch.Tensor  # as above; no tokens where there is no reference
    reference_audio_coords: torch.Tensor
    isolate: bool
    attention: str  # full | self
    dtype: torch.dtype  # of the transformer, which takes its time to tell
    use_cross_timestep: bool  # LTX-2.3: a modality's noise level modulates what crosses into the other

    @property
    def num_video(self) -> int:
        """Video tokens of the target."""
        return self.video_coords.shape[2]

    @property
    def num_audio(self) -> int:
        """Audio tokens of the target."""
        return self.audio_coords.shape[2]

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference clip."""
        return self.reference_video_coords.shape[2] > 0

    @property
    def is_appended(self) -> bool:
        """Whether the reference's tokens follow the target's in its own sequence."""
        return self.has_reference and self.attention == "full"

    @property
    def is_cached(self) -> bool:
        """Whether the reference waits in the layers."""
        return self.has_reference and self.attention == "self"


def sequence_layout(
    shape: LatentShape,
    frame_rate: float,
    modules: Any,
    *,
    reference: str = "none",
    isolate: bool = False,
    attention: str = "full",
) -> SequenceLayout:
    """The layout of a target of `shape`, with no reference, or one at `shared` or `negative` audio positions.

    `modules` is whatever holds the `transformer`: `Modules` or a pipeline.
    """
    assert reference in ("none", "shared", "negative"), reference
    assert attention == "full" or isolate, "a reference that attends to itself alone is isolated"
    transformer = modules.transformer
    device, audio_rope = transformer.device, transformer.audio_rope
    video = transformer.rope.prepare_video_coords(1, shape.frames, shape.height, shape.width, device, fps=frame_rate)
    audio = audio_rope.prepare_audio_coords(1, shape.audio, device)
    earlier = audio - (audio.max() + 1 / audio_rope.audio_latents_per_second) if reference == "negative" else audio
    count = 0 if reference == "none" else None
    return SequenceLayout(
        video_coords=video,
        audio_coords=audio,
        reference_video_coords=video[:, :, :count],
        reference_audio_coords=earlier[:, :, :count],
        isolate=isolate,
        attention=attention,
        dtype=transformer.dtype,
        use_cross_timestep=bool(transformer.prompt_modulation),
    )


def predict(
    transformer: Any,
    target: Latents,
    reference: Latents | None,
    sigma_video_BS: torch.Tensor,
    sigma_audio_BL: torch.Tensor,
    text: TextFeatures,
    layout: SequenceLayout,
    *,
    is_mute: bool = False,
) -> Latents:
    """Velocity (noise - clean) of the target tokens; a token at sigma 0 is given clean, as the reference always is.

    Run it inside `patched_attention`. Under `self` attention the reference is the one last given to `cache_reference`.
    `is_mute`: picture and sound are predicted without each other, for modality guidance.
    """
    video_coords, audio_coords = layout.video_coords, layout.audio_coords
    if layout.is_appended:
        target = Latents(
            torch.cat([target.video_BSD, reference.video_BSD], dim=1),
            torch.cat([target.audio_BLD, reference.audio_BLD], dim=1),
        )
        sigma_video_BS = _pad(sigma_video_BS, target.video_BSD.shape[1])
        sigma_audio_BL = _pad(sigma_audio_BL, target.audio_BLD.shape[1])
        video_coords = torch.cat([video_coords, layout.reference_video_coords], dim=2)
        audio_coords = torch.cat([audio_coords, layout.reference_audio_coords], dim=2)
    sigmas, coords = (sigma_video_BS, sigma_audio_BL), (video_coords, audio_coords)
    made = _forward(transformer, target, sigmas, text, coords, layout, is_mute=is_mute)
    return Latents(made.video_BSD[:, : layout.num_video].float(), made.audio_BLD[:, : layout.num_audio].float())


def cache_reference(transformer: Any, reference: Latents | None, empty: TextFeatures, layout: SequenceLayout) -> None:
    """Send the reference through the transformer for its keys and values, under the empty caption of the same batch.

    They stay in the layers until the next call or the end of `patched_attention`. Under `full` attention there is nothing to do.
    """
    if not layout.is_cached:
        return
    batch, device = len(reference), reference.video_BSD.device
    sigmas = tuple(
        torch.zeros(batch, tokens.shape[1], device=device) for tokens in (reference.video_BSD, reference.audio_BLD)
    )
    coords = (layout.reference_video_coords, layout.reference_audio_coords)
    with memory(transformer).recording(True):
        _forward(transformer, reference, sigmas, empty, coords, layout, is_mute=True)


def _pad(sigma_BS: torch.Tensor, count: int) -> torch.Tensor:
    """Sigmas with those of the clean reference, zero, behind them: `count` in all."""
    return torch.cat([sigma_BS, sigma_BS.new_zeros(len(sigma_BS), count - sigma_BS.shape[1])], dim=1)


def _forward(
    transformer: Any,
    tokens: Latents,
    sigmas: tuple[torch.Tensor, torch.Tensor],
    text: TextFeatures,
    coords: tuple[torch.Tensor, torch.Tensor],
    layout: SequenceLayout,
    *,
    is_mute: bool,
) -> Latents:
    batch = len(text)
    video, audio = transformer(
        hidden_states=tokens.video_BSD.to(layout.dtype),
        audio_hidden_states=tokens.audio_BLD.to(layout.dtype),
        encoder_hidden_states=text.video_BTD,
        audio_encoder_hidden_states=text.audio_BTD,
        timestep=sigmas[0] * 1000,
        audio_timestep=sigmas[1] * 1000,
        sigma=sigmas[0].amax(dim=1) * 1000,
        audio_sigma=sigmas[1].amax(dim=1) * 1000,
        encoder_attention_mask=text.mask_BT,
        audio_encoder_attention_mask=text.mask_BT,
        video_coords=coords[0].expand(batch, -1, -1, -1),
        audio_coords=coords[1].expand(batch, -1, -1, -1),
        isolate_modalities=is_mute,
        use_cross_timestep=layout.use_cross_timestep,
        return_dict=False,
    )
    return Latents(video, audio)


@contextmanager
def patched_attention(transformer: Any, layout: SequenceLayout) -> Iterator[None]:
    """While open, the reference is read as `layout` says: the one place that touches the transformer's layers."""
    with ExitStack() as stack:
        if layout.is_cached:
            stack.enter_context(with_reference_cache(transformer))
        elif layout.has_reference and layout.isolate:
            num_reference = (layout.reference_video_coords.shape[2], layout.reference_audio_coords.shape[2])
            stack.enter_context(with_isolation(transformer, (layout.num_video, layout.num_audio), num_reference))
        yield
