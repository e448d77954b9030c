"""Step `encode`: accepted pairs as latents and text features, computed once and packed in one file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from dubmill.artifacts.draft import Draft
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import PairRow
from dubmill.artifacts.store import Backbone, LatentSet, PairSet
from dubmill.artifacts.tensor_files import RowPlace, merge_rows, num_rows
from dubmill.config.params import EncodeParams
from dubmill.errors import InvalidArtifactError
from dubmill.generation.codec import encode_clips, shape_of
from dubmill.generation.masks import pixel_mask, token_mask, widen
from dubmill.media.clips import Clip
from dubmill.model.load import Modules, load
from dubmill.model.shapes import LatentShape
from dubmill.model.text import caption_batches
from dubmill.prompting import dub_caption
from dubmill.training.batches import LATENTS
from dubmill.worlds import world_of

logger = logging.getLogger(__name__)

SIDES = ("original", "counterpart")
PAIR_COLUMNS, TEXT_COLUMNS = ("video", "audio", "face"), ("text_video", "text_audio", "text_mask")
PAIR_SHARD, CAPTION_SHARD = "pairs-{:05d}.safetensors", "captions-{:05d}.safetensors"  # until they are merged


def encode(backbone: Backbone, pairs: PairSet, params: EncodeParams, out: Path) -> LatentSet:
    """Encode the accepted training pairs; a rerun continues after the last whole shard.

    Captions come first, then clips, so that the text encoder and the autoencoders are never in memory together; each
    batch is written as it comes, and at the end all of them are merged in one file that training maps into memory.

    Raises:
        InvalidArtifactError: the pairs never passed the gate, none was accepted, a clip differs from the others in size
            or rate, or not every pair was encoded. No pair is left out silently: the count that goes in comes out.
    """
    draft = LatentSet.draft(out, Lineage.of("encode", params, backbone, pairs))
    if draft.is_sealed:
        return draft.seal()
    rows = accepted(pairs)
    first = pairs.clip(rows[0].id, SIDES[0])
    shape = shape_of(first, load(backbone, needed=[]))
    if not draft.has_file(LATENTS):
        columns = _encode_captions(draft, rows, backbone) | _encode_pairs(draft, pairs, rows, shape, params, backbone)
        reconcile({name: len(places) for name, places in columns.items()}, len(rows))
        draft.write(LATENTS, merge_rows(columns))
    for shard in draft.path.glob("*-*.safetensors"):  # they are in the one file now
        shard.unlink()
    info = {
        "num_pairs": len(rows),
        "latent_shape": {name: getattr(shape, name) for name in ("frames", "height", "width", "audio")},
        "frame_rate": float(first.frame_rate),
        "clip": clip_info(first),
        "languages": sorted({line.language for row in rows for line in (row.original, row.counterpart)}),
    }
    return draft.seal(info)


def _encode_captions(draft: Draft[LatentSet], rows: list[PairRow], backbone: Backbone) -> dict[str, list[RowPlace]]:
    """Returns the stored places of the text features: of both captions of each pair, then of the empty caption."""
    world = world_of(backbone)
    captions = [dub_caption(world.caption_speaker(row.speaker), getattr(row, side)) for row in rows for side in SIDES]
    captions.append("")
    unique = list(dict.fromkeys(captions))
    places: list[RowPlace] = []
    shards = _shards(draft, CAPTION_SHARD)
    for path in shards:
        places += [(path, row) for row in range(num_rows(path, TEXT_COLUMNS[0]))]
    if len(places) < len(unique):
        modules = load(backbone, needed=["text_encoder", "connectors"])
        for index, text in enumerate(caption_batches(unique[len(places) :], modules), start=len(shards)):
            tensors = dict(zip(TEXT_COLUMNS, (text.video_BTD, text.audio_BTD, text.mask_BT), strict=True))
            path = draft.write(CAPTION_SHARD.format(index), _tensor_bytes(tensors))
            places += [(path, row) for row in range(len(text))]
            logger.info("encoded %d of %d captions", len(places), len(unique))
    place_of = dict(zip(unique, places, strict=True))
    return {name: [place_of[caption] for caption in captions] for name in TEXT_COLUMNS}


def _encode_pairs(
    draft: Draft[LatentSet],
    pairs: PairSet,
    rows: list[PairRow],
    shape: LatentShape,
    params: EncodeParams,
    backbone: Backbone,
) -> dict[str, list[RowPlace]]:
    """Returns the stored places of the latents of each pair."""
    batches = list(pairs.batches(rows, params.batch_size))
    missing = [index for index in range(len(batches)) if not draft.has_file(PAIR_SHARD.format(index))]
    if missing:
        modules, first = load(backbone, needed=["vae", "audio_vae"]), pairs.clip(rows[0].id, SIDES[0])
        for index in missing:
            tensors = _encode_batch(pairs, batches[index], first, shape, params, modules)
            draft.write(PAIR_SHARD.format(index), _tensor_bytes(tensors))
            logger.info("encoded shard %d of %d", index + 1, len(batches))
    paths = _shards(draft, PAIR_SHARD)
    places = [(path, row) for path in paths for row in range(num_rows(path, PAIR_COLUMNS[0]))]
    return dict.fromkeys(PAIR_COLUMNS, places)


def _shards(draft: Draft[LatentSet], pattern: str) -> list[Path]:
    """Returns the existing shards of one kind, in order; numbers are never skipped."""
    return sorted(draft.path.glob(pattern.replace("{:05d}", "*")))


def _tensor_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def _encode_batch(
    pairs: PairSet, batch: list[PairRow], first: Clip, shape: LatentShape, params: EncodeParams, modules: Modules
) -> dict[str, torch.Tensor]:
    sides = [
        encode_clips([check_size(first, pairs.clip(row.id, side), f"{row.id}, {side}") for row in batch], modules)
        for side in SIDES
    ]
    tensors = {
        "video": torch.stack([side.video_BSD for side in sides], dim=1),
        "audio": torch.stack([side.audio_BLD for side in sides], dim=1),
        "face": torch.stack([_face(row, shape, params, modules) for row in batch]),
    }
    check_finite(tensors, [row.id for row in batch])
    return tensors


def accepted(pairs: PairSet) -> list[PairRow]:
    """Returns the training rows that the gate accepted.

    Raises:
        InvalidArtifactError: there are none, or the gate has not judged them.
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


