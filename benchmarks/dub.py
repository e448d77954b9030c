"""How much time and memory does a dub need beyond the calls of its modules?

    python benchmarks/dub.py [--rounds 5]

Every call of the transformer, the autoencoders, the vocoder, the text encoder and the connectors is timed inside whole
dubs of one half clip by nano; prints the median of (dub / sum of its module calls), and the peak of what NumPy allocates
during a dub in units of one clip's frames. The source is there before, and the dub's frames are a view of torch's memory:
below 1, nobody holds a second copy of either.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.config import params
from dubmill.dubbing.dubber import Dubber
from dubmill.media.clips import Clip
from dubmill.model.conditioning import ReferenceMode
from dubmill.model.load import Modules, load
from dubmill.nano import world
from dubmill.worlds.materialize import materialize

CALLS = (
    ("transformer", "forward"),
    ("vae", "encode"),
    ("vae", "decode"),
    ("audio_vae", "encode"),
    ("audio_vae", "decode"),
    ("vocoder", "forward"),
    ("text_encoder", "forward"),
    ("connectors", "forward"),
)


class Stopwatch:
    """The seconds spent in the calls that it is put around."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Any) -> Any:
        """`call`, timed."""

        def timed(*args: Any, **more: Any) -> Any:
            started = time.perf_counter()
            made = call(*args, **more)
            self.seconds += time.perf_counter() - started
            return made

        return timed

    def put_on(self, modules: Modules) -> None:
        """Time all module calls of a dub from now on."""
        for part, name in CALLS:
            setattr(getattr(modules, part), name, self.around(getattr(getattr(modules, part), name)))


def source() -> tuple[Clip, Line]:
    """Returns one half of a rendered clip, and the line of its dub."""
    phrases = world.random_phrases(np.random.default_rng(0))
    half = world.halves(world.film(world.puppet(0), phrases, motion_seed=0))[0]
    clip = Clip(half.frames_FHWC, Fraction(world.FRAME_RATE), half.audio_N[None], world.SAMPLE_RATE_HZ)
    return clip, Line(language=phrases[1].language, text=" ".join(phrases[1].words))


def main() -> None:
    """Time whole dubs and their module calls, and print the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    values = params.load(Path(__file__).parents[1] / "params.yaml")
    clip, line = source()
    with tempfile.TemporaryDirectory() as scratch:
        backbone = materialize(values.backbone, Path(scratch) / "backbone")
        modules, watch = load(backbone), Stopwatch()
        watch.put_on(modules)
        mode = ReferenceMode(positions="negative", attention="full", isolate_modalities=True)
        dubber = Dubber(backbone, modules, values.dub.sampling, mode=mode, active_adapters={})
        dubber.dub(clip, line=line, seed=0)
        ratios, wholes = [], []
        for seed in range(rounds):
            watch.seconds, started = 0.0, time.perf_counter()
            dubber.dub(clip, line=line, seed=seed)
            wholes.append(time.perf_counter() - started)
            ratios.append(wholes[-1] / watch.seconds)
        tracemalloc.start(1)
        assert not dubber.dub(clip, line=line, seed=0).frames_FHWC.flags.owndata
        (_, peak), frames = tracemalloc.get_traced_memory(), clip.frames_FHWC.nbytes
    sys.stdout.write(
        f"dub / its module calls, nano: median {statistics.median(ratios):.3f} of {rounds}"
        f" ({statistics.median(wholes):.2f} s a dub); NumPy allocates {peak / frames:.2f} clips at its peak\n"
    )


if __name__ == "__main__":
    main()
