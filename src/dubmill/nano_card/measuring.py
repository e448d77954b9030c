"""Everything that the card tells, measured: half of it in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dubmill.artifacts.store import Backbone, DubSet, PairSet
from dubmill.config.params import Params
from dubmill.generation.sampling import generate
from dubmill.model.load import Modules, load
from dubmill.nano.captions import caption
from dubmill.nano.pretrain.data import take
from dubmill.nano.pretrain.scorers import scorer_figures
from dubmill.nano.weights import TRAINING, WEIGHTS
from dubmill.nano_card import films, line, page, pictures
from dubmill.nano_card.figures import Row
from dubmill.nano_card.pictures import Shown
from dubmill.steps.backbone import backbone as materialize
from dubmill.worlds import world_of

TRIED = Path(__file__).parent / "tried.md"
_NUM_SCORER_FILMS = 100


def write(params: Params, docs: Path, work: Path, *, num_clips: int) -> dict[str, Any]:
    """Measure everything, half of it in a process of its own, and write page, JSON and pictures to `docs`."""
    started = time.monotonic()
    prompts = params.prompts.model_copy(update={"num_heldout": num_clips // 2})
    params = params.model_copy(update={"prompts": prompts})
    backbone = materialize(params.backbone, work / "backbone")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        filmed = pool.submit(_films, backbone.path, params, num_clips)
        trained = pool.submit(line.trained, backbone, params, work).result()
        dubbed = [pool.submit(line.dubbed, backbone, params, work, method) for method in params.dub.methods]
        rows = filmed.result() | {name: some for one in dubbed for name, some in one.result().items()}
    _draw(work, params.dub.methods, docs / "images")
    facts = {
        "num_clips": num_clips,
        "num_cores": os.cpu_count(),
        "line": asdict(trained),
        "seconds_per_clip": _seconds_per_clip(load(backbone), params),
        "films_per_second": _films_per_second(),
        "scorers": _scorers(backbone),
        "training": _training(),
        "measured_seconds": round(time.monotonic() - started),
    }
    told = page.card(rows, facts)
    page.write(told, TRIED, docs)
    return told


def _one_thread() -> None:
    torch.set_num_threads(1)


def _films(backbone: Path, params: Params, num_clips: int) -> dict[str, list[Row]]:
    opened = Backbone.open(backbone)
    return films.measure(load(opened), world_of(opened).scorers(), params, num_clips=num_clips)


def _seconds_per_clip(modules: Modules, params: Params) -> float:
    """Median of three clips from text, one at a time."""
    taken = []
    for index in range(4):
        one = films.take(index)
        started = time.monotonic()
        generate([caption(one.puppet.describe(), one.film.phrases)], [index], params.synthesize, modules)
        taken.append(time.monotonic() - started)
    return round(statistics.median(taken[1:]), 3)


def _films_per_second() -> float:
    started, count = time.monotonic(), 60
    for seed in range(count):
        take(seed)
    return round(count / (time.monotonic() - started), 1)


def _scorers(backbone: Backbone) -> dict[str, float]:
    return scorer_figures(world_of(backbone).scorers(), num_clips=_NUM_SCORER_FILMS)


def _training() -> dict[str, Any]:
    return json.loads((WEIGHTS / TRAINING).read_text())


def _draw(work: Path, methods: Sequence[str], images: Path) -> None:
    """The pictures: a held-out clip and its dubs, its sound, the curves, and the dub beside its source."""
    pairs = PairSet.open(work / "gate")
    dubs = {method: DubSet.open(work / f"dub-{method}") for method in methods}
    shown = []
    for pair in pairs.split("heldout")[:2]:
        said = {method: next(row for row in some.rows if row.pair_id == pair.id) for method, some in dubs.items()}
        shown += [
            Shown(f"source: {pair.original.text}", pairs.clip(pair.id, "original")),
            *(Shown(f"{method}: {row.line.text}", dubs[method].clip(row.id, "dub")) for method, row in said.items()),
            Shown(f"true dub: {pair.counterpart.text}", pairs.clip(pair.id, "counterpart")),
        ]
    pictures.contact_sheet(shown, images / "nano-sheet.png")
    pictures.spectrograms(shown, images / "nano-mels.png")
    pictures.curves(_training(), images / "nano-curves.png")
    pictures.side_by_side(
        [shown[0], shown[1], shown[len(shown) // 2 - 1]], [0, 1], images / "nano-dub.mp4", images / "nano-dub.webp"
    )
