"""Applies the gates as one Great Expectations suite per level; its results are the verdicts, so its pages show them.

A gate is one field of `params.Thresholds`: `min_words_right` bounds the column `words_right` of a measurement row. A
figure that could not be measured violates its gate.
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
    from great_expectations.checkpoint.checkpoint import CheckpointResult
    from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext

Level = Literal["strict", "warning"]
LEVELS: tuple[Level, ...] = ("strict", "warning")
SITE = "docs"


@dataclass(frozen=True)
class Gate:
    """One bound on one column; `name` is the parameter, such as `min_words_right`."""

    name: str
    level: Level
    bound: float

    @property
    def column(self) -> str:
        """Returns the column of a measurement row that it bounds."""
        return self.name.removeprefix("min_").removeprefix("max_")

    @property
    def is_minimum(self) -> bool:
        """Returns whether the bound is a minimum; otherwise it is a maximum."""
        return self.name.startswith("min_")


@dataclass(frozen=True)
class Violation:
    """A gate that a pair violates, and the pair's value."""

    gate: Gate
    value: float
    trouble: str = ""  # why it could not be measured, where the scorers say so

    @property
    def reason(self) -> str:
        """Returns a sentence such as `min_words_right: 0.50 is below 1.00`, and the trouble behind a value that says nothing."""
        why = f" ({self.trouble})" if self.trouble else ""
        if not np.isfinite(self.value):
            return f"{self.gate.name}: could not be measured{why}"
        side = "below" if self.gate.is_minimum else "above"
        is_nothing = self.value == 0 and self.gate.name.endswith("_cosine")  # no voice, no face
        return f"{self.gate.name}: {self.value:.4g} is {side} {self.gate.bound:.4g}{why if is_nothing else ''}"


@dataclass(frozen=True)
class Verdict:
    """The violations of one pair, by level."""

    id: str
    violations: tuple[Violation, ...]  # of strict gates
    warnings: tuple[Violation, ...]  # of warning gates

    @property
    def is_accepted(self) -> bool:
        """Returns whether no strict gate is violated."""
        return not self.violations

    @property
    def reasons(self) -> str:
        """Returns the violations of strict gates as text; empty where accepted."""
        return "; ".join(violation.reason for violation in self.violations)

    @property
    def warning_reasons(self) -> str:
        """Returns the violations of warning gates as text."""
        return "; ".join(violation.reason for violation in self.warnings)


@dataclass(frozen=True)
class GateResult:
    """The verdicts in the order of the rows."""

    verdicts: tuple[Verdict, ...]

    @property
    def num_accepted(self) -> int:
        """Returns the number of accepted pairs."""
        return sum(verdict.is_accepted for verdict in self.verdicts)

    @property
    def accepted_share(self) -> float:
        """Returns the share of accepted pairs; 0 without pairs."""
        return self.num_accepted / len(self.verdicts) if self.verdicts else 0.0

    def by_gate(self, level: Level) -> dict[str, int]:
        """Returns the number of pairs that violate each gate of a level; a pair may violate several."""
        counts = Counter(
            violation.gate.name
            for verdict in self.verdicts
            for violation in (verdict.violations if level == "strict" else verdict.warnings)
        )
        return {name: counts[name] for name in Thresholds.model_fields}


def gates(params: GateParams) -> list[Gate]:
    """Returns the gates of both levels, strict ones first, in the order of the parameters."""
    return [
        Gate(name, level, float(bound))
        for level in LEVELS
        for name, bound in getattr(params, level).model_dump().items()
        if bound != "none"
    ]


def apply_gates(rows: Sequence[Mapping[str, Any]], params: GateParams, site: Path | None = None) -> GateResult:
    """Returns the verdicts of both levels of gates on measurement rows; builds Data Docs in the folder `site`, if given.

    Without rows there are no verdicts and no docs.
    """
    if not rows:
        return GateResult(())
    all_gates = gates(params)
    violated = set(_violated(_run(rows, all_gates, site), all_gates))

    def violations(row: Mapping[str, Any], level: Level) -> tuple[Violation, ...]:
        return tuple(
            Violation(gate, float(row[gate.column]), str(row.get("not_measured", "")))
            for gate in all_gates
            if gate.level == level and (gate, row["id"]) in violated
        )

    return GateResult(tuple(Verdict(row["id"], violations(row, "strict"), violations(row, "warning")) for row in rows))


def _context(site: Path | None) -> EphemeralDataContext:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    if site is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        context.add_data_docs_site(
            SITE, {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
        )
    return context


def _run(rows: Sequence[Mapping[str, Any]], all_gates: Sequence[Gate], site: Path | None) -> CheckpointResult:
    """Validates the rows by one suite per level. The run's time is fixed, so that equal rows give equal pages."""
    context = _context(site)
    import great_expectations as gx
    import pandas as pd
    from great_expectations.checkpoint.actions import UpdateDataDocsAction, ValidationAction
    from great_expectations.core.run_identifier import RunIdentifier

    asset = context.data_sources.add_pandas("measurements").add_dataframe_asset("pairs")
    batch = asset.add_batch_definition_whole_dataframe("train")
    definitions = [
        context.validation_definitions.add(
            gx.ValidationDefinition(name=level, data=batch, suite=_suite(context, level, all_gates))
        )
        for level in LEVELS
    ]
    actions: list[ValidationAction] = []
    if site is not None:
        actions.append(UpdateDataDocsAction(name=SITE, site_names=[SITE]))
    complete = {"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]}
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name="gate", validation_definitions=definitions, result_format=complete, actions=actions)
    )
    columns = ["id", *dict.fromkeys(gate.column for gate in all_gates)]
    table = pd.DataFrame([{name: row[name] for name in columns} for row in rows])
    return checkpoint.run(
        batch_parameters={"dataframe": table}, run_id=RunIdentifier("gate", "2000-01-01T00:00:00+00:00")
    )


def _suite(context: EphemeralDataContext, level: Level, all_gates: Sequence[Gate]) -> Any:
    import great_expectations as gx
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
    from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull
    from great_expectations.expectations.metadata_types import FailureSeverity

    suite = context.suites.add(gx.ExpectationSuite(level))
    severity = FailureSeverity.CRITICAL if level == "strict" else FailureSeverity.WARNING
    for gate in all_gates:
        if gate.level == level:
            least, most = (gate.bound, None) if gate.is_minimum else (None, gate.bound)
            meta = {"gate": gate.name, "level": level}
            suite.add_expectation(
                ExpectColumnValuesToBeBetween(
                    column=gate.column, min_value=least, max_value=most, severity=severity, meta=meta
                )
            )
            suite.add_expectation(ExpectColumnValuesToNotBeNull(column=gate.column, severity=severity, meta=meta))
    return suite


def _violated(result: CheckpointResult, all_gates: Sequence[Gate]) -> Iterator[tuple[Gate, str]]:
    """Yields each (gate, row id) that an expectation found outside its bound or without a figure."""
    known = {(gate.name, gate.level): gate for gate in all_gates}
    num_expectations = 0
    for validation in result.run_results.values():
        for outcome in validation.results:
            error = outcome.exception_info or {}
            assert not error.get("raised_exception"), f"an expectation could not be evaluated: {error}"
            config = outcome.expectation_config
            assert config is not None, "an expectation result names no expectation"
            assert config.meta is not None, "every expectation of the suite has a meta"
            num_expectations += 1
            for row in outcome.result.get("unexpected_index_list") or []:
                yield known[config.meta["gate"], config.meta["level"]], row["id"]
    assert num_expectations == 2 * len(all_gates), "an expectation was dropped from its suite"
