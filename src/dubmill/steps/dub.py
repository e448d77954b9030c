"""Step `dub`: dubs held-out clips by the adapter, by the base without it, and by a cascade; also makes the ceiling."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from dubmill.artifacts.draft import ALL_SHARDS, Draft, ShardSlice
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import DubRow, PairRow
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import Adapter, Backbone, DubSet, PairSet
from dubmill.config.params import DubParams
from dubmill.dubbing.dubber import Dubber
from dubmill.errors import InvalidArtifactError, UnsupportedTextError
from dubmill.generation.codec import decode_clips, encode_clips, round_trip, shape_of
from dubmill.generation.seeds import item_seed
from dubmill.media.clips import Clip
from dubmill.model.load import Modules, load
from dubmill.worlds import World, fit_line, world_of

logger = logging.getLogger(__name__)

REFERENCE_METHODS = ("cascade", "ceiling")  # made from the counterpart, without sampling


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

    The base gets the same references as the adapter. The method `ceiling` is the counterpart after both autoencoders and
    the vocoder: the most that any dub can reach. The cascade is the ceiling's sound with the unchanged picture. A task with a part of the shards leaves them in the draft, unsealed.

    Raises:
        InvalidArtifactError: there is no held-out pair.
        UnsupportedTextError: none of them can be dubbed; a single one that cannot is left out and named in `info`.
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
    todo, dubbers = draft.missing(len(shards), shard_slice), _Dubbers(backbone, adapter, params)
    for index in todo:
        method, batch = shards[index]
        fitting, reasons = _fitting(pairs, batch, world_of(backbone))
        draft.leave_out(index, reasons)
        dubs, files = _dub_batch(method, dubbers, pairs, fitting, params) if fitting else ([], {})
        draft.add_shard(index, dubs, files)
        logger.info("dubbed shard %d of %d by %s", index + 1, len(shards), method)
    if not shard_slice.is_all:
        return draft
    methods, left_out = list(params.methods), draft.left_out()
    if len(left_out) == len(rows):
        raise UnsupportedTextError(
            f"no held-out clip can be dubbed: {next(iter(left_out.values()))}",
            where=str(pairs.path),
            cure="make others",
        )
    info = {"methods": methods, "num_clips": len(rows) - len(left_out), "left_out_clips": left_out}
    return draft.seal(info | {"has_round_trips": "adapter" in methods})


class _Dubbers:
    """The dubber of each method, loaded when it is first used; all share one backbone and switch its adapters."""

    def __init__(self, backbone: Backbone, adapter: Adapter, params: DubParams) -> None:
        self.backbone, self.adapter, self.params = backbone, adapter, params

    @cached_property
    def modules(self) -> Modules:
        """The loaded backbone that all methods share."""
        return load(self.backbone)

    @cached_property
    def with_adapter(self) -> Dubber:
        """The dubber of the method `adapter`."""
        return self._load(self.adapter)

    @cached_property
    def of_base(self) -> Dubber:
        """The dubber of the method `base`: the same references, no adapter."""
        return self._load(None)

    def _load(self, adapter: Adapter | None) -> Dubber:
        strength, sampling = self.params.adapter_strength, self.params.sampling
        return Dubber.load(self.backbone, adapter, strength=strength, sampling=sampling, modules=self.modules)


def _fitting(pairs: PairSet, batch: list[PairRow], world: World) -> tuple[list[PairRow], dict[str, str]]:
    """Returns the rows whose words fit into their clips, and by id the reason why the others cannot be dubbed."""
    fitting, reasons = [], {}
    for row in batch:
        try:
            fit_line(world, row.counterpart, pairs.clip(row.id, "original").seconds).check()
            fitting.append(row)
        except UnsupportedTextError as error:
            reasons[row.id] = error.what
            logger.warning("clip %s is not dubbed: %s", row.id, error.what)
    return fitting, reasons


def _dub_batch(
    method: str, dubbers: _Dubbers, pairs: PairSet, batch: list[PairRow], params: DubParams
) -> tuple[list[DubRow], dict[str, bytes]]:
    """Returns the rows and files of one shard: a dub of each pair in `batch`."""
    seeds = [item_seed(params.seed, row.seed) for row in batch]
    rows = [
        DubRow(id=f"{row.id}-{method}", pair_id=row.id, method=method, line=row.counterpart, seed=seed)
        for row, seed in zip(batch, seeds, strict=True)
    ]
    originals = [pairs.clip(row.id, "original") for row in batch]
    if method in REFERENCE_METHODS:
        counterparts = [pairs.clip(row.id, "counterpart") for row in batch]
        clips = _references(method, originals, counterparts, dubbers.modules)
    else:
        dubber = dubbers.with_adapter if method == "adapter" else dubbers.of_base
        lines, speakers = [row.counterpart for row in batch], [row.speaker for row in batch]
        clips = dubber.dub_batch(originals, lines, seeds, speakers=speakers)
    files = {}
    for row, clip in zip(rows, clips, strict=True):
        files |= clip_members(f"{row.id}/dub", clip)
    if method == "adapter":
        files |= _round_trips(rows, originals, dubbers.modules)
    return rows, files


def _round_trips(rows: list[DubRow], originals: list[Clip], modules: Modules) -> dict[str, bytes]:
    """Returns each source after the video VAE, the reference for a dub's picture; made in this step, where the VAE is loaded."""
    frames_BFHWC = np.stack([clip.frames_FHWC for clip in originals])
    trips = round_trip(frames_BFHWC, shape_of(originals[0], modules), modules)
    clips = [replace(clip, frames_FHWC=trip) for clip, trip in zip(originals, trips, strict=True)]
    return {f"{row.id}/round-trip.clip": clip.to_bytes() for row, clip in zip(rows, clips, strict=True)}


def _references(method: str, originals: list[Clip], counterparts: list[Clip], modules: Modules) -> list[Clip]:
    """Returns the counterparts after both autoencoders and the vocoder; for the cascade with the originals' picture."""
    shape, frame_rate = shape_of(counterparts[0], modules), counterparts[0].frame_rate
    decoded = decode_clips(encode_clips(counterparts, modules), shape, frame_rate, modules)
    if method == "ceiling":
        return decoded
    return [replace(clip, frames_FHWC=source.frames_FHWC) for clip, source in zip(decoded, originals, strict=True)]
