"""Dubs by other systems as baselines: held-out clips are exported for them, and their outputs join a set of dubs."""

from __future__ import annotations

import csv
import io
import logging
import re
from pathlib import Path

from dubmill import media
from dubmill.artifacts.files import digest_of, sha256_of, write_atomically
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import DubRow
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import DubSet, PairSet
from dubmill.errors import InvalidArtifactError, UsageError
from dubmill.media.clips import Clip
from dubmill.report.figures import REFERENCES
from dubmill.report.measuring import ROUND_TRIP

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.csv"
EXPORTED = ("pair_id", "source", "truth", "source_language", "source_text", "language", "text")
REQUIRED = ("pair_id", "video")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
MAX_FRAMES_APART = 1  # a container may round a clip's length to the next frame


def export_heldout(pairs: PairSet, folder: Path) -> int:
    """Write the held-out clips of `pairs` as MP4 files with a manifest of what each has to say; returns their number.

    `truth` is the counterpart: its sound is what a system that only moves lips needs, its picture is not to be shown to it.

    Raises:
        InvalidArtifactError: no pair is held out.
    """
    rows = pairs.split("heldout")
    if not rows:
        raise InvalidArtifactError("no pair is held out", where=str(pairs.path), cure="raise prompts.num_heldout")
    folder.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(EXPORTED)
    for row in rows:
        names = [f"{row.id}-source.mp4", f"{row.id}-truth.mp4"]
        for name, member in zip(names, ("original", "counterpart"), strict=True):
            write_atomically(folder / name, pairs.mp4(row.id, member))
        original, counterpart = row.original, row.counterpart
        writer.writerow([row.id, *names, original.language, original.text, counterpart.language, counterpart.text])
    write_atomically(folder / MANIFEST_FILE, table.getvalue().encode())
    return len(rows)


def add_baseline(dubs: DubSet, pairs: PairSet, folder: Path, *, method: str, out: Path) -> DubSet:
    """Seal at `out` the dubs of `dubs` and those in `folder`, whose manifest has the columns pair_id and video, as `method`.

    Every pair that `dubs` has must be there, with the source's size and length, so that all methods are compared on equal clips.

    Raises:
        UsageError: the name is taken or not allowed, the manifest lacks a column or a pair, or a video does not fit.
        UnreadableMediaError: a video cannot be read.
    """
    known = {row.method for row in dubs.rows} | set(REFERENCES)
    if not NAME.fullmatch(method) or method in known:
        raise UsageError(
            f"{method!r} cannot be the name of a baseline",
            cure=f"give lower case letters, digits and hyphens, not one of {', '.join(sorted(known))}",
        )
    rows = {row.id: row for row in pairs.split("heldout")}
    chosen = [rows[pair_id] for pair_id in dict.fromkeys(row.pair_id for row in dubs.rows) if pair_id in rows]
    videos = _videos(folder / MANIFEST_FILE, [row.id for row in chosen])
    digest = digest_of([[pair_id, sha256_of(video)] for pair_id, video in videos.items()])
    params = {**dubs.lineage.params, "baselines": {**dubs.lineage.params.get("baselines", {}), method: digest}}
    draft = DubSet.draft(out, Lineage.of("dub", params, dubs, pairs))
    if draft.is_sealed:
        return draft.seal()
    draft.add_shard(0, *_copied(dubs))
    added, files = [], {}
    for row in chosen:
        added.append(
            DubRow(id=f"{row.id}-{method}", pair_id=row.id, method=method, line=row.counterpart, seed=row.seed)
        )
        files |= clip_members(f"{added[-1].id}/dub", _read(videos[row.id], pairs.clip(row.id, "original")))
    draft.add_shard(1, added, files)
    logger.info("%d dubs by %s", len(added), method)
    return draft.seal({**dubs.info, "methods": [*dubs.info["methods"], method]})


def _videos(manifest: Path, pair_ids: list[str]) -> dict[str, Path]:
    """Returns the video of every pair, in their order."""
    try:
        table = csv.DictReader(io.StringIO(manifest.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"there is no manifest that can be read ({error})",
            where=str(manifest),
            cure=f"columns: {', '.join(REQUIRED)}",
        ) from error
    if missing := [name for name in REQUIRED if name not in (table.fieldnames or ())]:
        raise UsageError(f"the manifest has no column {missing[0]}", where=str(manifest), cure="see docs/baselines.md")
    listed = {row["pair_id"]: manifest.parent / (row["video"] or "") for row in rows}
    absent = [pair_id for pair_id in pair_ids if pair_id not in listed or not listed[pair_id].is_file()]
    if absent:
        raise UsageError(
            f"{len(absent)} of {len(pair_ids)} pairs have no video, the first is {absent[0]}",
            where=str(manifest),
            cure="dub them all: methods are compared on equal clips",
        )
    return {pair_id: listed[pair_id] for pair_id in pair_ids}


def _read(video: Path, source: Clip) -> Clip:
    """Returns a dub with the source's frame rate, number of frames and sample rate.

    Raises:
        UsageError: it has another size or length.
    """
    clip = media.read(video, frame_rate=source.frame_rate, sample_rate_hz=source.sample_rate_hz, needs_sound=False)
    sizes = [f"{one.frames_FHWC.shape[2]}x{one.frames_FHWC.shape[1]}" for one in (clip, source)]
    if sizes[0] != sizes[1] or abs(clip.num_frames - source.num_frames) > MAX_FRAMES_APART:
        raise UsageError(
            f"it has {clip.num_frames} frames of {sizes[0]}, its source {source.num_frames} of {sizes[1]}",
            where=str(video),
            cure="scale and cut the output to its source",
        )
    return clip.lasting(source.num_frames)


def _copied(dubs: DubSet) -> tuple[list[DubRow], dict[str, bytes]]:
    """Returns all rows of `dubs` with their files."""
    files = {}
    for row in dubs.rows:
        files |= {f"{row.id}/dub.{kind}": dubs.data(row.id, f"dub.{kind}") for kind in ("clip", "mp4")}
        if dubs.info.get("has_round_trips") and row.method == "adapter":
            files[f"{row.id}/{ROUND_TRIP}.clip"] = dubs.data(row.id, f"{ROUND_TRIP}.clip")
    return list(dubs.rows), files
