"""Step `encode`: accepted pairs as latents and text features, computed once and packed in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from dubmill.artifacts import Backbone, LatentSet, Lineage, PairSet
from dubmill.backbone import Modules, load
from dubmill.codec import Latents, shape_of
from dubmill.codec import encode as encode_clips
from dubmill.conditioning import encode_captions
from dubmill.dubber import SPEAKER
from dubmill.errors import BadArtifact
from dubmill.masks import pixel_mask, token_mask, widen
from dubmill.params import EncodeParams
from dubmill.prompting import dub_caption
from dubmill.rows import PairRow
from dubmill.shapes import LatentShape
from dubmill.training import LATENTS

SIDES = ("original", "counterpart")


def encode(backbone: Backbone, pairs: PairSet, params: EncodeParams, out: Path) -> LatentSet:
    """Encode the accepted training pairs.

    Raises:
        BadArtifact: the pairs never passed the gate, or none was accepted.
    """
    lineage = Lineage(
        step="encode",
        params=params.model_dump(),
        inputs={"Backbone": backbone.digest, "PairSet": pairs.digest},
        backbone=backbone.digest,
        text_encoder=backbone.text_encoder_digest,
        licence=pairs.lineage.licence,
        pair_source=pairs.lineage.pair_source,
        consent=pairs.lineage.consent,
    )
    draft = LatentSet.draft(out, lineage)
    if draft.is_sealed:
        return draft.seal()
    rows = accepted(pairs)
    modules = load(backbone)
    first = pairs.clip(rows[0].id, "original")
    shape = shape_of(first, modules)
    draft.write(LATENTS, save(_tensors(pairs, rows, shape, params, modules)))
    info = {
        "num_pairs": len(rows),
        "latent_shape": {name: getattr(shape, name) for name in ("frames", "height", "width", "audio")},
        "frame_rate": float(first.frame_rate),
        "clip": clip_info(pairs, rows[0]),
        "languages": sorted({line.language for row in rows for line in (row.original, row.counterpart)}),
    }
    return draft.seal(info)


def accepted(pairs: PairSet) -> list[PairRow]:
    """The training rows that the gate accepted.

    Raises:
        BadArtifact: there are none, or the gate has not spoken.
    """
    if not pairs.info.get("gated"):
        raise BadArtifact(
            "these pairs never passed the gate", where=str(pairs.path), cure="run the step gate on them first"
        )
    rows = [row for row in pairs.split("train") if row.accepted]
    if not rows:
        raise BadArtifact("no training pair was accepted", where=str(pairs.path), cure="see gate.html for the reasons")
    return rows


def clip_info(pairs: PairSet, row: PairRow) -> dict[str, int | str]:
    """The size that an adapter trained on these pairs dubs."""
    clip = pairs.clip(row.id, "original")
    frames, height, width, _ = clip.frames_FHWC.shape
    rate = f"{clip.frame_rate.numerator}/{clip.frame_rate.denominator}"
    return {
        "num_frames": frames,
        "height": height,
        "width": width,
        "frame_rate": rate,
        "sample_rate_hz": clip.sample_rate_hz,
    }


def _tensors(
    pairs: PairSet, rows: list[PairRow], shape: LatentShape, params: EncodeParams, modules: Modules
) -> dict[str, torch.Tensor]:
    sides = [_encode_side(pairs, rows, side, params.batch_size, modules) for side in SIDES]
    captions = [dub_caption(SPEAKER, getattr(row, side)) for row in rows for side in SIDES]
    text = [encode_captions(captions[i : i + 64], modules) for i in range(0, len(captions), 64)]
    text.append(encode_captions([""], modules))
    tensors = {
        "video": torch.stack([side.video_BSD for side in sides], dim=1),
        "audio": torch.stack([side.audio_BLD for side in sides], dim=1),
        "face": torch.stack([_face(pairs, row, shape, params, modules) for row in rows]),
        "text_video": torch.cat([one.video_BTD for one in text]),
        "text_audio": torch.cat([one.audio_BTD for one in text]),
        "text_mask": torch.cat([one.mask_BT for one in text]),
    }
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _encode_side(pairs: PairSet, rows: list[PairRow], side: str, batch_size: int, modules: Modules) -> Latents:
    batches = [
        encode_clips([pairs.clip(row.id, side) for row in batch], modules) for batch in pairs.batches(rows, batch_size)
    ]
    return Latents(torch.cat([one.video_BSD for one in batches]), torch.cat([one.audio_BLD for one in batches]))


def _face(pairs: PairSet, row: PairRow, shape: LatentShape, params: EncodeParams, modules: Modules) -> torch.Tensor:
    """Loss region (S,): 1 on tokens that the widened mouth box touches."""
    height, width = shape.height * modules.geometry.spatial, shape.width * modules.geometry.spatial
    boxes_F4 = widen(np.asarray(row.mouth_boxes), params.face_margin, height, width)
    return torch.from_numpy(token_mask(pixel_mask(boxes_F4, height, width), shape, modules.geometry.temporal)).float()
