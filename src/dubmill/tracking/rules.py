"""Conditions for promotion: floors, no regression, and an improvement, on the same held-out clips."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from dubmill.artifacts.store import PairSet
from dubmill.config.params import PromoteParams
from dubmill.errors import InvalidArtifactError, InvalidParamsError
from dubmill.metrics import METRICS

METHOD = "adapter"
Rows = Mapping[str, Mapping[str, Any]]  # pair id -> its figures


def dubs_of(rows: Sequence[Mapping[str, Any]], where: str) -> Rows:
    """Returns the rows of the adapter's dubs by pair id.

    Raises:
        InvalidArtifactError: the report measured none.
    """
    dubs = {row["pair_id"]: row for row in rows if row.get("method") == METHOD}
    if not dubs:
        raise InvalidArtifactError(
            "no dub by the adapter was measured", where=where, cure="put `adapter` into dub.methods"
        )
    return dubs


def heldout_digest(pairs: PairSet) -> str:
    """Returns a digest of the held-out clips and their lines; training pairs do not change it."""
    digest = hashlib.sha256()
    for row in pairs.split("heldout"):
        digest.update(json.dumps([row.id, row.counterpart.model_dump()], sort_keys=True).encode())
        digest.update(hashlib.sha256(pairs.data(row.id, "original.clip")).digest())
    return digest.hexdigest()


def directions(names: Sequence[str]) -> dict[str, str]:
    """Returns the better direction of each metric, `higher` or `lower`.

    Raises:
        InvalidParamsError: the table of metrics does not know one.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        known = ", ".join(sorted(METRICS))
        raise InvalidParamsError(f"no metric is called {unknown[0]!r}", where="promote", cure=f"use one of {known}")
    return {name: METRICS[name].better for name in names}


def names_in(params: PromoteParams) -> list[str]:
    """Every metric that the rules name, once."""
    return list(dict.fromkeys([*params.improve, *params.max_regression, *params.floors]))


def means(dubs: Rows, names: Sequence[str]) -> dict[str, float]:
    """Returns the mean of each metric over the clips that have it; metrics that no clip has are left out."""
    values = {name: [row[name] for row in dubs.values() if _is_number(row.get(name))] for name in names}
    return {name: math.fsum(found) / len(found) for name, found in values.items() if found}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def below_floors(dubs: Rows, floors: Mapping[str, float], better: Mapping[str, str]) -> Iterator[str]:
    """Yields a reason for each mean below its floor (above it, where lower is better)."""
    found = means(dubs, list(floors))
    for name, floor in floors.items():
        if name not in found:
            yield f"{name} was not measured on any clip"
        elif better[name] == "higher" and found[name] < floor:
            yield f"{name} is {found[name]:.4g}, below its floor {floor:g}"
        elif better[name] == "lower" and found[name] > floor:
            yield f"{name} is {found[name]:.4g}, above its ceiling {floor:g}"


def gain(ours: Rows, theirs: Rows, name: str, better: str) -> float | None:
    """Returns the mean paired gain over the champion, positive where ours is better; None where no clip has both."""
    sign = 1.0 if better == "higher" else -1.0
    both = ((row.get(name), theirs[pair_id].get(name)) for pair_id, row in ours.items())
    gains = [sign * (mine - other) for mine, other in both if _is_number(mine) and _is_number(other)]
    return math.fsum(gains) / len(gains) if gains else None


def against(ours: Rows, theirs: Rows, params: PromoteParams, better: Mapping[str, str]) -> Iterator[str]:
    """Yields a reason for each regression beyond its limit, and one where no metric is better."""
    for name, most in params.max_regression.items():
        found = gain(ours, theirs, name, better[name])
        if found is None:
            yield f"{name} was not measured on any common clip"
        elif found < -most:
            yield f"{name} is worse than the champion's by {-found:.4g} (at most {most:g} allowed)"
    gains = {name: gain(ours, theirs, name, better[name]) for name in params.improve}
    if not any(found is not None and found > 0 for found in gains.values()):
        gain_texts = ", ".join(
            f"{name} {'not measured' if found is None else f'{found:+.4g}'}" for name, found in gains.items()
        )
        yield f"no metric of promote.improve is better than the champion's ({gain_texts})"
