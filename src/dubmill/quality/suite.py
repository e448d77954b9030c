"""Gates as a Great Expectations suite per level; its results are the verdicts, so what the docs show is what was decided.

A gate is one field of `params.Thresholds`: `min_words_right` holds the column `words_right` of a measurement row
against its bound. A figure that could not be had breaks its gate: nothing unmeasured trains an adapter.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dubmill.config.params import GateParams, Thresholds

if TYPE_CHECKING:
    from great_expectations.checkpoint import CheckpointResult
    from great_expectations.data_context import EphemeralDataContext

Level = Literal["strict", "warning"]
LEVELS: tuple[Level, ...] = ("strict", "warning")
SEVERITY = {"strict": "critical", "warning": "warning"}  # Great Expectations' words for our levels
SITE = "docs"


@dataclass(frozen=True)
class Gate:
    """One bound on one column; `name` is the parameter's, such as `min_words_right`."""

    name: str
    level: Level
    bound: float

    @property
    def column(self) -> str:
        """The column of a measurement row that it holds."""
        return self.name.removeprefix("min_").removeprefix("max_")

    @property
    def is_minimum(self) -> bool:
        """Whether the bound is a least, else it is a most."""
        return self.name.startswith("min_")


@dataclass(frozen=True)
class Broken:
    """A gate that a pair broke, and the value it had."""

    gate: Gate
    value: float

    @property
    def reason(self) -> str:
        """`min_words_right: 0.50 is under 1.00`."""
        if not np.isfinite(self.value):
            return f"{self.gate.name}: could not be measured"
        side = "under" if self.gate.is_minimum else "over"
        return f"{self.gate.name}: {self.value:.4g} is {side} {self.gate.bound:.4g}"


@dataclass(frozen=True)
class Verdict:
    """What the gates say of one pair."""

    id: str
    broken: tuple[Broken, ...]
    warned: tuple[Broken, ...]

    @property
    def is_accepted(self) -> bool:
        """No strict gate is broken."""
        return not self.broken

    @property
    def reasons(self) -> str:
        """The strict gates it broke, for a person; empty where accepted."""
        return "; ".join(one.reason for one in self.broken)

    @property
    def warnings(self) -> str:
        """The warning gates it broke, for a person."""
        return "; ".join(one.reason for one in self.warned)


@dataclass(frozen=True)
class Judgement:
    """The verdicts in the order of the rows."""

    verdicts: tuple[Verdict, ...]

    @property
    def num_accepted(self) -> int:
        """Pairs that may train."""
        return sum(verdict.is_accepted for verdict in self.verdicts)

    @property
    def accepted_share(self) -> float:
        """Accepted pairs of all judged; none judged is 0."""
        return self.num_accepted / len(self.verdicts) if self.verdicts else 0.0

    def by_gate(self, level: Level) -> dict[str, int]:
        """How many pairs broke each gate of a level; a pair may break several."""
        broken = Counter(
            one.gate.name
            for verdict in self.verdicts
            for one in (verdict.broken if level == "strict" else verdict.warned)
        )
        return {name: broken[name] for name in Thresholds.model_fields}


def gates(params: GateParams) -> list[Gate]:
    """Every gate of both levels, strict first, in the order of the parameters."""
    return [
        Gate(name, level, float(bound))
        for level in LEVELS
        for name, bound in getattr(params, level).model_dump().items()
    ]


def judge(rows: Sequence[Mapping[str, Any]], params: GateParams, site: Path | None = None) -> Judgement:
    """Hold measurement rows against both levels of gates; Data Docs are built in `site` where one is given.

    No rows make no verdicts and no docs.
    """
    if not rows:
        return Judgement(())
    wanted = gates(params)
    found: dict[tuple[str, str], list[Broken]] = {}
    values = {row["id"]: row for row in rows}
    for gate, row_id in _broken(_run(rows, wanted, site), wanted):
        found.setdefault((row_id, gate.level), []).append(Broken(gate, float(values[row_id][gate.column])))
    order = {gate: index for index, gate in enumerate(wanted)}

    def of(row_id: str, level: Level) -> tuple[Broken, ...]:
        return tuple(sorted(found.get((row_id, level), []), key=lambda one: order[one.gate]))

    return Judgement(tuple(Verdict(row_id, of(row_id, "strict"), of(row_id, "warning")) for row_id in values))


def _context(site: Path | None) -> EphemeralDataContext:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    if site is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        context.add_data_docs_site(
            SITE, {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
        )
    return context


def _run(rows: Sequence[Mapping[str, Any]], wanted: Sequence[Gate], site: Path | None) -> CheckpointResult:
    """Validate the rows by one suite per level, at a fixed time: equal rows make equal pages."""
    context = _context(site)
    import great_expectations as gx
    import pandas as pd
    from great_expectations.checkpoint import UpdateDataDocsAction
    from great_expectations.core.run_identifier import RunIdentifier

    asset = context.data_sources.add_pandas("measurements").add_dataframe_asset("pairs")
    batch = asset.add_batch_definition_whole_dataframe("train")
    definitions = [
        context.validation_definitions.add(
            gx.ValidationDefinition(name=level, data=batch, suite=_suite(context, level, wanted))
        )
        for level in LEVELS
    ]
    actions = [UpdateDataDocsAction(name=SITE, site_names=[SITE])] if site is not None else []
    complete = {"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]}
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name="gate", validation_definitions=definitions, result_format=complete, actions=actions)
    )
    columns = ["id", *dict.fromkeys(gate.column for gate in wanted)]
    table = pd.DataFrame([{name: row[name] for name in columns} for row in rows])
    return checkpoint.run(
        batch_parameters={"dataframe": table}, run_id=RunIdentifier("gate", "2000-01-01T00:00:00+00:00")
    )


def _suite(context: EphemeralDataContext, level: Level, wanted: Sequence[Gate]) -> Any:
    import great_expectations as gx
    from great_expectations import expectations as expect

    suite = context.suites.add(gx.ExpectationSuite(level))
    for gate in wanted:
        if gate.level == level:
            bound = {"min_value" if gate.is_minimum else "max_value": gate.bound}
            shared = {"column": gate.column, "severity": SEVERITY[level], "meta": {"gate": gate.name, "level": level}}
            suite.add_expectation(expect.ExpectColumnValuesToBeBetween(**bound, **shared))
            suite.add_expectation(expect.ExpectColumnValuesToNotBeNull(**shared))
    return suite


def _broken(result: CheckpointResult, wanted: Sequence[Gate]) -> Iterator[tuple[Gate, str]]:
    """Each (gate, row id) that an expectation found outside its bound or without a figure."""
    known = {(gate.name, gate.level): gate for gate in wanted}
    num_expectations = 0
    for validation in result.run_results.values():
        for one in validation.results:
            trouble = one.exception_info or {}
            assert not trouble.get("raised_exception"), f"an expectation could not be evaluated: {trouble}"
            meta = one.expectation_config.meta
            num_expectations += 1
            for row in one.result.get("unexpected_index_list") or []:
                yield known[meta["gate"], meta["level"]], row["id"]
    assert num_expectations == 2 * len(wanted), "an expectation was dropped from its suite"