def clip_info(clip: Clip) -> dict[str, int | str]:
    """Returns the size that an adapter trained on such clips dubs."""
    frames, height, width, _ = clip.frames_FHWC.shape
    rate = f"{clip.frame_rate.numerator}/{clip.frame_rate.denominator}"
    return {
        "num_frames": frames,
        "height": height,
        "width": width,
        "frame_rate": rate,
        "sample_rate_hz": clip.sample_rate_hz,
    }


def check_size(first: Clip, clip: Clip, where: str) -> Clip:
    """Returns `clip`, which has the size and rates of `first` and sound for all of its picture.

    Raises:
        InvalidArtifactError: it has not; it would be cut, padded or left out silently.
    """
    sizes = [(one.frames_FHWC.shape[:3], one.frame_rate, one.sample_rate_hz) for one in (first, clip)]
    if sizes[0] != sizes[1]:
        what = f"frames, sides and rates are {sizes[1]}, those of the first clip {sizes[0]}"
        raise InvalidArtifactError(what, where=where, cure="make the pairs again, in one size")
    heard_seconds = clip.audio_CN.shape[1] / clip.sample_rate_hz
    if heard_seconds < clip.seconds - 1 / clip.frame_rate:
        what = f"the sound lasts {heard_seconds:.2f} s, the picture {clip.seconds:.2f} s"
        raise InvalidArtifactError(what, where=where, cure="make the pair again")
    return clip


def reconcile(counts: dict[str, int], num_pairs: int) -> None:
    """Compare the rows of every column with the accepted pairs, so that a training never runs on fewer.

    Raises:
        InvalidArtifactError: a column has another number of rows than there are pairs.
    """
    expected = dict.fromkeys(PAIR_COLUMNS, num_pairs) | dict.fromkeys(TEXT_COLUMNS, 2 * num_pairs + 1)
    wrong = [f"{name} {counts[name]} of {expected[name]}" for name in expected if counts[name] != expected[name]]
    if wrong:
        raise InvalidArtifactError(
            f"not every accepted pair was encoded ({', '.join(wrong)})", cure="this is a fault of dubmill: report it"
        )


def check_finite(tensors: dict[str, torch.Tensor], ids: list[str]) -> None:
    """Refuse latents with numbers that are not finite.

    Raises:
        InvalidArtifactError: there are some; the sentence names the first pair.
    """
    broken = [ids[row] for name in ("video", "audio") for row in _rows_not_finite(tensors[name])]
    if broken:
        what = f"{len(broken)} latents are not finite, the first of pair {broken[0]}"
        raise InvalidArtifactError(what, cure="look at that pair; a VAE in half precision may overflow")


def _rows_not_finite(column: torch.Tensor) -> list[int]:
    return (~column.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()


def _face(row: PairRow, shape: LatentShape, params: EncodeParams, modules: Modules) -> torch.Tensor:
    """Returns the loss region (S,): 1 on tokens that the widened mouth box touches."""
    height, width = shape.height * modules.geometry.spatial, shape.width * modules.geometry.spatial
    boxes_F4 = widen(np.asarray(row.mouth_boxes), params.face_margin, height, width)
    return torch.from_numpy(token_mask(pixel_mask(boxes_F4, height, width), shape, modules.geometry.temporal)).float()
