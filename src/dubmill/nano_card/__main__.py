"""`python -m dubmill.nano_card`: measure the shipped weights, run the line on them, and write the card with its pictures."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from dubmill.artifacts import Backbone, DubSet, PairSet
from dubmill.nano_card import films, line, page, pictures
from dubmill.nano_card.figures import Row
from dubmill.nano_card.pictures import Shown
from dubmill.params import Params, load

TRIED = Path(__file__).parent / "tried.md"
_NUM_SCORER_FILMS = 100


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(prog="python -m dubmill.nano_card", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--clips", type=int, default=200, help="of each kind")
    arguments = parser.parse_args()
    (arguments.docs / "images").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        write(load(arguments.params), arguments.docs, Path(scratch), num_clips=arguments.clips)


def write(params: Params, docs: Path, work: Path, *, num_clips: int) -> dict[str, Any]:
    """Measure everything, half of it in a process of its own, and write page, JSON and pictures to `docs`."""
    from dubmill.backbone import load as load_modules
    from dubmill.steps.backbone import backbone as materialize

    started = time.monotonic()
    prompts = params.prompts.model_copy(update={"num_heldout": num_clips // 2})
    params = params.model_copy(update={"prompts": prompts})
    backbone = materialize(params.backbone, work / "backbone")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        filmed = pool.submit(_films, backbone.path, params, num_clips)
        outcome = pool.submit(line.run, backbone, params, work).result()
        rows = filmed.result() | outcome.rows
    _draw(backbone, params, work, docs / "images")
    facts = {
        "num_clips": num_clips,
        "num_cores": os.cpu_count(),
        "line": {name: getattr(outcome, name) for name in ("num_made", "num_accepted", "seconds")},
        "seconds_per_clip": _seconds_per_clip(load_modules(backbone), params),
        "films_per_second": _films_per_second(),
        "scorers": _scorers(backbone),
        "training": _training(),
        "measured_seconds": round(time.monotonic() - started),
    }
    told = page.card(rows, facts)
    page.write(told, TRIED, docs)
    return told


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _films(backbone: Path, params: Params, num_clips: int) -> dict[str, list[Row]]:
    from dubmill.backbone import load as load_modules
    from dubmill.backbone import load_scorers

    opened = Backbone.open(backbone)
    return films.measure(load_modules(opened), load_scorers(opened), params, num_clips=num_clips)


def _seconds_per_clip(modules: Any, params: Params) -> float:  # noqa: ANN401 (Modules, whose import is heavy)
    """Median of three clips from text, one at a time."""
    from dubmill.generation import generate
    from dubmill.nano.captions import caption

    taken = []
    for index in range(4):
        one = films.take(index)
        started = time.monotonic()
        generate([caption(one.puppet.describe(), one.film.phrases)], [index], params.synthesize, modules)
        taken.append(time.monotonic() - started)
    return round(statistics.median(taken[1:]), 3)


def _films_per_second() -> float:
    from dubmill.nano.pretrain.data import take

    started, count = time.monotonic(), 60
    for seed in range(count):
        take(seed)
    return round(count / (time.monotonic() - started), 1)


def _scorers(backbone: Backbone) -> dict[str, float]:
    from dubmill.backbone import load_scorers
    from dubmill.nano.pretrain.scorers import scorer_figures

    return scorer_figures(load_scorers(backbone), num_clips=_NUM_SCORER_FILMS)


def _training() -> dict[str, Any]:
    import json

    from dubmill.nano.weights import TRAINING, WEIGHTS

    return json.loads((WEIGHTS / TRAINING).read_text())


def _draw(backbone: Backbone, params: Params, work: Path, images: Path) -> None:
    """The pictures: a held-out clip and its dubs, its sound, the curves, and the dub beside its source."""
    pairs, dubs = PairSet.open(work / "gate"), DubSet.open(work / "dub")
    shown = []
    for pair in pairs.split("heldout")[:2]:
        said = {row.method: row.id for row in dubs.rows if row.pair_id == pair.id}
        shown += [
            Shown(f"source: {pair.original.text}", pairs.clip(pair.id, "original")),
            *(Shown(f"{method}: {pair.counterpart.text}", dubs.clip(name, "dub")) for method, name in said.items()),
            Shown(f"true dub: {pair.counterpart.text}", pairs.clip(pair.id, "counterpart")),
        ]
    pictures.contact_sheet(shown, images / "nano-sheet.png")
    pictures.spectrograms(shown, images / "nano-mels.png")
    pictures.curves(_training(), images / "nano-curves.png")
    pictures.side_by_side(
        [shown[0], shown[1], shown[len(shown) // 2 - 1]], [0, 1], images / "nano-dub.mp4", images / "nano-dub.webp"
    )


if __name__ == "__main__":
    main()
