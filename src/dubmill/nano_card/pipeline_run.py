"""Runs the pipeline on nano: trains an adapter on self-made, gated pairs, and dubs unseen puppets with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from dubmill.artifacts.store import Adapter, Backbone, ClipSet, DubSet, PairSet
from dubmill.config.params import Params
from dubmill.metrics import observe
from dubmill.nano_card.figures import PUPPET, Row, own_row, source_row
from dubmill.worlds.nano import NanoWorld

Result = TypeVar("Result")


@dataclass(frozen=True)
class TrainingRun:
    """Counts and times of the steps up to `train`."""

    num_pairs: int  # self-made training pairs
    num_accepted: int  # of them, by the gate
    seconds: dict[str, float]  # of each step


class _Stopwatch:
    """Runs steps and records the seconds of each by its name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, word: str, step: Callable[[], Result]) -> Result:
        started = time.monotonic()
        result = step()
        self.seconds[word] = round(time.monotonic() - started, 1)
        return result


def train_adapter(backbone: Backbone, params: Params, work: Path) -> TrainingRun:
    """Runs the steps `prompts` to `train` in `work`."""
    from dubmill.steps.encode import encode
    from dubmill.steps.gate import gate
    from dubmill.steps.inpaint import inpaint
    from dubmill.steps.prompts import prompts
    from dubmill.steps.synthesize import synthesize
    from dubmill.steps.train import train

    watch = _Stopwatch()
    prompt_set = watch.run("prompts", lambda: prompts(params.prompts, work / "prompts"))
    watch.run("synthesize", lambda: synthesize(backbone, prompt_set, params.synthesize, work / "synthesize"))
    clips = ClipSet.open(work / "synthesize")
    watch.run("inpaint", lambda: inpaint(backbone, clips, params.inpaint, work / "inpaint"))
    pairs = PairSet.open(work / "inpaint")
    gated = watch.run("gate", lambda: gate(backbone, pairs, params.scorers, params.gate, work / "gate"))
    latents = watch.run("encode", lambda: encode(backbone, gated, params.encode, work / "encode"))
    watch.run("train", lambda: train(backbone, latents, params.train, work / "train"))
    return TrainingRun(len(pairs.split("train")), sum(row.accepted for row in gated.split("train")), watch.seconds)


def dub_rows(backbone: Backbone, params: Params, work: Path, method: str) -> dict[str, list[Row]]:
    """Dubs every held-out pair in `work` by one method; returns one row of figures per pair, under the method."""
    from dubmill.steps.dub import dub

    pairs, adapter = PairSet.open(work / "gate"), Adapter.open(work / "train")
    dub_params = params.dub.model_copy(update={"methods": [method]})
    dub(backbone, adapter, pairs, dub_params, work / f"dub-{method}")
    return _rows(backbone, pairs, DubSet.open(work / f"dub-{method}"))


def _rows(backbone: Backbone, pairs: PairSet, dubs: DubSet) -> dict[str, list[Row]]:
    scorers = NanoWorld(backbone).scorers()
    rows: dict[str, list[Row]] = {}
    by_id = {row.id: row for row in pairs.split("heldout")}
    for dub_row in dubs.rows:
        pair = by_id[dub_row.pair_id]
        source = observe(pairs.clip(pair.id, "original"), scorers)
        dub = observe(dubs.clip(dub_row.id, "dub"), scorers)
        figures = (
            {PUPPET: float(pair.seed)}
            | own_row(dub, [dub_row.line])
            | source_row(dub, source, np.asarray(pair.mouth_boxes))
        )
        rows.setdefault(dub_row.method, []).append(figures)
    return rows
