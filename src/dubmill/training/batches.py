"""Encoded pairs of a training, and the random batches that are sampled from them.

Axes: B batch, S video tokens, L audio tokens, D numbers per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors.torch import load_file

from dubmill.artifacts.store import LatentSet
from dubmill.config.training import TrainParams
from dubmill.model.latents import Latents
from dubmill.model.shapes import LatentShape
from dubmill.model.text import TextFeatures
from dubmill.training.sigmas import sample_sigmas

LATENTS = "latents.safetensors"


@dataclass(frozen=True)
class ValidationExample:
    """One training pair to dub during the training: the reference clip and the caption of its counterpart."""

    reference: Latents
    caption: TextFeatures  # one row
    empty: TextFeatures  # one row: the empty caption


@dataclass(frozen=True)
class Pairs:
    """Encoded pairs: side 0 is the original, side 1 the counterpart; P pairs."""

    video_P2SD: torch.Tensor
    audio_P2LD: torch.Tensor
    face_PS: torch.Tensor  # 1 on tokens of the face, 0 elsewhere
    text: TextFeatures  # rows 2p and 2p + 1: the caption of each side of pair p; the last row is the empty caption

    @classmethod
    def open(cls, latents: LatentSet) -> Pairs:
        """Returns the pairs of a sealed set."""
        tensors = load_file(latents.file(LATENTS))
        text = TextFeatures(tensors["text_video"], tensors["text_audio"], tensors["text_mask"])
        return cls(tensors["video"], tensors["audio"], tensors["face"], text)

    def validation_examples(self, count: int) -> list[ValidationExample]:
        """Returns the first pairs, at most `count`; the original is dubbed into its counterpart's words."""
        return [
            ValidationExample(
                Latents(self.video_P2SD[row : row + 1, 0], self.audio_P2LD[row : row + 1, 0]),
                self.text.pick([2 * row + 1]),
                self.text.pick([-1]),
            )
            for row in range(min(count, len(self.video_P2SD)))
        ]


@dataclass(frozen=True)
class Batch:
    """One batch with its noise and loss weights."""

    target: Latents
    reference: Latents
    text: TextFeatures
    empty: TextFeatures  # of the empty caption, under which a cached reference is read
    weight_video_BS: torch.Tensor
    weight_audio_BL: torch.Tensor
    sigma_video_BS: torch.Tensor
    sigma_audio_BL: torch.Tensor
    noise: Latents


def sample_batch(pairs: Pairs, shape: LatentShape, params: TrainParams, generator: torch.Generator) -> Batch:
    """Samples a batch: pairs, the direction of each, noise levels and noise, and which captions are dropped."""
    count = params.batch_size

    def chance(probability: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) < probability

    rows = torch.randint(len(pairs.video_P2SD), (count,), generator=generator)
    target_side = 1 - chance(params.reverse_probability).long()  # 1: the counterpart is the target
    sigma_video = sample_sigmas(params.sigma_sampler, count, shape.video_tokens, generator)
    sigma_audio = sigma_video
    if not params.shared_sigma:
        sigma_audio = sample_sigmas(params.sigma_sampler, count, shape.video_tokens, generator)
    is_clean = torch.zeros(count, shape.video_tokens, dtype=torch.bool)
    is_clean[:, : shape.height * shape.width] = chance(params.first_frame_probability)[:, None]
    empty = len(pairs.text) - 1
    caption = torch.where(chance(params.drop_caption_probability), empty, 2 * rows + target_side)
    face_BS = pairs.face_PS[rows]
    target = Latents(pairs.video_P2SD[rows, target_side], pairs.audio_P2LD[rows, target_side])
    return Batch(
        target=target,
        reference=Latents(pairs.video_P2SD[rows, 1 - target_side], pairs.audio_P2LD[rows, 1 - target_side]),
        text=pairs.text.pick(caption),
        empty=pairs.text.pick([empty] * count),
        weight_video_BS=(face_BS + (1 - face_BS) * params.background_weight) * ~is_clean,
        weight_audio_BL=torch.ones(count, shape.audio),
        sigma_video_BS=sigma_video[:, None] * ~is_clean,
        sigma_audio_BL=sigma_audio[:, None].expand(count, shape.audio),
        noise=Latents(
            torch.randn(target.video_BSD.shape, generator=generator),
            torch.randn(target.audio_BLD.shape, generator=generator),
        ),
    )
