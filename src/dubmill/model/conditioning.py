"""Reference conditioning (IC-LoRA): the positions of reference tokens, and what attends to what.

The target is the clip being denoised, the reference the clean source clip. Both have the same positions, so the model
reads a reference token as "the same place, before the dub". The reference audio may instead have positions before time
zero (`negative`), as in Dub-It's release. Training and inference must agree.

A reference is read in one of two ways; here too training and inference must agree:
- `full`: one sequence [target | reference]; every token attends to every token of its modality.
- `self`: reference tokens attend to themselves alone, at sigma 0, under the empty caption, and never to the other
  modality. So they depend on neither step, caption nor guidance: they pass through the transformer once
  (`cache_reference`), and each layer keeps their keys and values in a KV cache for the target's queries.

Axes: B batch, S video tokens, L audio tokens, D numbers per token.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dubmill.model.attention import isolated_modalities, kv_cache_of, reference_kv_cache
from dubmill.model.latents import Latents

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel

    from dubmill.model.shapes import LatentShape
    from dubmill.model.text import TextFeatures


@dataclass(frozen=True)
class ReferenceMode:
    """How reference tokens are read; an adapter has to be used in the mode that it was trained in."""

    positions: str  # of the reference audio: shared | negative
    attention: str  # full | self
    isolate_modalities: bool  # whether the isolation mask is on


@dataclass(frozen=True)
class SequenceLayout:
    """Positions of the target's and the reference's tokens for one clip size, and how the reference is read."""

    video_coords: torch.Tensor  # (1, 3, S, 2): start and end in seconds, rows and columns
    audio_coords: torch.Tensor  # (1, 1, L, 2): start and end in seconds
    reference_video_coords: torch.Tensor  # as above; no tokens if there is no reference
    reference_audio_coords: torch.Tensor
    isolate: bool
    attention: str  # full | self
    dtype: torch.dtype  # the transformer's; a property lookup on its 19 B parameters is slow
    use_cross_timestep: bool  # LTX-2.3: a modality's noise level modulates what it gives to the other

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
        """Whether the reference's tokens follow the target's in one sequence."""
        return self.has_reference and self.attention == "full"

    @property
    def is_cached(self) -> bool:
        """Whether the reference is read from the KV cache."""
        return self.has_reference and self.attention == "self"


def sequence_layout(
    shape: LatentShape,
    frame_rate: float,
    transformer: LTX2VideoTransformer3DModel,
    *,
    reference: str = "none",
    isolate: bool = False,
    attention: str = "full",
) -> SequenceLayout:
    """Returns the layout of a target of `shape`, with no reference, or one at `shared` or `negative` audio positions."""
    assert reference in ("none", "shared", "negative"), reference
    assert attention == "full" or isolate, "a reference that attends to itself alone is isolated"
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
    transformer: LTX2VideoTransformer3DModel,
    target: Latents,
    reference: Latents | None,
    sigma_video_BS: torch.Tensor,
    sigma_audio_BL: torch.Tensor,
    text: TextFeatures,
    layout: SequenceLayout,
    *,
    is_unimodal: bool = False,
) -> Latents:
    """Returns the velocity (noise - clean) of the target's tokens in float32.

    A token at sigma 0 is a clean conditioning token, as the reference's always are. Call it inside `patched_attention`.
    With `self` attention the reference is the one last given to `cache_reference`.
    `is_unimodal`: video and audio are predicted without attention to each other, for modality guidance.
    """
    tokens, coords = target, (layout.video_coords, layout.audio_coords)
    if layout.is_appended:
        assert reference is not None, "this layout has a reference"
        tokens = Latents(
            torch.cat([target.video_BSD, reference.video_BSD], dim=1),
            torch.cat([target.audio_BLD, reference.audio_BLD], dim=1),
        )
        sigma_video_BS = _pad(sigma_video_BS, tokens.video_BSD.shape[1])
        sigma_audio_BL = _pad(sigma_audio_BL, tokens.audio_BLD.shape[1])
        coords = (
            torch.cat([coords[0], layout.reference_video_coords], dim=2),
            torch.cat([coords[1], layout.reference_audio_coords], dim=2),
        )
    sigmas = (sigma_video_BS, sigma_audio_BL)
    velocity = _forward(transformer, tokens, sigmas, text, coords, layout, is_unimodal=is_unimodal)
    return Latents(velocity.video_BSD[:, : layout.num_video].float(), velocity.audio_BLD[:, : layout.num_audio].float())


def cache_reference(
    transformer: LTX2VideoTransformer3DModel, reference: Latents, empty: TextFeatures, layout: SequenceLayout
) -> None:
    """Fills the KV cache with the reference, under the empty caption, if the layout reads the reference from there.

    `empty` has a row for each clip of the batch. The cache keeps the reference until the next call or the end of
    `patched_attention`.
    """
    if not layout.is_cached:
        return
    device = reference.video_BSD.device
    sigmas = (
        torch.zeros(reference.video_BSD.shape[:2], device=device),
        torch.zeros(reference.audio_BLD.shape[:2], device=device),
    )
    coords = (layout.reference_video_coords, layout.reference_audio_coords)
    with kv_cache_of(transformer).filling(True):
        _forward(transformer, reference, sigmas, empty, coords, layout, is_unimodal=True)


def _pad(sigma_BS: torch.Tensor, count: int) -> torch.Tensor:
    """Returns sigmas followed by zeros, those of the clean reference: `count` in all."""
    return torch.cat([sigma_BS, sigma_BS.new_zeros(len(sigma_BS), count - sigma_BS.shape[1])], dim=1)


def _forward(
    transformer: LTX2VideoTransformer3DModel,
    tokens: Latents,
    sigmas: tuple[torch.Tensor, torch.Tensor],
    text: TextFeatures,
    coords: tuple[torch.Tensor, torch.Tensor],
    layout: SequenceLayout,
    *,
    is_unimodal: bool,
) -> Latents:
    batch_size = len(text)
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
        video_coords=coords[0].expand(batch_size, -1, -1, -1),
        audio_coords=coords[1].expand(batch_size, -1, -1, -1),
        isolate_modalities=is_unimodal,
        use_cross_timestep=layout.use_cross_timestep,
        return_dict=False,
    )
    return Latents(video, audio)


def patched_attention(transformer: LTX2VideoTransformer3DModel, layout: SequenceLayout) -> AbstractContextManager[None]:
    """Returns a context manager inside which the transformer reads the reference as `layout` says."""
    if layout.is_cached:
        return reference_kv_cache(transformer)
    if layout.has_reference and layout.isolate:
        num_reference = (layout.reference_video_coords.shape[2], layout.reference_audio_coords.shape[2])
        return isolated_modalities(transformer, (layout.num_video, layout.num_audio), num_reference)
    return nullcontext()
