"""Step `inpaint`: makes bilingual pairs by inpainting each half of a switch clip with speech in the other half's language.

Training pairs are self-made, or true pairs as a control: rendered ones of nano's world, or recordings. Held-out pairs are
true pairs where there are some; else they are self-made from held-out prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dubmill.artifacts.draft import ALL_SHARDS, Draft, ShardSlice
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import FOOTAGE, FOOTAGE_PAIR, ClipRow, PairRow, Prompt
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import Backbone, ClipSet, PairSet
from dubmill.config.params import InpaintParams, WorldParams
from dubmill.errors import InvalidArtifactError, UnreadableMediaError
from dubmill.faces import mouth_boxes
from dubmill.generation.codec import encode_clips, shape_of
from dubmill.generation.masks import fine_mask, pixel_mask, widen
from dubmill.generation.sampling import Region, inpaint_clips
from dubmill.generation.seeds import half_seed, item_rng
from dubmill.media.clips import Clip
from dubmill.model.latents import Latents
from dubmill.model.load import Modules
from dubmill.model.loras import load_for_sampling
from dubmill.model.shapes import LatentShape, half_frames, latent_of_frame
from dubmill.prompting import over_articulated
from dubmill.worlds import World, world_of

if TYPE_CHECKING:
    from dubmill.faces import FaceDetector

logger = logging.getLogger(__name__)

HALVES = ("first", "second")
ONE_LANGUAGE = "it is in one language only; inpaint.source self-made uses such clips"
TWO_LANGUAGES = "it is a true pair; inpaint.source footage uses such clips"
SECOND_PASS = 2**52  # added to the seed of a clip's first pass


def inpaint(
    backbone: Backbone, clips: ClipSet, params: InpaintParams, out: Path, *, shard_slice: ShardSlice = ALL_SHARDS
) -> PairSet | Draft[PairSet]:
    """Make two pairs of each switch clip, a shard per batch; a rerun continues after the last whole shard.

    A task with a part of the shards leaves them in the draft, unsealed; a later call without `shard_slice` seals it. `info` and
    a file beside each shard name the clips that make no pair, with the reason.

    Raises:
        UnsupportedTextError: lip augmentation is on, and the prompts cannot describe it.
        InvalidArtifactError: no clip made a pair.
        InvalidParamsError: the source is `world`, and the backbone or the prompts have no rendered world.
    """
    lineage = Lineage.of("inpaint", params, backbone, clips, pair_source=params.source)
    draft = PairSet.draft(out, lineage, is_shared=not shard_slice.is_all)
    if draft.is_sealed:
        return draft.seal()
    batches = list(clips.batches(clips.rows, params.batch_size))
    num_articulated = sum(_is_articulated(row.prompt, params) for row in clips.rows)
    if todo := draft.missing(len(batches), shard_slice):
        load_once, world = (
            cache(lambda: load_for_sampling(backbone, params.sampling.lora)),
            world_of(backbone),
        )  # recorded and rendered pairs need no model
        detector = world.face_detector()
    for index in todo:
        pairs, left_out = _make_pairs(clips, batches[index], params, load_once, world, detector)
        draft.leave_out(index, left_out)
        files = {}
        for row, original, counterpart in pairs:
            files |= clip_members(f"{row.id}/original", original) | clip_members(f"{row.id}/counterpart", counterpart)
        draft.add_shard(index, [row for row, _, _ in pairs], files)
        logger.info("paired shard %d of %d", index + 1, len(batches))
    if not shard_slice.is_all:
        return draft
    left_out = draft.left_out()
    if len(left_out) == len(clips.rows):
        example = next(iter(left_out.items()))
        raise InvalidArtifactError(
            f"no clip made a pair; the first, {example[0]}: {example[1]}",
            where=str(clips.path),
            cure="make other clips",
        )
    info = {"gated": False, "pair_source": params.source, "num_lip_augmented_clips": num_articulated}
    return draft.seal(info | {"num_left_out_clips": len(left_out), "left_out_clips": left_out})


Pair = tuple[PairRow, Clip, Clip]
MouthClip = tuple[ClipRow, Clip, np.ndarray]


def _row(prompt: Prompt, half: str, source: str, boxes_F4: np.ndarray) -> PairRow:
    is_first = half == "first"
    return PairRow(
        id=f"{prompt.id}-{half}",
        split=prompt.split,
        source=source,
        half=half,
        seed=prompt.seed,
        speaker=prompt.speaker,
        original=prompt.first if is_first else prompt.second,
        counterpart=prompt.first_dubbed if is_first else prompt.second_dubbed,
        mouth_boxes=boxes_F4.astype(float).round(2).tolist(),
        consent=prompt.consent,
        accepted=False,
    )


def _make_pairs(
    clips: ClipSet,
    batch: list[ClipRow],
    params: InpaintParams,
    load_once: Callable[[], Modules],
    world: World,
    detector: FaceDetector,
) -> tuple[list[Pair], dict[str, str]]:
    """Returns the pairs of a batch, and by id the reason why a clip makes none."""
    recorded = [row for row in batch if row.prompt.source == FOOTAGE_PAIR]
    rest = [row for row in batch if row not in recorded]
    from_world = [row.prompt for row in rest if params.source == "world" or world.has_true_pair(row.prompt)]
    generated = [row for row in rest if row.prompt not in from_world]
    is_control = params.source == FOOTAGE  # without generated clips
    unused, why = (generated, ONE_LANGUAGE) if is_control else (recorded, TWO_LANGUAGES)
    left_out = {row.id: why for row in unused if row.prompt.split == "train"}
    pairs = [pair for prompt in from_world for pair in _filmed(prompt, world, params.world)]
    pairs += _recorded(clips, [row for row in recorded if row.id not in left_out], detector, left_out)
    with_mouth, without_face = _find_mouths(clips, [row for row in generated if row.id not in left_out], detector)
    return pairs + (_self_made(with_mouth, params, load_once()) if with_mouth else []), left_out | without_face


def _recorded(clips: ClipSet, rows: Sequence[ClipRow], detector: FaceDetector, left_out: dict[str, str]) -> list[Pair]:
    """Returns recordings of one speaker in two languages, as they are; one without a face is added to `left_out`."""
    pairs = []
    for row in rows:
        original, counterpart = clips.clip(row.id, "original"), clips.clip(row.id, "counterpart")
        try:
            boxes_F4 = mouth_boxes(original, detector)
        except UnreadableMediaError as error:
            left_out[row.id] = error.what
            logger.warning("clip %s makes no pair: %s", row.id, error.what)
            continue
        pairs.append((_row(row.prompt, "first", FOOTAGE, boxes_F4), original, counterpart))
    return pairs


def _filmed(prompt: Prompt, world: World, difficulty: WorldParams) -> list[Pair]:
    pairs = []
    for half in HALVES:
        original, counterpart, boxes_F4 = world.true_pair(prompt, half, difficulty)
        pairs.append((_row(prompt, half, "world", boxes_F4), original, counterpart))
    return pairs


def _self_made(clips: Sequence[MouthClip], params: InpaintParams, modules: Modules) -> list[Pair]:
    rows, whole, boxes = zip(*clips, strict=True)
    context, pairs = encode_clips(whole, modules), []
    touched_BS = touched_tokens(whole, boxes, context, params, modules)
    for half in HALVES:
        captions = [getattr(row.prompt, f"caption_{half}_dubbed") for row in rows]
        region = half_region(touched_BS, whole[0], half, modules)
        seeds = [half_seed(params.seed, row.prompt.seed, HALVES.index(half)) for row in rows]
        voiced = inpaint_clips(whole, context, captions, region, seeds, params.sampling, params.resamplings, modules)
        chosen = [place for place, row in enumerate(rows) if _is_articulated(row.prompt, params)]
        for place in chosen:
            caption, one = (
                over_articulated(captions[place], rows[place].prompt),
                Region(region.video_BS[[place]], region.audio_BL[[place]]),
            )
            voiced[place] = articulate(whole[place], voiced[place], caption, one, seeds[place], params, modules)
        frames = half_frames(whole[0].num_frames, modules.geometry.temporal)
        start = 0 if half == "first" else frames - 1
        for row, before, after, box in zip(rows, whole, voiced, boxes, strict=True):
            cut = slice(start, start + frames)
            pair = _row(row.prompt, half, "self-made", box[cut])
            pairs.append((pair, before.cut(cut.start, cut.stop), after.cut(cut.start, cut.stop)))
    return pairs


def _is_articulated(prompt: Prompt, params: InpaintParams) -> bool:
    """Returns whether the mouth of this clip is inpainted a second time: drawn for each training clip on its own.

    Raises:
        UnsupportedTextError: it may be drawn, and the prompt cannot describe it.
    """
    if params.lip_augmentation_share == 0:
        return False
    over_articulated(prompt.caption, prompt)
    draw = item_rng(params.seed, prompt.seed).random()
    return prompt.split == "train" and bool(draw < params.lip_augmentation_share)


def articulate(
    before: Clip, voiced: Clip, caption: str, region: Region, seed: int, params: InpaintParams, modules: Modules
) -> Clip:
    """Returns `voiced` with its mouth inpainted again from `before`, over-articulated, to the same sound.

    Lip augmentation: the first pass makes the sound; the second keeps it and makes the picture. Which
    of the two passes the paper freezes, and for which share of clips, is UNVERIFIED.
    """
    voiced_clip = replace(before, audio_CN=voiced.audio_CN, sample_rate_hz=voiced.sample_rate_hz)
    mouth = Region(region.video_BS, torch.zeros_like(region.audio_BL))
    seeds = [seed + SECOND_PASS]
    context, sampling = encode_clips([voiced_clip], modules), params.sampling
    (second_pass,) = inpaint_clips(
        [voiced_clip], context, [caption], mouth, seeds, sampling, params.resamplings, modules
    )
    return replace(voiced, frames_FHWC=second_pass.frames_FHWC)


def _find_mouths(
    clips: ClipSet, rows: Sequence[ClipRow], detector: FaceDetector
) -> tuple[list[MouthClip], dict[str, str]]:
    """Returns the clips with their mouth boxes, and by id the reason why a clip has no single visible speaker."""
    found: list[MouthClip] = []
    left_out = {}
    for row in rows:
        clip = clips.clip(row.id, "clip")
        try:
            found.append((row, clip, mouth_boxes(clip, detector)))
        except UnreadableMediaError as error:
            left_out[row.id] = error.what
            logger.warning("clip %s makes no pair: %s", row.id, error.what)
    return found, left_out


def touched_tokens(
    clips: Sequence[Clip], boxes: Sequence[np.ndarray], context: Latents, params: InpaintParams, modules: Modules
) -> torch.Tensor:
    """Returns the video tokens (B, S) that the mouths touch in clips whose latents are `context`."""
    _, height, width, _ = clips[0].frames_FHWC.shape
    masks = np.stack([pixel_mask(widen(box, params.mouth_margin, height, width), height, width) for box in boxes])
    frames = np.stack([clip.frames_FHWC for clip in clips])
    threshold, norm = params.mask_threshold, params.mask_norm
    return fine_mask(frames, masks, context.video_BSD, modules, threshold=threshold, norm=norm)


def half_region(touched_BS: torch.Tensor, clip: Clip, half: str, modules: Modules) -> Region:
    """Returns the tokens of one half to generate: those that its mouth touches, and all of its sound; `clip` tells the size."""
    shape = shape_of(clip, modules)
    is_half_F, is_half_L = half_tokens(shape, clip.num_frames, half, modules.geometry.temporal)
    is_half_S = is_half_F.repeat_interleave(shape.height * shape.width).to(touched_BS.device)
    audio_BL = is_half_L.to(touched_BS.device).expand(len(touched_BS), -1)
    return Region(touched_BS & is_half_S, audio_BL)


def half_tokens(shape: LatentShape, num_frames: int, half: str, temporal: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns which latent frames (F') and which audio latents (L) belong to a half; the middle frame belongs to the first."""
    border = latent_of_frame(half_frames(num_frames, temporal) - 1, temporal) + 1
    is_first_F = torch.arange(shape.frames) < border
    is_first_L = torch.arange(shape.audio) < round(shape.audio / 2)
    return (is_first_F, is_first_L) if half == "first" else (~is_first_F, ~is_first_L)
