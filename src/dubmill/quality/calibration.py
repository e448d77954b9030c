"""Finds the bounds of the strict gates from true and damaged pairs, and measures both on other puppets.

Each gate has damages of its own. Its base bound is the loosest with which it alone rejects nearly all of each of them. The
tightness moves all bounds from there (0) towards the edge of the pairs to keep (1): the worst true pair, or the 5th
percentile of self-made pairs where that is looser. The bounds half-way are taken, or tighter ones where a damage needs
them. A gate whose damages overlap with true pairs rejects at most the allowed share of those. The sync gates, whose
damaged and self-made pairs overlap, are then loosened towards the edge as far as the target holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dubmill.config.params import Thresholds
from dubmill.quality.suite import Gate

TRUE, SELF_MADE = "true_pair", "self_made_pair"
KEPT = (TRUE, SELF_MADE)
TARGET = 0.95  # share of each damage that is to be rejected on other puppets
FIT_TARGET = 0.97  # the same on the puppets that the bounds are found on
NUM_STEPS = 20  # from a bound to the edge, when it is loosened
MAX_TRUE = 0.03  # share of true pairs that may be rejected
TIGHTNESS = tuple(step / 20 for step in range(21))
LEAST_TIGHTNESS = 0.5
KEPT_QUANTILE = 0.05  # of self-made pairs, some of which are bad
LOOSENED = ("min_lse_c", "min_sync_correlation")
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
    """Bounds found on one half of the puppets, and rejection rates on the other half."""

    bounds: dict[str, float]
    tightness: float
    rejected: dict[str, float]  # damage or TRUE -> share, on the test half
    rejected_by_old: dict[str, float]  # by the bounds in the params, on the test half
    num_tested: dict[str, int]
    curve: list[Point]  # on the half that the bounds were found on

    @property
    def missed(self) -> list[str]:
        """Returns the damages whose rejection rate is below the target, and TRUE where too many are rejected."""
        damages = [name for name, share in self.rejected.items() if name not in KEPT and share < TARGET]
        return damages + ([TRUE] if self.rejected[TRUE] > MAX_TRUE else [])


def calibrate(rows: Sequence[Measurement], strict: Thresholds) -> Calibration:
    """Returns bounds for the strict gates, found on every second puppet and measured on the others."""
    puppets = list(dict.fromkeys(row["puppet"] for row in rows))
    halves = [_by_damage(rows, puppets[half::2]) for half in (0, 1)]
    gates = [Gate(name, "strict", float(bound)) for name, bound in strict.model_dump().items() if bound != "none"]
    candidates = {tightness: _bounds(gates, halves[0], tightness) for tightness in TIGHTNESS}
    curve = [Point(tightness, *_extremes(_rates(bounds, halves[0]))) for tightness, bounds in candidates.items()]
    chosen = next(
        (
            point.tightness
            for point in curve
            if point.tightness >= LEAST_TIGHTNESS and point.least_damage_rejected >= FIT_TARGET
        ),
        LEAST_TIGHTNESS,
    )
    found = _loosened(candidates[chosen], halves[0])
    return Calibration(
        bounds={gate.name: gate.bound for gate in found},
        tightness=chosen,
        rejected=_rates(found, halves[1]),
        rejected_by_old=_rates(gates, halves[1]),
        num_tested={damage: len(figures) for damage, figures in halves[1].items()},
        curve=curve,
    )


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
    base = max(_quantile([sign * figures[gate.column] for figures in rows], FIT_TARGET) for rows in damages)
    true = sorted(_finite([sign * figures[gate.column] for figures in half[TRUE]]))
    edge, limit = sign * _edge(gate, half), true[int(MAX_TRUE * len(true))]
    tightened = base + tightness * (edge - base) if base < edge else min(base, limit)
    return sign * max(min(sign * gate.bound, edge), tightened)


def _edge(gate: Gate, half: Figures) -> float:
    """Returns the gate's value of the worst pair to keep: true pairs, or the 5th percentile of self-made ones."""
    sign = _sign(gate)
    edge = min(_finite([sign * figures[gate.column] for figures in half[TRUE]]))
    if SELF_MADE in half:
        self_made = _finite([sign * figures[gate.column] for figures in half[SELF_MADE]])
        edge = min(edge, float(np.quantile(self_made, KEPT_QUANTILE)))
    return sign * edge


def _sign(gate: Gate) -> float:
    """Returns the factor that makes every gate a minimum."""
    return 1.0 if gate.is_minimum else -1.0


def _loosened(found: Sequence[Gate], half: Figures) -> list[Gate]:
    """Returns the gates with those of LOOSENED moved towards the edge of the pairs to keep, while every rate holds."""
    gates = list(found)
    needed = {damage: min(rate, FIT_TARGET) for damage, rate in _rates(gates, half).items() if damage not in KEPT}
    for name in LOOSENED:
        place = next(place for place, gate in enumerate(gates) if gate.name == name)
        start, end = gates[place].bound, min(gates[place].bound, _edge(gates[place], half))
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


def _extremes(rates: Mapping[str, float]) -> tuple[float, float]:
    """Returns the rate of true pairs and the least rate of all damages."""
    return rates[TRUE], min(rate for name, rate in rates.items() if name not in KEPT)
