"""Finds the bounds of the strict gates from true and damaged pairs, and cross-validates their rejection rates.

Each gate has damages of its own. Its base bound is the loosest with which it alone rejects nearly all of each of them. The
tightness moves all bounds from there (0) towards the edge of the pairs to keep (1): the worst true pair, or the 5th
percentile of self-made pairs where that is looser. The bounds half-way are taken, or tighter ones where a damage needs
them. A gate whose damages overlap with true pairs rejects at most the allowed share of those. The sync gates, whose
damaged and self-made pairs overlap, are then loosened towards the edge as far as the target holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np

from dubmill.config.params import Thresholds
from dubmill.quality.suite import Gate

TRUE, SELF_MADE = "true_pair", "self_made_pair"
KEPT = (TRUE, SELF_MADE)
TARGET = 0.95  # share of each damage that is to be rejected on other puppets
FIT_TARGET = 0.96  # the same on the puppets that the bounds are found on
NUM_STEPS = 20  # from a bound to the edge, when it is loosened
MAX_TRUE = 0.03  # share of true pairs that may be rejected
TIGHTNESS = tuple(step / 20 for step in range(21))
LEAST_TIGHTNESS = 0.5
KEPT_QUANTILE = 0.05  # of self-made pairs, some of which are bad
LOOSENED = ("min_lse_c", "max_lse_d", "min_sync_correlation")
OWN_DAMAGES: dict[str, tuple[str, ...]] = {
    "min_voice_cosine": ("other_voice",),
    "min_identity_cosine": ("other_face",),
    "min_sync_correlation": ("sound_late_200_ms", "sound_early_120_ms", "mouth_frozen", "mouth_backwards"),
    "min_lse_c": ("lips_other_words", "mouth_frozen"),
    "max_lse_d": ("mouth_frozen",),
    "max_sync_offset_frames": ("sound_late_80_ms", "sound_early_80_ms"),
    "min_outside_psnr_db": ("picture_blurred", "picture_grainy"),
    "min_mouth_sharpness": ("mouth_blurred",),
    "min_loudness_dbfs": ("sound_quiet", "sound_silent"),
    "max_clipped_share": ("sound_clipped",),
    "max_duration_gap_ms": ("sound_short", "clip_long"),
}
"""Gate -> damages that it is to reject alone; gates without an entry keep their bound."""

Measurement = Mapping[str, Any]
"""{"damage": name or one of KEPT, "puppet": id, "figures": {column: value}}."""


@dataclass(frozen=True)
class Point:
    """Rates at one tightness."""

    tightness: float
    true_rejected: float
    least_damage_rejected: float


@dataclass(frozen=True)
class Calibration:
    """Bounds found on all puppets, and rejection rates on puppets that the bounds did not see."""

    bounds: dict[str, float]
    tightness: float
    rejected: dict[str, float]  # damage, or one of KEPT -> share; each half by the bounds of the other half
    rejected_by_found: dict[str, float]  # by the bounds found on all puppets, on the same puppets
    rejected_by_old: dict[str, float]  # by the bounds in the params
    num_tested: dict[str, int]
    curve: list[Point]  # on all puppets, before the sync gates are loosened

    @property
    def missed(self) -> list[str]:
        """Returns the damages whose rejection rate is below the target, and TRUE where too many are rejected."""
        damages = [name for name, share in self.rejected.items() if name not in KEPT and share < TARGET]
        return damages + ([TRUE] if self.rejected[TRUE] > MAX_TRUE else [])


def calibrate(rows: Sequence[Measurement], strict: Thresholds) -> Calibration:
    """Returns bounds for the strict gates from all puppets, and the rates of each half with the other half's bounds."""
    puppets = list(dict.fromkeys(row["puppet"] for row in rows))
    old = [Gate(name, "strict", float(bound)) for name, bound in strict.model_dump().items() if bound != "none"]
    halves = [_by_damage(rows, puppets[half::2]) for half in (0, 1)]
    everything = _by_damage(rows, puppets)
    found, tightness, curve = _find(old, everything)
    cross_fitted = [_find(old, halves[1 - half])[0] for half in (0, 1)]
    return Calibration(
        bounds={gate.name: gate.bound for gate in found},
        tightness=tightness,
        rejected=_pooled([_rates(gates, half) for gates, half in zip(cross_fitted, halves, strict=True)], halves),
        rejected_by_found=_rates(found, everything),
        rejected_by_old=_rates(old, everything),
        num_tested={damage: len(figures) for damage, figures in everything.items()},
        curve=curve,
    )


def _find(old: Sequence[Gate], figures: Figures) -> tuple[list[Gate], float, list[Point]]:
    """Returns the bounds that these pairs give, the tightness taken, and the rates at every tightness."""
    candidates = {tightness: _bounds(old, figures, tightness) for tightness in TIGHTNESS}
    curve = [_point(tightness, _rates(gates, figures)) for tightness, gates in candidates.items()]
    enough = [point.tightness for point in curve if point.least_damage_rejected >= FIT_TARGET]
    tightness = min((value for value in enough if value >= LEAST_TIGHTNESS), default=LEAST_TIGHTNESS)
    return _loosened(candidates[tightness], figures), tightness, curve


