"""Step `evaluate`: measures every dub against its source and the true dub, and writes the report."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from dubmill import report
from dubmill.artifacts.files import LOSSES_FILE, METRICS_FILE, table_bytes
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, Backbone, DubSet, PairSet, Report
from dubmill.config.params import EvaluateParams, ScorersParams
from dubmill.errors import BackboneMismatchError
from dubmill.report.figures import SUBJECT
from dubmill.report.measuring import HeldOutMeasurer
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
    scorers = world.scorers(scorers_params)
    for question, sentence in scorers.missing.items():
        logger.warning("not measured, %s: %s", question, sentence)
    measurer = HeldOutMeasurer(dubs, pairs, scorers)
    rows = list(measurer.measured())
    scores = report.score(rows, params)
    about = _about(backbone, adapter, pairs)
    draft.write("rows.parquet", table_bytes([_plain(row) for row in rows]))
    facts = {"pair_source": about.pair_source, "is_toy": about.is_toy, "num_pairs": scores.num_pairs}
    draft.write(METRICS_FILE, _json_bytes(report.metrics_json(scores, facts)))
    files = report.render(
        about,
        scores=scores,
        rows=rows,
        shows=list(measurer.showcase(rows, params.num_showcase)),
        losses=_losses(adapter),
    )
    light = report.write_report(files, draft.write)
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


def _about(backbone: Backbone, adapter: Adapter, pairs: PairSet) -> report.ReportSubject:
    return report.ReportSubject(
        pair_source=adapter.lineage.pair_source,
        is_toy=world_of(backbone).is_toy,
        backbone=backbone.digest,
        adapter=adapter.digest,
        licence=adapter.lineage.licence or pairs.lineage.licence,
    )


def _plain(row: report.Measured) -> dict[str, Any]:
    """Returns one line of rows.parquet; a figure that could not be measured is null."""
    values = {name: value if math.isfinite(value) else None for name, value in row.values.items()}
    return {
        "pair_id": row.pair_id,
        "cluster": row.cluster,
        "method": row.method,
        "language": row.line.language,
        "text": row.line.text,
        **values,
    }


def _losses(adapter: Adapter) -> list[dict[str, float]]:
    """Returns the training log of an adapter; an imported one has none."""
    if not adapter.has_file(LOSSES_FILE):
        return []
    return [json.loads(line) for line in adapter.file(LOSSES_FILE).read_text().splitlines() if line]


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=INDENT, allow_nan=False).encode() + b"\n"
