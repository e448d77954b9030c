"""Do the lips of nano's dubs follow a recording that is given (`dubmill dub --audio`)?

    python benchmarks/given_voice.py [--puppets 8] [--steps 4]

The recording is the true dub's sound, which nano's world renders with the mouth that belongs to it. Printed is the correlation
of the dubbed mouth's opening with that mouth's, beside that of the source's mouth and of a dub whose sound the model makes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.config import params
from dubmill.dubbing.dubber import Dubber
from dubmill.nano_card.films import clip_of, dub_case
from dubmill.worlds.materialize import materialize
from dubmill.worlds.nano import NanoWorld

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Dub puppets by nano's base and print the mean correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puppets", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loaded = params.load(ROOT / "params.yaml")
        base = materialize(loaded.backbone, Path(folder) / "backbone")
        sampling = loaded.dub.sampling.model_copy(update={"num_steps": options.steps})
        dubber, scorers = Dubber.load(base, None, sampling=sampling), NanoWorld(base).scorers()
        rows = []
        for index in range(options.puppets):
            case = dub_case(index)
            source, truth = clip_of(case.source), clip_of(case.truth)
            phrase = case.dubbed.phrases[case.half]
            line = Line(language=phrase.language, text=" ".join(phrase.words))
            given = dubber.follow_voice(source, truth.audio_CN, line=line, seed=index)
            free = dubber.dub(source, line=line, seed=index)
            true_F = scorers.mouth(truth.frames_FHWC)[:, 0]
            rows.append([_correlation(scorers.mouth(clip.frames_FHWC)[:, 0], true_F) for clip in (given, free, source)])
    means = np.mean(rows, axis=0)
    sys.stdout.write(
        f"{options.puppets} puppets, {options.steps} steps, correlation with the true mouth: recording given {means[0]:.2f}, "
        f"sound by the model {means[1]:.2f}, source {means[2]:.2f}\n"
    )


def _correlation(one_F: np.ndarray, other_F: np.ndarray) -> float:
    known_F = np.isfinite(one_F) & np.isfinite(other_F)
    return float(np.corrcoef(one_F[known_F], other_F[known_F])[0, 1])


if __name__ == "__main__":
    main()
