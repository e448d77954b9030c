"""How much faster is a dub with the reference KV cache than one with full attention between reference and target?

    python benchmarks/reference_cache.py [--rounds 5] [--batch 1]

A reference that attends to itself alone goes through the transformer once per dub; its keys and values are reused at
every step. Both kinds are timed in turn in one run, on nano, whole dubs of one half clip with the committed sampling;
prints the median of the ratios pair by pair, and the same for reading the reference afresh at every step, which shows
what the reuse is worth. The cost does not depend on the weights' values, so no adapter is needed; quality does: train
one with `dvc exp run -S train.reference_attention=self`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.config import params
from dubmill.dubbing.dubber import Dubber
from dubmill.media.clips import Clip
from dubmill.model import conditioning, denoising
from dubmill.model.conditioning import ReferenceMode
from dubmill.model.load import load
from dubmill.nano import world
from dubmill.worlds.materialize import materialize


def source(seed: int) -> tuple[Clip, Line]:
    """Returns one half of a rendered clip, and the line of its dub."""
    phrases = world.random_phrases(np.random.default_rng(seed))
    half = world.halves(world.film(world.puppet(seed), phrases, motion_seed=seed))[0]
    clip = Clip(half.frames_FHWC, Fraction(world.FRAME_RATE), half.audio_N[None], world.SAMPLE_RATE_HZ)
    return clip, Line(language=phrases[1].language, text=" ".join(phrases[1].words))


def seconds(work: Any) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def afresh(work: Any) -> Any:
    """Returns `work` with the cache filled again before each forward pass, to show what the cache saves."""
    predict, last = denoising.predict, []

    def cache_reference(*args: Any) -> None:
        last[:] = args
        conditioning.cache_reference(*args)

    def predict_afresh(*args: Any, **more: Any) -> Any:
        conditioning.cache_reference(*last)
        return predict(*args, **more)

    def run() -> None:
        from dubmill.model import inputs

        inputs.cache_reference, denoising.predict = cache_reference, predict_afresh
        try:
            work()
        finally:
            inputs.cache_reference, denoising.predict = conditioning.cache_reference, predict

    return run


def main() -> None:
    """Time the kinds in turn and print their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    asked = parser.parse_args()
    values = params.load(Path(__file__).parents[1] / "params.yaml")
    clips, lines = zip(*[source(seed) for seed in range(asked.batch)], strict=True)
    with tempfile.TemporaryDirectory() as scratch:
        backbone = materialize(values.backbone, Path(scratch) / "backbone")
        modules = load(backbone)

        def dub(attention: str) -> Any:
            mode = ReferenceMode(positions="negative", attention=attention, isolate_modalities=True)
            dubber = Dubber(backbone, modules, values.dub.sampling, mode=mode, active_adapters={})
            return lambda: dubber.dub_batch(clips, lines, range(asked.batch))

        full, cached, again = dub("full"), dub("self"), afresh(dub("self"))
        for warm_up in (full, cached, again):
            warm_up()
        rounds = [(seconds(full), seconds(cached), seconds(again)) for _ in range(asked.rounds)]
    ratios = [statistics.median(row[kind] / row[0] for row in rounds) for kind in (1, 2)]
    sys.stdout.write(
        f"dub of {asked.batch} by nano, reference cached / full attention: median {ratios[0]:.3f} of {asked.rounds}"
        f" (read afresh at every step: {ratios[1]:.3f}; full attention takes"
        f" {statistics.median(row[0] for row in rounds):.2f} s)\n"
    )


if __name__ == "__main__":
    main()
