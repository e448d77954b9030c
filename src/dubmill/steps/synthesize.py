"""Step `synthesize`: clips whose speaker switches language half-way; recordings are brought to the same size."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

from dubmill import media
from dubmill.artifacts.draft import ALL_SHARDS, Draft, ShardSlice
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import FOOTAGE, FOOTAGE_PAIR, ClipRow, Prompt
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import Backbone, ClipSet, PromptSet
from dubmill.config.params import SynthesizeParams
from dubmill.errors import UnreadableMediaError
from dubmill.generation.sampling import generate_clips
from dubmill.generation.seeds import item_seed
from dubmill.model.load import Modules, load
from dubmill.model.loras import load_for_sampling
from dubmill.model.shapes import half_frames
from dubmill.prompting.footage import CLIP, COUNTERPART, ORIGINAL
from dubmill.worlds import World, world_of

logger = logging.getLogger(__name__)

SLACK_SECONDS = 0.25  # a recording this much shorter than a clip is held at its last frame


def synthesize(
    backbone: Backbone, prompts: PromptSet, params: SynthesizeParams, out: Path, *, shard_slice: ShardSlice = ALL_SHARDS
) -> ClipSet | Draft[ClipSet]:
    """Generate a switch clip for each prompt, a shard per batch; a rerun continues after the last whole shard.

    A task with a part of the shards leaves them in the draft, unsealed; a later call without `shard_slice` seals it.

    Raises:
        UnreadableMediaError: no recording can be used; a single one that cannot is left out and named in `info`.
        InvalidParamsError: the size does not fit the backbone, or has no halves on latent borders.
    """
    lineage = Lineage.of("synthesize", params, backbone, prompts)
    draft = ClipSet.draft(out, lineage, is_shared=not shard_slice.is_all)
    if draft.is_sealed:
        return draft.seal()
    batches = list(prompts.batches(prompts.rows, params.batch_size))
    todo, world = draft.missing(len(batches), shard_slice), world_of(backbone)
    if todo:
        is_generated = any(_is_generated(prompt, world) for index in todo for prompt in batches[index])
        # footage needs the geometry alone
        modules = load_for_sampling(backbone, params.sampling.lora) if is_generated else load(backbone, needed=[])
        half_frames(params.num_frames, modules.geometry.temporal)
    for index in todo:
        rows, files, reasons = _shard(prompts, batches[index], params, modules, world)
        draft.leave_out(index, reasons)
        draft.add_shard(index, rows, files)
        logger.info("synthesized shard %d of %d", index + 1, len(batches))
    if not shard_slice.is_all:
        return draft
    left_out = draft.left_out()
    if len(left_out) == len(prompts.rows):
        raise UnreadableMediaError(
            f"no clip can be used; the first, {next(iter(left_out))}: {next(iter(left_out.values()))}",
            where=str(prompts.path),
            cure="give other recordings",
        )
    return draft.seal({"num_clips": len(prompts.rows) - len(left_out), "left_out_clips": left_out})


def _is_generated(prompt: Prompt, world: World) -> bool:
    """Returns whether a clip of this prompt is generated: it is neither recorded nor rendered later."""
    return prompt.source not in (FOOTAGE, FOOTAGE_PAIR) and not world.has_true_pair(prompt)


def _shard(
    prompts: PromptSet, batch: list[Prompt], params: SynthesizeParams, modules: Modules, world: World
) -> tuple[list[ClipRow], dict[str, bytes], dict[str, str]]:
    """Returns rows and files of one batch; and, by id, why a recording cannot be used."""
    files, reasons = _generate([prompt for prompt in batch if _is_generated(prompt, world)], params, modules), {}
    for prompt in batch:
        if prompt.source not in (FOOTAGE, FOOTAGE_PAIR):
            continue
        try:
            files |= _footage_files(prompts, prompt, params, modules)
        except UnreadableMediaError as error:
            reasons[prompt.id] = error.what
            logger.warning("recording %s is left out: %s", prompt.id, error.what)
    rows = [
        ClipRow(id=prompt.id, prompt=prompt, has_clip=f"{prompt.id}/clip.clip" in files)
        for prompt in batch
        if prompt.id not in reasons
    ]
    return rows, files, reasons


def _footage_files(prompts: PromptSet, prompt: Prompt, params: SynthesizeParams, modules: Modules) -> dict[str, bytes]:
    """Returns the recording of a prompt at the size and rates of a switch clip, or both of a true pair at those of a half."""
    is_pair = prompt.source == FOOTAGE_PAIR
    num_frames = half_frames(params.num_frames, modules.geometry.temporal) if is_pair else params.num_frames
    files = {}
    for member in (ORIGINAL, COUNTERPART) if is_pair else (CLIP,):
        clip = media.read(
            prompts.data(prompt.id, member),
            frame_rate=Fraction(params.frame_rate).limit_denominator(1001),
            sample_rate_hz=modules.geometry.output_sample_rate_hz,
            height=params.height,
            width=params.width,
            channels=modules.geometry.audio_in_channels,
        )
        needed = num_frames / params.frame_rate
        if clip.seconds < needed - SLACK_SECONDS:
            raise UnreadableMediaError(f"the recording lasts {clip.seconds:.2f} s, a clip needs {needed:.2f} s")
        files |= clip_members(f"{prompt.id}/{member.removesuffix('.video')}", clip.lasting(num_frames))
    return files


def _generate(prompts: list[Prompt], params: SynthesizeParams, modules: Modules) -> dict[str, bytes]:
    if not prompts:
        return {}
    captions, seeds = [prompt.caption for prompt in prompts], [_seed(prompt, params) for prompt in prompts]
    files = {}
    for prompt, clip in zip(prompts, generate_clips(captions, seeds, params, modules), strict=True):
        files |= clip_members(f"{prompt.id}/clip", clip)
    return files


def _seed(prompt: Prompt, params: SynthesizeParams) -> int:
    return item_seed(params.seed, prompt.seed)
