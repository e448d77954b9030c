"""Measures everything on the card, half of it in a second process."""

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
from dubmill.generation.sampling import generate_clips
from dubmill.model.load import Modules
from dubmill.model.loras import load_for_sampling
from dubmill.nano.captions import caption
from dubmill.nano.pretrain.data import take
from dubmill.nano.pretrain.scorers import scorer_figures
from dubmill.nano.scorers import NanoScorers
from dubmill.nano.weights import TRAINING, WEIGHTS
from dubmill.nano_card import films, page, pictures, pipeline_run
from dubmill.nano_card.figures import Row
from dubmill.nano_card.pictures import LabelledClip
from dubmill.steps.backbone import backbone as materialize
from dubmill.worlds.nano import NanoWorld

TRIED = Path(__file__).parent / "tried.md"
_NUM_SCORER_FILMS = 100
_NUM_TIMED_FILMS = 60
_NUM_PICTURED_PAIRS = 2


def measure_and_write(params: Params, docs: Path, work: Path, *, num_clips: int) -> dict[str, Any]:
    """Measures everything and writes the page, its JSON and its pictures to `docs`; returns the card's data."""
    started = time.monotonic()
    prompts = params.prompts.model_copy(update={"num_heldout": num_clips // 2})
    params = params.model_copy(update={"prompts": prompts})
    backbone = materialize(params.backbone, work / "backbone")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=_use_one_thread) as pool:
        film_rows = pool.submit(_measure_films, backbone.path, params, num_clips)
        training_run = pool.submit(pipeline_run.train_adapter, backbone, params, work).result()
        dub_rows = [pool.submit(pipeline_run.dub_rows, backbone, params, work, method) for method in params.dub.methods]
        rows = film_rows.result() | {method: some for future in dub_rows for method, some in future.result().items()}
    _write_pictures(work, params.dub.methods, docs / "images")
    facts = {
        "num_clips": num_clips,
        "num_cores": os.cpu_count(),
        "line": asdict(training_run),
        "seconds_per_clip": _seconds_per_clip(load_for_sampling(backbone, params.synthesize.sampling.lora), params),
        "films_per_second": _films_per_second(),
        "scorers": scorer_figures(_scorers(backbone), num_clips=_NUM_SCORER_FILMS),
        "training": _training(),
        "measured_seconds": round(time.monotonic() - started),
    }
    card = page.card(rows, facts)
    page.write_card(card, TRIED, docs)
    return card


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _scorers(backbone: Backbone) -> NanoScorers:
    """Returns nano's own scorers."""
    return NanoWorld(backbone).scorers()


def _measure_films(backbone: Path, params: Params, num_clips: int) -> dict[str, list[Row]]:
    opened, loras = Backbone.open(backbone), (params.synthesize.sampling.lora, params.inpaint.sampling.lora)
    return films.measure_clips(load_for_sampling(opened, *loras), _scorers(opened), params, num_clips=num_clips)


def _seconds_per_clip(modules: Modules, params: Params) -> float:
    """Returns median seconds of three clips generated from text, one at a time."""
    seconds = []
    for index in range(4):
        case = films.dub_case(index)
        started = time.monotonic()
        generate_clips([caption(case.puppet.describe(), case.film.phrases)], [index], params.synthesize, modules)
        seconds.append(time.monotonic() - started)
    return round(statistics.median(seconds[1:]), 3)


def _films_per_second() -> float:
    started = time.monotonic()
    for seed in range(_NUM_TIMED_FILMS):
        take(seed)
    return round(_NUM_TIMED_FILMS / (time.monotonic() - started), 1)


def _training() -> dict[str, Any]:
    return json.loads((WEIGHTS / TRAINING).read_text())


def _write_pictures(work: Path, methods: Sequence[str], images: Path) -> None:
    """Writes contact sheet, spectrograms, training curves, and a video of a dub beside its source."""
    pairs = PairSet.open(work / "gate")
    dubs = {method: DubSet.open(work / f"dub-{method}") for method in methods}
    shown: list[LabelledClip] = []
    for pair in pairs.split("heldout")[:_NUM_PICTURED_PAIRS]:
        rows = {method: next(row for row in some.rows if row.pair_id == pair.id) for method, some in dubs.items()}
        shown += [
            LabelledClip(f"source: {pair.original.text}", pairs.clip(pair.id, "original")),
            *(LabelledClip(f"{name}: {row.line.text}", dubs[name].clip(row.id, "dub")) for name, row in rows.items()),
            LabelledClip(f"true dub: {pair.counterpart.text}", pairs.clip(pair.id, "counterpart")),
        ]
    pictures.labelled_rows(shown, images / "nano-sheet.png")
    pictures.spectrograms(shown, images / "nano-mels.png")
    pictures.curves(_training(), images / "nano-curves.png")
    source, dub, truth = shown[0], shown[1], shown[len(shown) // _NUM_PICTURED_PAIRS - 1]
    pictures.side_by_side([source, dub, truth], [0, 1], images / "nano-dub.mp4", images / "nano-dub.webp")
