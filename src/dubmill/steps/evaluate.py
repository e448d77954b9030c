"""Step `evaluate`: every dub measured against its source and, where there is one, the truth; a report to look at."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dubmill import metrics, report
from dubmill.artifacts.files import LOSSES_FILE, METRICS_FILE, table_bytes
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import DubRow, PairRow
from dubmill.artifacts.store import Adapter, Backbone, DubSet, PairSet, Report
from dubmill.config.params import EvaluateParams, ScorersParams
from dubmill.errors import BackboneMismatchError, InvalidArtifactError
from dubmill.metrics.scorers import Scorers
from dubmill.report.figures import DECISIVE, ORACLE, SUBJECT
from dubmill.report.showcase import ShowcaseClip, ShowcasePair, ranked, spread_ranks
from dubmill.worlds import world_of

logger = logging.getLogger(__name__)

INDENT = 1


def evaluate(
    backbone: Backbone,
    dubs: DubSet,
    pairs: PairSet,
    adapter: Adapter,
    scorers_params: ScorersParams,
    params: EvaluateParams,
    out: Path,
) -> Report:
    """Measure the dubs of all held-out pairs and seal the figures, the rows behind them and the page at `out`.

    Raises:
        BackboneMismatchError: the dubs or the adapter belong to another backbone.
        InvalidArtifactError: there is nothing to measure, or a dub is of a pair that is not held out here.
    """
    world = world_of(backbone)
    values = params.model_dump() | ({} if world.is_toy else {"scorers": scorers_params.model_dump()})
    draft = Report.draft(out, Lineage.of("evaluate", values, backbone, dubs, pairs, adapter))
    if draft.is_sealed:
        return draft.seal()
    _require_kin(backbone, dubs, adapter)
    judge = _Judge(dubs, pairs, world.scorers(scorers_params))
    for question, sentence in judge.scorers.missing.items():
        logger.warning("not measured, %s: %s", question, sentence)
    rows = list(judge.measured())
    scores = report.score(rows, params)
    about = _about(backbone, adapter, pairs)
    draft.write("rows.parquet", table_bytes([_plain(row) for row in rows]))
    facts = {"pair_source": about.pair_source, "is_toy": about.is_toy, "num_pairs": scores.num_pairs}
    draft.write(METRICS_FILE, _json_bytes(report.metrics_json(scores, facts)))
    files = report.render(
        about,
        scores=scores,
        rows=rows,
        shows=list(judge.shows(rows, params.num_showcase)),
        losses=_losses(adapter),
    )
    light = report.write(files, draft.write)
    logger.info("measured %d clips of %d pairs", len(rows), scores.num_pairs)
    means = {name: figure.mean for name, figure in scores.figures.get(SUBJECT, {}).items()}
    return draft.seal(
        {
            **facts,
            "base_model": backbone.info["repo"],
            "dub": dubs.lineage.params,
            "methods": scores.methods,
            "left_out_clips": dubs.info.get("left_out_clips", {}),
            "html": "report.html",
            "light": light,
            "summary": means,
        }
    )


def _require_kin(backbone: Backbone, dubs: DubSet, adapter: Adapter) -> None:
    for part in (dubs, adapter):
        if part.lineage.backbone != backbone.digest:
            raise BackboneMismatchError(
                f"this {part.kind} was made with backbone {part.lineage.backbone[:12]}, not {backbone.digest[:12]}",
                where=str(part.path),
                cure="make it again with this backbone",
            )


def _about(backbone: Backbone, adapter: Adapter, pairs: PairSet) -> report.About:
    return report.About(
        pair_source=adapter.lineage.pair_source,
        is_toy=world_of(backbone).is_toy,
        backbone=backbone.digest,
        adapter=adapter.digest,
        licence=adapter.lineage.licence or pairs.lineage.licence,
    )


class _Judge:
    """Asks the scorers once per clip and compares every dub of a pair with its source and its truth."""

    def __init__(self, dubs: DubSet, pairs: PairSet, scorers: Scorers) -> None:
        self.dubs, self.pairs, self.scorers = dubs, pairs, scorers
        heldout = {row.id: row for row in pairs.split("heldout")}
        self.dubs_of: dict[str, list[DubRow]] = {name: [] for name in heldout}
        for dub in dubs.rows:
            if dub.pair_id not in heldout:
                raise InvalidArtifactError(
                    f"dub {dub.id} is of pair {dub.pair_id}, which is not held out here",
                    where=str(dubs.path),
                    cure="evaluate against the pairs that were dubbed",
                )
            self.dubs_of[dub.pair_id].append(dub)
        self.rows = [row for name, row in heldout.items() if self.dubs_of[name]]
        if not self.rows:
            raise InvalidArtifactError("no dub of a held-out pair", where=str(dubs.path), cure="run dub again")

    def measured(self) -> Iterator[report.Measured]:
        """One row per pair and method, and one of the oracle where the pair has a truth."""
        for row in self.rows:
            source, *others = self.takes(row)
            truth = next((take for take in others if take.key == "truth"), None)
            for take in others:
                values = metrics.compare(
                    take.observation,
                    source=source.observation,
                    truth=truth.observation if truth else None,
                    trip_FHWC=self.trip(row),
                    line=take.line,
                    mouth_boxes_F4=source.mouth_boxes_F4,
                )
                yield report.Measured(row.id, ORACLE if take is truth else take.key, take.line, values)

    def takes(self, row: PairRow) -> list[ShowcaseClip]:
        """Source, dubs in the DubSet's order, truth: each seen and heard."""
        boxes_F4 = np.asarray(row.mouth_boxes, dtype=np.float64).reshape(-1, 4)

        def take(key: str, line: Any, where: DubSet | PairSet, row_id: str, name: str) -> ShowcaseClip:
            seen = metrics.observe(where.clip(row_id, name), self.scorers)
            return ShowcaseClip(key, line, where.mp4(row_id, name), seen, boxes_F4)

        takes = [take("source", row.original, self.pairs, row.id, "original")]
        takes += [take(dub.method, dub.line, self.dubs, dub.id, "dub") for dub in self.dubs_of[row.id]]
        if row.source == "world":
            takes.append(take("truth", row.counterpart, self.pairs, row.id, "counterpart"))
        return takes

    def trip(self, row: PairRow) -> np.ndarray | None:
        """The source's frames (F, H, W, 3) after the VAE, which the step dub keeps with the adapter's dubs."""
        keeper = next((dub for dub in self.dubs_of[row.id] if dub.method == SUBJECT), None)
        if keeper is None or not self.dubs.info.get("has_round_trips"):
            return None
        return self.dubs.clip(keeper.id, "round-trip").frames_FHWC

    def shows(self, rows: list[report.Measured], num_shown: int) -> Iterator[ShowcasePair]:
        """Clips from the one that the adapter did best to the one it did worst, evenly spaced between."""
        order = [metric for metric, _ in DECISIVE]
        first = SUBJECT if any(row.method == SUBJECT for row in rows) else rows[0].method
        names = ranked([(row.pair_id, [row.values[m] for m in order]) for row in rows if row.method == first])
        by_id = {row.id: row for row in self.rows}
        for rank in spread_ranks(len(names), num_shown):
            name = names[rank - 1]
            yield ShowcasePair(name, rank, len(names), self.takes(by_id[name]))


def _plain(row: report.Measured) -> dict[str, Any]:
    """One line of rows.parquet; what could not be measured is null."""
    values = {name: value if math.isfinite(value) else None for name, value in row.values.items()}
    return {
        "pair_id": row.pair_id,
        "method": row.method,
        "language": row.line.language,
        "text": row.line.text,
        **values,
    }


def _losses(adapter: Adapter) -> list[dict[str, float]]:
    """The training log that an adapter carries; an imported one carries none."""
    if not adapter.has_file(LOSSES_FILE):
        return []
    return [json.loads(line) for line in adapter.file(LOSSES_FILE).read_text().splitlines() if line]


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=INDENT, allow_nan=False).encode() + b"\n"
