"""Conditions for promotion: shares of each ceiling, no regression, and an improvement, on the same held-out clips."""

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
from dubmill.metrics.shares import CEILING, FLOOR, share_of_way

METHOD = "adapter"
Rows = Mapping[str, Mapping[str, Any]]  # pair id -> its figures


def dubs_of(rows: Sequence[Mapping[str, Any]], where: str) -> Rows:
    """Returns the rows of the adapter's dubs by pair id.

    Raises:
        InvalidArtifactError: the report measured none.
    """
    dubs = _of_method(rows, METHOD)
    if not dubs:
        raise InvalidArtifactError(
            "no dub by the adapter was measured", where=where, cure="put `adapter` into dub.methods"
        )
    return dubs


def _of_method(rows: Sequence[Mapping[str, Any]], method: str) -> Rows:
    return {row["pair_id"]: row for row in rows if row.get("method") == method}


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
        InvalidParamsError: METRICS has no metric of that name, or it is neutral: neither direction is better.
    """
    for name in names:
        if name not in METRICS or METRICS[name].better == "truth":
            known = ", ".join(sorted(metric.name for metric in METRICS.values() if metric.better != "truth"))
            fault = f"{name!r} is neutral: neither direction is better" if name in METRICS else f"no metric is {name!r}"
            raise InvalidParamsError(fault, where="promote", cure=f"use one of {known}")
    return {name: METRICS[name].better for name in names}


def names_in(params: PromoteParams) -> list[str]:
    """Returns every metric that the rules name, once."""
    return list(
        dict.fromkeys([*params.improve, *params.max_regression, *params.min_shares, *params.canary_max_regression])
    )


def means(dubs: Rows, names: Sequence[str]) -> dict[str, float]:
    """Returns the mean of each metric over the clips that have it; metrics that no clip has are left out."""
    values = {name: [row[name] for row in dubs.values() if _is_number(row.get(name))] for name in names}
    return {name: math.fsum(found) / len(found) for name, found in values.items() if found}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def below_shares(rows: Sequence[Mapping[str, Any]], min_shares: Mapping[str, float]) -> Iterator[str]:
    """Yields a reason for each metric whose mean is below its share of the way from floor to ceiling.

    `rows` are all rows of a report, with those of the methods `floor` and `ceiling`.
    """
    found = {method: means(_of_method(rows, method), list(min_shares)) for method in (METHOD, FLOOR, CEILING)}
    for name, least in min_shares.items():
        values = [found[method].get(name, math.nan) for method in (METHOD, FLOOR, CEILING)]
        share = share_of_way(name, values[0], values[1], values[2])
        if share is None:
            absent = [method for method, value in zip(found, values, strict=True) if math.isnan(value)]
            yield f"{name} has no share: {'not measured of ' + ', '.join(absent) if absent else 'floor and ceiling are equal'}"
        elif share < least:
            yield (
                f"{name} is {values[0]:.4g}, {share:.0%} of the way from floor {values[1]:.4g} to ceiling {values[2]:.4g}"
                f" (at least {least:.0%} required)"
            )


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
