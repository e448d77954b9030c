"""Step `dub`: held-out clips dubbed by the adapter, by the base alone, and by a cascade."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from dubmill.artifacts.draft import ALL_SHARDS, Draft, ShardSlice
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import DubRow, PairRow
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import Adapter, Backbone, DubSet, PairSet
from dubmill.config.params import DubParams
from dubmill.dubbing.dubber import Dubber
from dubmill.errors import InvalidArtifactError
from dubmill.generation.codec import round_trip, shape_of
from dubmill.generation.seeds import item_seed
from dubmill.media.clips import Clip
from dubmill.model.load import Modules, load

logger = logging.getLogger(__name__)


def dub(
    backbone: Backbone,
    adapter: Adapter,
    pairs: PairSet,
    params: DubParams,
    out: Path,
    *,
    shard_slice: ShardSlice = ALL_SHARDS,
) -> DubSet | Draft[DubSet]:
    """Dub every held-out original into its counterpart's words by each of `params.methods`.

    The base alone is given the same references as the adapter. The cascade lays the counterpart's speech, the best that
    any voice could say, under the untouched picture. A task with a part of the shards leaves them in the draft, unsealed.

    Raises:
        InvalidArtifactError: there is no held-out pair.
        BackboneMismatchError: the adapter belongs to another backbone.
    """
    lineage = Lineage.of("dub", params, backbone, adapter, pairs)
    draft = DubSet.draft(out, lineage, is_shared=not shard_slice.is_all)
    if draft.is_sealed:
        return draft.seal()
    rows = pairs.split("heldout")
    if not rows:
        raise InvalidArtifactError("no held-out pair to dub", where=str(pairs.path), cure="raise prompts.num_heldout")
    shards = [(method, batch) for method in params.methods for batch in pairs.batches(rows, params.batch_size)]
    todo = draft.missing(len(shards), shard_slice)
    modules = load(backbone) if any(shards[index][0] != "cascade" for index in todo) else None
    for method in params.methods:
        mine = [index for index in todo if shards[index][0] == method]
        dubber = _dubber(method, backbone, adapter, params, modules) if mine else None
        for index in mine:
            draft.add_shard(index, *_dub_batch(method, dubber, pairs, shards[index][1], params))
            logger.info("dubbed shard %d of %d by %s", index + 1, len(shards), method)
    if not shard_slice.is_all:
        return draft
    methods = list(params.methods)
    return draft.seal({"methods": methods, "num_clips": len(rows), "has_round_trips": "adapter" in methods})


def _dubber(
    method: str, backbone: Backbone, adapter: Adapter, params: DubParams, modules: Modules | None
) -> Dubber | None:
    """A method's dubber; all of them share `modules`, so that one backbone is in memory, and switch its adapters."""
    if method == "cascade":
        return None
    chosen = adapter if method == "adapter" else None
    return Dubber.load(backbone, chosen, strength=params.adapter_strength, sampling=params.sampling, modules=modules)


def _dub_batch(
    method: str, dubber: Dubber | None, pairs: PairSet, batch: list[PairRow], params: DubParams
) -> tuple[list[DubRow], dict[str, bytes]]:
    seeds = [item_seed(params.seed, row.seed) for row in batch]
    rows = [
        DubRow(id=f"{row.id}-{method}", pair_id=row.id, method=method, line=row.counterpart, seed=seed)
        for row, seed in zip(batch, seeds, strict=True)
    ]
    originals = [pairs.clip(row.id, "original") for row in batch]
    clips = (
        _cascade(pairs, batch, originals)
        if dubber is None
        else dubber.dub_batch(originals, [r.line for r in rows], seeds)
    )
    files = {}
    for row, clip in zip(rows, clips, strict=True):
        files |= clip_members(f"{row.id}/dub", clip)
    if method == "adapter" and dubber is not None:
        files |= _round_trips(rows, originals, dubber.modules)
    return rows, files


def _round_trips(rows: list[DubRow], originals: list[Clip], modules: Modules) -> dict[str, bytes]:
    """Each source through the video VAE and back, made here where the VAE is loaded: what a dub's picture is held to."""
    frames_BFHWC = np.stack([clip.frames_FHWC for clip in originals])
    trips = round_trip(frames_BFHWC, shape_of(originals[0], modules), modules)
    clips = [replace(clip, frames_FHWC=trip) for clip, trip in zip(originals, trips, strict=True)]
    return {f"{row.id}/round-trip.clip": clip.to_bytes() for row, clip in zip(rows, clips, strict=True)}


def _cascade(pairs: PairSet, batch: list[PairRow], originals: list[Clip]) -> list[Clip]:
    speech = [pairs.clip(row.id, "counterpart") for row in batch]
    return [original.with_audio(said.audio_CN) for original, said in zip(originals, speech, strict=True)]
