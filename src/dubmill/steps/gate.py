"""Step `gate`: decides which pairs are used for training; held-out pairs are measured and kept, whatever their figures."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dubmill.artifacts.draft import Draft
from dubmill.artifacts.files import table_bytes, tar_bytes
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import PairRow
from dubmill.artifacts.store import Backbone, PairSet
from dubmill.config.params import GateParams, ScorersParams
from dubmill.errors import BackboneMismatchError, GateFailedError, UsageError
from dubmill.metrics import METRICS, measure_pair
from dubmill.quality import GateResult, PairPlayer, Verdict, apply_gates, gate_page, gates, offline_pages
from dubmill.worlds import world_of

if TYPE_CHECKING:
    from dubmill.metrics.scorers import Scorers

logger = logging.getLogger(__name__)

Measurement = dict[str, Any]
MEMBERS = ("original.clip", "original.mp4", "counterpart.clip", "counterpart.mp4")
BATCH = 16  # pairs measured between two saves: what a killed run may lose
MAX_SHARD_PAIRS, MAX_SHARD_BYTES = 100, 256 * 2**20
MAX_PLAYERS, MAX_PLAYER_BYTES = 6, 300_000  # per section of the page, and per MP4 inside it


def gate(backbone: Backbone, pairs: PairSet, scorers_params: ScorersParams, params: GateParams, out: Path) -> PairSet:
    """Keep the pairs that pass every strict gate, and the held-out ones, with the verdict and reasons of each.

    Raises:
        UsageError: `pairs` have been through the gate already, or a strict gate needs a model that is not there.
        BackboneMismatchError: `pairs` were made with another backbone.
        GateFailedError: too few passed; `gate.html` stays in `out`, nothing is sealed.
    """
    _check(backbone, pairs)
    world = world_of(backbone)
    values = params.model_dump() | ({} if world.is_toy else {"scorers": scorers_params.model_dump()})
    lineage = Lineage.of("gate", values, backbone, pairs)
    draft = PairSet.draft(out, lineage)
    if draft.is_sealed:
        return draft.seal()
    scorers = world.scorers(scorers_params)
    _require_scorers(scorers, params)
    measured = _measure(draft, pairs, scorers)
    train_rows = [row for row in measured if row["split"] == "train"]
    with tempfile.TemporaryDirectory() as site:
        result = apply_gates(train_rows, params, Path(site))
        for name, page in offline_pages(Path(site)).items():
            draft.write(f"docs/{name}", page)
    _write_findings(draft, pairs, measured, result, params)
    _require_enough(draft, result, params)
    accepted = {verdict.id for verdict in result.verdicts if verdict.is_accepted}
    _write_pairs(draft, pairs, accepted)
    for part in sorted(draft.path.glob("measured-*.json")):
        part.unlink()
    return draft.seal({**pairs.info, **_info(pairs, result)})


def _check(backbone: Backbone, pairs: PairSet) -> None:
    if pairs.info.get("gated"):
        raise UsageError(
            "these pairs have been through the gate already",
            where=str(pairs.path),
            cure="give the pairs that `dubmill step inpaint` made",
        )
    if pairs.lineage.backbone not in ("", backbone.digest):
        raise BackboneMismatchError(
            "these pairs were made with another backbone",
            where=str(pairs.path),
            cure="give the backbone that `dubmill step inpaint` had",
        )


def _require_scorers(scorers: Scorers, params: GateParams) -> None:
    """Refuse a strict gate that no pair could pass because its model is missing; log what else is not measured."""
    for bound in gates(params):
        for question in METRICS[bound.column].scorers if bound.column in METRICS else ():
            if question in scorers.missing and bound.level == "strict":
                raise UsageError(
                    f"gate.strict.{bound.name} cannot be applied: {scorers.missing[question]}",
                    where="gate",
                    cure=f"or set gate.strict.{bound.name} to none",
                )
    for question, sentence in scorers.missing.items():
        logger.warning("not measured, %s: %s", question, sentence)


def _measure(draft: Draft[PairSet], pairs: PairSet, scorers: Scorers) -> list[Measurement]:
    """Returns one row per pair, in order; batches that an interrupted run saved are not measured again."""
    measured: list[Measurement] = []
    for index, batch in enumerate(pairs.batches(pairs.rows, BATCH)):
        name = f"measured-{index:05d}.json"
        if not (draft.path / name).is_file():
            rows = [_measure_one(pairs, row, scorers) for row in batch]
            draft.write(name, json.dumps(rows).encode())
        measured += json.loads((draft.path / name).read_bytes())
        logger.info("measured %d of %d pairs", len(measured), len(pairs.rows))
    return measured


def _measure_one(pairs: PairSet, row: PairRow, scorers: Scorers) -> Measurement:
    original, counterpart = (pairs.clip(row.id, name) for name in ("original", "counterpart"))
    return measure_pair(original, counterpart, row=row, scorers=scorers)


def _write_findings(
    draft: Draft[PairSet],
    pairs: PairSet,
    measured: Sequence[Measurement],
    result: GateResult,
    params: GateParams,
) -> None:
    """Write tables, plots and the page that explain the verdicts, whether the step continues or fails."""
    verdicts = {verdict.id: verdict for verdict in result.verdicts}
    rows = [_with_verdict(row, verdicts.get(row["id"])) for row in measured]
    rejects = [row for row in rows if row["verdict"] == "rejected"]
    draft.write("measurements.parquet", table_bytes(rows))
    if rejects:
        draft.write("rejects.parquet", table_bytes(rejects))
        draft.write("rejects.tar", tar_bytes(_mp4s(pairs, [row["id"] for row in rejects])))
    draft.write("gate.json", json.dumps(_figures(pairs, result), indent=1, sort_keys=True).encode())
    draft.write("plots/by_gate.csv", _csv(_by_gate_rows(result)))
    draft.write("plots/measurements.csv", _csv(rows))
    page = gate_page(
        [row for row in measured if row["id"] in verdicts],
        result,
        params,
        pair_source=pairs.lineage.pair_source or "unnamed",
        heldout=[row for row in measured if row["id"] not in verdicts],
        left_out=pairs.info.get("left_out_clips", {}),
        worst=_players(pairs, _least_convincing(rows), "warnings"),
        rejected=_players(pairs, _one_of_each(rejects), "reasons"),
    )
    draft.write("gate.html", page.encode())


def _with_verdict(row: Measurement, verdict: Verdict | None) -> Measurement:
    if verdict is None:
        return {**row, "verdict": "held out", "reasons": "", "warnings": ""}
    decision = "accepted" if verdict.is_accepted else "rejected"
    return {**row, "verdict": decision, "reasons": verdict.reasons, "warnings": verdict.warning_reasons}


def _least_convincing(rows: Sequence[Measurement]) -> list[Measurement]:
    """Returns accepted rows, those with most warnings first, then those with the least sync."""
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    return sorted(accepted, key=lambda row: (-row["warnings"].count(":"), row["sync_correlation"], row["id"]))


def _one_of_each(rejects: Sequence[Measurement]) -> list[Measurement]:
    """Returns the rejects, the first of every leading reason before the second of any."""
    counts: Counter[str] = Counter()
    ranks = []
    for row in rejects:
        leading = row["reasons"].split(":")[0]
        ranks.append(counts[leading])
        counts[leading] += 1
    return [row for _, row in sorted(zip(ranks, rejects, strict=True), key=lambda ranked: ranked[0])]


def _players(pairs: PairSet, rows: Sequence[Measurement], note: str) -> list[PairPlayer]:
    """Returns the first few of `rows` to look at."""

    def light(row_id: str, name: str) -> bytes:
        mp4 = pairs.mp4(row_id, name)
        return mp4 if len(mp4) <= MAX_PLAYER_BYTES else b""

    return [
        PairPlayer(row["id"], row[note] or "no warning", light(row["id"], "original"), light(row["id"], "counterpart"))
        for row in rows[:MAX_PLAYERS]
    ]


def _mp4s(pairs: PairSet, ids: Sequence[str]) -> dict[str, bytes]:
    """Returns the players of rejected pairs, for a person to look at."""
    return {f"{row_id}/{side}.mp4": pairs.mp4(row_id, side) for row_id in ids for side in ("original", "counterpart")}


def _figures(pairs: PairSet, result: GateResult) -> dict[str, Any]:
    """Returns what `dvc metrics` compares between runs."""
    info = _info(pairs, result)
    kept = ("num_accepted", "num_rejected", "num_heldout", "by_gate")
    return {
        "accepted_share": round(result.accepted_share, 6),
        "num_left_out_clips": len(pairs.info.get("left_out_clips", {})),
        **{name: info[name] for name in kept},
        "by_gate_warning": result.by_gate("warning"),
    }


def _info(pairs: PairSet, result: GateResult) -> dict[str, Any]:
    return {
        "gated": True,
        "num_accepted": result.num_accepted,
        "num_rejected": len(result.verdicts) - result.num_accepted,
        "num_heldout": len(pairs.split("heldout")),
        "by_gate": result.by_gate("strict"),
        "pair_source": pairs.lineage.pair_source,
    }


def _by_gate_rows(result: GateResult) -> list[Measurement]:
    return [
        {"gate": name, "level": level, "pairs": count}
        for level in ("strict", "warning")
        for name, count in result.by_gate(level).items()
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns rows as CSV for `dvc plots`; a figure that could not be measured is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: "" if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        )
    return stream.getvalue().encode()


def _require_enough(draft: Draft[PairSet], result: GateResult, params: GateParams) -> None:
    page = draft.path / "gate.html"
    if not result.verdicts:
        raise GateFailedError(
            "there is no training pair to judge", where=str(page), cure="see what `dubmill step inpaint` made"
        )
    if result.num_accepted and result.accepted_share >= params.min_accepted_share:
        return
    rejecting = sorted(result.by_gate("strict").items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{name} rejected {count}" for name, count in rejecting if count) or "no gate rejected any"
    raise GateFailedError(
        f"only {result.num_accepted} of {len(result.verdicts)} pairs passed ({result.accepted_share:.0%}, the "
        f"floor is {params.min_accepted_share:.0%}): {counts}",
        where=str(draft.path),
        cure=f"open {page} to see why, then make better pairs or loosen gate.strict",
    )


def _write_pairs(draft: Draft[PairSet], pairs: PairSet, accepted: set[str]) -> None:
    kept = [
        row.model_copy(update={"accepted": True}) if row.id in accepted else row
        for row in pairs.rows
        if row.id in accepted or row.split != "train"
    ]
    for index, (rows, files) in enumerate(_shards(pairs, kept)):
        draft.add_shard(index, rows, files)


def _shards(pairs: PairSet, rows: Sequence[PairRow]) -> Iterator[tuple[list[PairRow], dict[str, bytes]]]:
    """Yields rows with their members, in shards bounded in pairs and in memory."""
    shard: list[PairRow] = []
    files: dict[str, bytes] = {}
    size = 0
    for row in rows:
        shard.append(row)
        members = {f"{row.id}/{name}": pairs.data(row.id, name) for name in MEMBERS}
        files |= members
        size += sum(map(len, members.values()))
        if len(shard) >= MAX_SHARD_PAIRS or size >= MAX_SHARD_BYTES:
            yield shard, files
            shard, files, size = [], {}, 0
    if shard:
        yield shard, files
