"""Step `encode`: accepted pairs as latents and text features, computed once and packed in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import PairRow
from dubmill.artifacts.store import Backbone, LatentSet, PairSet
from dubmill.config.params import EncodeParams
from dubmill.dubbing.dubber import SPEAKER
from dubmill.errors import InvalidArtifactError
from dubmill.generation.codec import encode_clips, shape_of
from dubmill.generation.masks import pixel_mask, token_mask, widen
from dubmill.media.clips import Clip
from dubmill.model.latents import Latents
from dubmill.model.load import Modules, load
from dubmill.model.shapes import LatentShape
from dubmill.model.text import encode_captions
from dubmill.prompting import dub_caption
from dubmill.training.batches import LATENTS

SIDES = ("original", "counterpart")


def encode(backbone: Backbone, pairs: PairSet, params: EncodeParams, out: Path) -> LatentSet:
    """Encode the accepted training pairs.

    Raises:
        InvalidArtifactError: the pairs never passed the gate, none was accepted, a clip is not like the others, or not every
            pair came out. No pair is left out silently: the count that goes in comes out.
    """
    lineage = Lineage.of("encode", params, backbone, pairs)
    draft = LatentSet.draft(out, lineage)
    if draft.is_sealed:
        return draft.seal()
    rows = accepted(pairs)
    modules = load(backbone, needed=["vae", "audio_vae", "text_encoder", "connectors"])
    first = pairs.clip(rows[0].id, "original")
    shape = shape_of(first, modules)
    tensors = _tensors(pairs, rows, shape, params, modules)
    reconcile(tensors, [row.id for row in rows])
    draft.write(LATENTS, save(tensors))
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
        InvalidArtifactError: there are none, or the gate has not spoken.
    """
    if not pairs.info.get("gated"):
        raise InvalidArtifactError(
            "these pairs never passed the gate", where=str(pairs.path), cure="run the step gate on them first"
        )
    rows = [row for row in pairs.split("train") if row.accepted]
    if not rows:
        raise InvalidArtifactError(
            "no training pair was accepted", where=str(pairs.path), cure="see gate.html for the reasons"
        )
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
    first = pairs.clip(rows[0].id, SIDES[0])
    sides = [_encode_side(pairs, rows, side, first, params.batch_size, modules) for side in SIDES]
    captions = [dub_caption(SPEAKER, getattr(row, side)) for row in rows for side in SIDES]
    text = encode_captions([*captions, ""], modules)
    tensors = {
        "video": torch.stack([side.video_BSD for side in sides], dim=1),
        "audio": torch.stack([side.audio_BLD for side in sides], dim=1),
        "face": torch.stack([_face(pairs, row, shape, params, modules) for row in rows]),
        "text_video": text.video_BTD,
        "text_audio": text.audio_BTD,
        "text_mask": text.mask_BT,
    }
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _encode_side(
    pairs: PairSet, rows: list[PairRow], side: str, first: Clip, batch_size: int, modules: Modules
) -> Latents:
    batches = [
        encode_clips([like(first, pairs.clip(row.id, side), f"{row.id}, {side}") for row in batch], modules)
        for batch in pairs.batches(rows, batch_size)
    ]
    return Latents(torch.cat([one.video_BSD for one in batches]), torch.cat([one.audio_BLD for one in batches]))


def like(first: Clip, clip: Clip, where: str) -> Clip:
    """`clip`, which has the size and rates of `first` and sound for all of its picture.

    Raises:
        InvalidArtifactError: it has not; it would be cut, padded or left out without a word.
    """
    sizes = [(one.frames_FHWC.shape[:3], one.frame_rate, one.sample_rate_hz) for one in (first, clip)]
    if sizes[0] != sizes[1]:
        what = f"frames, sides and rates are {sizes[1]}, those of the first clip {sizes[0]}"
        raise InvalidArtifactError(what, where=where, cure="make the pairs anew, of one size")
    heard_seconds = clip.audio_CN.shape[1] / clip.sample_rate_hz
    if heard_seconds < clip.seconds - 1 / clip.frame_rate:
        what = f"the sound lasts {heard_seconds:.2f} s, the picture {clip.seconds:.2f} s"
        raise InvalidArtifactError(what, where=where, cure="make the pair anew")
    return clip


def reconcile(tensors: dict[str, torch.Tensor], ids: list[str]) -> None:
    """Hold every column against the accepted pairs, so that a training never runs on fewer, or on broken ones.

    Raises:
        InvalidArtifactError: a column has another number of rows than there are pairs, or numbers that are not finite.
    """
    expected = {"video": len(ids), "audio": len(ids), "face": len(ids)}
    expected |= dict.fromkeys(("text_video", "text_audio", "text_mask"), 2 * len(ids) + 1)
    counts = {name: len(tensors[name]) for name in expected}
    if counts != expected:
        off = ", ".join(
            f"{name} {counts[name]} of {wanted}" for name, wanted in expected.items() if counts[name] != wanted
        )
        raise InvalidArtifactError(
            f"not every accepted pair was encoded ({off})", cure="this is a fault of dubmill: report it"
        )
    broken = [ids[row] for name in ("video", "audio") for row in _rows_not_finite(tensors[name])]
    if broken:
        what = f"{len(broken)} latents are not finite, the first of pair {broken[0]}"
        raise InvalidArtifactError(what, cure="look at that pair; a VAE in half precision may overflow")


def _rows_not_finite(column: torch.Tensor) -> list[int]:
    return (~column.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()


def _face(pairs: PairSet, row: PairRow, shape: LatentShape, params: EncodeParams, modules: Modules) -> torch.Tensor:
    """Loss region (S,): 1 on tokens that the widened mouth box touches."""
    height, width = shape.height * modules.geometry.spatial, shape.width * modules.geometry.spatial
    boxes_F4 = widen(np.asarray(row.mouth_boxes), params.face_margin, height, width)
    return torch.from_numpy(token_mask(pixel_mask(boxes_F4, height, width), shape, modules.geometry.temporal)).float()
