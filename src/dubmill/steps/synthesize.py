"""Step `synthesize`: clips whose speaker switches language half-way."""

from __future__ import annotations

import logging
from pathlib import Path

from dubmill.artifacts.draft import ALL_SHARDS, Draft, ShardSlice
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import ClipRow, Prompt
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import Backbone, ClipSet, PromptSet
from dubmill.config.params import SynthesizeParams
from dubmill.generation.sampling import generate
from dubmill.generation.seeds import item_seed
from dubmill.model.load import Modules, load
from dubmill.model.shapes import half_frames
from dubmill.worlds import world_of

logger = logging.getLogger(__name__)


def synthesize(
    backbone: Backbone, prompts: PromptSet, params: SynthesizeParams, out: Path, *, shard_slice: ShardSlice = ALL_SHARDS
) -> ClipSet | Draft[ClipSet]:
    """Generate a switch clip for each prompt, a shard per batch; a rerun goes on after the last whole shard.

    A task with a part of the shards leaves them in the draft, unsealed; the call for the whole that follows them seals it.

    Raises:
        InvalidParamsError: the size does not fit the backbone, or has no halves on latent borders.
    """
    lineage = Lineage.of("synthesize", params, backbone, prompts)
    draft = ClipSet.draft(out, lineage, is_shared=not shard_slice.is_all)
    if draft.is_sealed:
        return draft.seal()
    batches = list(prompts.batches(prompts.rows, params.batch_size))
    if todo := draft.missing(len(batches), shard_slice):
        modules = load(backbone)
        half_frames(params.num_frames, modules.geometry.temporal)
    world = world_of(backbone)
    for index in todo:
        rows = [
            ClipRow(id=prompt.id, prompt=prompt, has_clip=not world.has_true_pair(prompt)) for prompt in batches[index]
        ]
        draft.add_shard(index, rows, _generate([row.prompt for row in rows if row.has_clip], params, modules))
        logger.info("synthesized shard %d of %d", index + 1, len(batches))
    return draft.seal({"num_clips": len(prompts.rows)}) if shard_slice.is_all else draft


def _generate(prompts: list[Prompt], params: SynthesizeParams, modules: Modules) -> dict[str, bytes]:
    if not prompts:
        return {}
    captions, seeds = [prompt.caption for prompt in prompts], [_seed(prompt, params) for prompt in prompts]
    files = {}
    for prompt, clip in zip(prompts, generate(captions, seeds, params, modules), strict=True):
        files |= clip_members(f"{prompt.id}/clip", clip)
    return files


def _seed(prompt: Prompt, params: SynthesizeParams) -> int:
    return item_seed(params.seed, prompt.seed)