def _pooled(rates: Sequence[Mapping[str, float]], halves: Sequence[Figures]) -> dict[str, float]:
    """Returns the rates over both halves together."""
    counts = {name: [len(half.get(name, ())) for half in halves] for half in halves for name in half}
    return {
        name: sum(rate.get(name, 0.0) * count for rate, count in zip(rates, numbers, strict=True)) / sum(numbers)
        for name, numbers in counts.items()
    }


Figures = dict[str, list[Mapping[str, float]]]
"""damage, or one of KEPT -> figures of each pair."""


def _by_damage(rows: Sequence[Measurement], puppets: Sequence[str]) -> Figures:
    figures: Figures = {}
    for row in rows:
        if row["puppet"] in puppets:
            figures.setdefault(row["damage"], []).append(row["figures"])
    return figures


def _bounds(gates: Sequence[Gate], half: Figures, tightness: float) -> list[Gate]:
    return [Gate(gate.name, gate.level, _bound(gate, half, tightness)) for gate in gates]


def _bound(gate: Gate, half: Figures, tightness: float) -> float:
    """Returns the gate's bound at a tightness; the old bound where the gate has no damage of its own."""
    damages = [half[name] for name in OWN_DAMAGES.get(gate.name, ()) if name in half]
    if not damages:
        return gate.bound
    sign = _sign(gate)
    columns = [[sign * figures[gate.column] for figures in rows] for rows in damages]
    edge, base = sign * _edge(gate, half), max(_quantile(values, FIT_TARGET) for values in columns)
    if base >= edge:
        base = max(_quantile(values, TARGET) for values in columns)
    tightened = base + tightness * (edge - base) if base < edge else min(base, sign * _worst_true(gate, half))
    return sign * max(min(sign * gate.bound, edge), tightened)


def _edge(gate: Gate, half: Figures) -> float:
    """Returns the gate's value of the worst pair to keep: true pairs, or the 5th percentile of self-made ones."""
    sign = _sign(gate)
    edge = sign * _worst_true(gate, half)
    if SELF_MADE in half:
        self_made = _finite([sign * figures[gate.column] for figures in half[SELF_MADE]])
        edge = min(edge, float(np.quantile(self_made, KEPT_QUANTILE)))
    return sign * edge


def _worst_true(gate: Gate, half: Figures) -> float:
    """Returns the gate's value of the worst true pair but those that may be rejected: MAX_TRUE of all, at least one."""
    values = sorted(_sign(gate) * value for value in _finite([figures[gate.column] for figures in half[TRUE]]))
    return _sign(gate) * values[min(max(1, int(MAX_TRUE * len(values))), len(values) - 1)]


def _sign(gate: Gate) -> float:
    """Returns the factor that makes every gate a minimum."""
    return 1.0 if gate.is_minimum else -1.0


def _loosened(found: Sequence[Gate], half: Figures) -> list[Gate]:
    """Returns the gates with those of LOOSENED moved towards the edge of the pairs to keep, while every rate holds.

    Of all orders of loosening, the one that rejects the fewest pairs to keep.
    """
    results = [_loosened_in_order(found, half, order) for order in permutations(LOOSENED)]
    return min(results, key=lambda gates: sum(_rates(gates, half).get(kept, 0.0) for kept in KEPT))


def _loosened_in_order(found: Sequence[Gate], half: Figures, order: Sequence[str]) -> list[Gate]:
    gates = list(found)
    needed = {damage: min(rate, FIT_TARGET) for damage, rate in _rates(gates, half).items() if damage not in KEPT}
    for place in (place for name in order for place, gate in enumerate(gates) if gate.name == name):
        start, edge = gates[place].bound, _edge(gates[place], half)
        end = min(start, edge) if gates[place].is_minimum else max(start, edge)
        for step in range(NUM_STEPS, 0, -1):
            looser = replace(gates[place], bound=start + step / NUM_STEPS * (end - start))
            trial = [*gates[:place], looser, *gates[place + 1 :]]
            rates = _rates(trial, half)
            if all(rates[damage] >= least for damage, least in needed.items()):
                gates = trial
                break
    return gates


def _quantile(values: Sequence[float], share: float) -> float:
    """Returns the least bound below which at least `share` of the values lie; NaN violates every gate."""
    known = sorted(_finite(values))
    needed = int(np.ceil(share * len(values))) - (len(values) - len(known))
    if needed <= 0 or not known:
        return -np.inf
    return float(np.nextafter(known[needed - 1], np.inf))


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)]


def _rates(gates: Sequence[Gate], half: Figures) -> dict[str, float]:
    return {name: float(np.mean([_is_rejected(gates, row) for row in rows])) for name, rows in half.items()}


def _is_rejected(gates: Sequence[Gate], figures: Mapping[str, float]) -> bool:
    return any(not _is_inside(gate, figures[gate.column]) for gate in gates)


def _is_inside(gate: Gate, value: float) -> bool:
    return value >= gate.bound if gate.is_minimum else value <= gate.bound


def _point(tightness: float, rates: Mapping[str, float]) -> Point:
    """Returns the rejection rate of true pairs and the least one of all damages."""
    least = min(rate for name, rate in rates.items() if name not in KEPT)
    return Point(tightness, true_rejected=rates[TRUE], least_damage_rejected=least)
