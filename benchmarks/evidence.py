"""Ablations and comparisons on nano: trains the same adapter on other pairs or with other settings, three seeds each.

    python -m benchmarks.evidence FOLDER [--experiments pairs recipe ...] [--seeds 3] [--processes 2] [--quick] [--out PAGE]

FOLDER keeps all artifacts: a killed run goes on, and a run with more seeds or experiments adds what is missing. Every arm of a table gets
equally many pairs and optimizer steps, where its row says nothing else, and dubs the same held-out pairs; all differences are paired by clip, after the mean
over seeds, and their intervals and tests are by puppet. `--quick`: one seed and half of the steps.

What only changes the training is also a DVC experiment, with all accepted pairs: `dvc exp run -S train.isolate_modalities=false`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.evidence_line import NEAR_VOICE, PLAIN, SECOND_ROUND, Arm, Line, shared_training, slug
from dubmill.artifacts.files import write_atomically
from dubmill.config.params import EvaluateParams, load
from dubmill.errors import UsageError
from dubmill.metrics.stats import bootstrap_interval, effect_size, holm, paired_test
from dubmill.quality import Gate, gates
from dubmill.report.figures import SUBJECT

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (
    "words_right", "language_right", "sync_correlation", "lse_c", "truth_mouth_correlation", "voice_cosine",
    "identity_cosine", "outside_trip_psnr_db",
)  # fmt: skip
TESTED = ("words_right", "sync_correlation", "truth_mouth_correlation", "voice_cosine")


EXPERIMENTS: dict[str, tuple[str, tuple[Arm, ...]]] = {
    "pairs": (
        "Do pairs that the base makes of itself train as well as true pairs?",
        (
            Arm("true", ("true",)),
            Arm("self-made"),
            Arm("half and half", ("gated", "true")),
            Arm("no adapter", method="base"),
            Arm("ceiling: the true dub through the codecs", method="ceiling"),
        ),
    ),
    "recipe": (
        "What does each part of the recipe give?",
        (
            PLAIN,
            Arm("no gate", ("not gated",)),
            Arm("whole half inpainted, no mask", ("whole half",)),
            Arm("no isolation of modalities", changes={"isolate_modalities": False}),
            Arm("no weight on the face", changes={"background_weight": 1.0}),
            Arm("shared reference positions", changes={"reference_positions": "shared"}),
        ),
    ),
    "voice": (
        "What keeps the voice?",
        (
            PLAIN,
            Arm("layers of sound at a quarter of the rate", changes={"learning_rate_groups": {".*audio.*": 0.00015}}),
            Arm("layers of sound hardly trained", changes={"learning_rate_groups": {".*audio.*": 0.000006}}),
            Arm("half as many pairs, in order", share_of_pairs=0.5),
            Arm("half as many pairs, the nearest voices", (NEAR_VOICE,), share_of_pairs=0.5),
            Arm("second round: best of four dubs by the gate", (SECOND_ROUND,)),
        ),
    ),
    "size": (
        "How do figures grow with pairs and steps?",
        (
            PLAIN,
            Arm("a sixteenth of the pairs", share_of_pairs=1 / 16),
            Arm("an eighth of the pairs", share_of_pairs=1 / 8),
            Arm("a quarter of the pairs", share_of_pairs=1 / 4),
            Arm("a quarter of the steps", changes={"num_steps": 0.25}),
            Arm("half of the steps", changes={"num_steps": 0.5}),
        ),
    ),
    "difficulty": (
        "How does the adapter, trained on plain clips, hold on harder ones?",
        (
            PLAIN,
            Arm("head turn .5", world={"head_turn": 0.5}),
            Arm("head turn 1", world={"head_turn": 1.0}),
            Arm("occluder .5", world={"occluder": 0.5}),
            Arm("occluder 1", world={"occluder": 1.0}),
            Arm("noise .5", world={"noise": 0.5}),
            Arm("noise 1", world={"noise": 1.0}),
            Arm("music .5", world={"music": 0.5}),
            Arm("music 1", world={"music": 1.0}),
            Arm("tempo .8", world={"tempo": 0.8}),
            Arm("tempo 1.2", world={"tempo": 1.2}),
        ),
    ),
}


def seeds_of(arm: Arm, num_seeds: int) -> range:
    """A method without an adapter has no seeds."""
    return range(num_seeds if arm.method == SUBJECT else 1)


def run(given: argparse.Namespace, line: Line) -> None:
    """Measure all arms that are missing, each adapter in a process of its own; says what is left."""
    arms = [arm for name in given.experiments for arm in EXPERIMENTS[name][1]]
    for name in {name for arm in arms for name in arm.pairs}:
        line.latents(name)  # here, before processes would make the same sets at once
    for world in [arm.world for arm in arms if arm.world]:
        line.heldout(world)
    todo: dict[tuple[str, int], list[str]] = {}
    for seed in range(given.seeds):  # all arms once, then all a second time: a stopped run has complete tables
        for name in given.experiments:
            for place, arm in enumerate(EXPERIMENTS[name][1]):
                if seed in seeds_of(arm, given.seeds) and not line.rows_file(arm, seed).is_file():
                    line.chosen(arm.pairs, line.num_pairs(arm))
                    todo.setdefault((shared_training(arm), seed), []).append(f"{name}:{place}:{seed}")
    started, num_done = time.monotonic(), 0
    quick = ["--quick"] if given.quick else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def work(jobs: list[str]) -> None:
        nonlocal num_done
        command = [sys.executable, "-m", "benchmarks.evidence", str(given.folder), *quick, "--jobs-of-one", *jobs]
        log = line.folder / "logs" / f"{slug(jobs[0])}.txt"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as stream:
            done = subprocess.run(command, env=environment, cwd=ROOT, check=False, stdout=stream, stderr=stream)
        if done.returncode:
            raise UsageError(f"{' '.join(jobs)} failed", where=str(log), cure="read its end; the same command goes on")
        num_done += 1
        left = (time.monotonic() - started) / num_done * (len(todo) - num_done)
        sys.stdout.write(f"{num_done} of {len(todo)} adapters ({', '.join(jobs)}), {left / 60:.0f} min left\n")
        sys.stdout.flush()

    with ThreadPoolExecutor(given.processes) as pool:
        list(pool.map(work, todo.values()))


def figures(line: Line, arm: Arm, num_seeds: int) -> list[pd.DataFrame]:
    """The rows by pair of each seed that is there."""
    files = [line.rows_file(arm, seed) for seed in seeds_of(arm, num_seeds)]
    return [pd.DataFrame(json.loads(file.read_bytes())).set_index("pair") for file in files if file.is_file()]


def table(line: Line, arms: Sequence[Arm], num_seeds: int, evaluate: EvaluateParams) -> str:
    """An experiment's two tables: mean of each metric with the spread over seeds, and differences to the first arm."""
    by_arm = {arm.name: figures(line, arm, num_seeds) for arm in arms}
    by_arm = {name: frames for name, frames in by_arm.items() if frames}
    pairs = {arm.name: line.pairs_in_words(arm) for arm in arms}
    names = [f"`{name}`" for name in SHOWN]
    lines = [f"| arm | pairs (puppets) | seeds | {' | '.join(names)} |", f"|{'---|' * (len(SHOWN) + 3)}"]
    for name, frames in by_arm.items():
        cells = [_with_spread([float(frame[metric].mean()) for frame in frames]) for metric in SHOWN]
        lines.append(f"| {name} | {pairs[name]} | {len(frames)} | {' | '.join(cells)} |")
    first, *others = by_arm
    cells_of: dict[str, list[str]] = {name: [] for name in others}
    for metric in TESTED:
        tests = []
        for name in others:
            gap = (_mean_rows(by_arm[name])[metric] - _mean_rows(by_arm[first])[metric]).dropna()
            clusters = list(by_arm[first][0].loc[gap.index, "cluster"])
            interval = bootstrap_interval(
                gap.to_numpy(), clusters=clusters, num_bootstrap=evaluate.num_bootstrap,
                confidence=evaluate.confidence, seed=evaluate.seed,
            )  # fmt: skip
            d = effect_size(gap.to_numpy(), clusters=clusters)
            tests.append((interval, d, paired_test(gap.to_numpy(), clusters=clusters, seed=evaluate.seed)))
        corrected = holm([test.p for _, _, test in tests])
        for name, (interval, d, _), p in zip(others, tests, corrected, strict=True):
            cells_of[name].append(
                f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f}), d {d:.2f}, p {p:.3g}"
            )
    lines += [
        "",
        f"Difference to `{first}`, interval by puppet, Cohen's d, p with Holm's correction over the arms of a metric:",
        "",
    ]
    lines += [f"| arm | {' | '.join(f'`{name}`' for name in TESTED)} |", f"|{'---|' * (len(TESTED) + 1)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in cells_of.items()]
    return "\n".join(lines)


def _mean_rows(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.DataFrame(pd.concat([frame.drop(columns="cluster") for frame in frames]).groupby(level=0).mean())


def _with_spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def failures(line: Line, num_seeds: int) -> str:
    """Shares of clips outside each strict bound of the gate: of the base's dubs, of pairs, and of adapters trained on them.

    The ceiling, the true dub after the codecs, tells which bounds of pairs no dub can keep.
    """
    pairs = pd.DataFrame(list(line.measurements("gated").values()))
    training = pairs[pairs["split"] == "train"]
    columns = {
        "dubs without an adapter": figures(line, Arm("", method="base"), 1),
        "self-made pairs": [training],
        "accepted pairs": [training[training["verdict"] == "accepted"]],
        "adapter of accepted pairs": figures(line, PLAIN, num_seeds),
        "adapter of all pairs": figures(line, Arm("", ("not gated",)), num_seeds),
        "adapter of true pairs": figures(line, Arm("", ("true",)), num_seeds),
        "ceiling": figures(line, Arm("", method="ceiling"), 1),
    }
    columns = {name: pd.concat(frames) for name, frames in columns.items() if frames}
    lines = [f"| bound of the gate | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for bound in gates(line.params.gate):
        if bound.level == "strict" and all(bound.column in frame for frame in columns.values()):
            cells = [f"{_share_outside(frame[bound.column], bound):.1%}" for frame in columns.values()]
            lines.append(f"| `{bound.name}` {bound.bound:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _share_outside(values: pd.Series, bound: Gate) -> float:
    """A figure that is not finite is outside."""
    return 1.0 - float(((values >= bound.bound) if bound.is_minimum else (values <= bound.bound)).mean())


CLAIMS = (
    ("Self-made pairs can train a dubbing adapter (abstract)", "table `pairs`: self-made against true pairs, equal count and steps"),
    ("Compare with true bilingual recordings (referee)", "table `pairs`; on nano the true pair is known exactly"),
    ("Isolate what inpainting does (referee)", "table `recipe`: no mask, no gate"),
    ("Does the adapter repeat the base's failures? (referee)", "table `failures`"),
    ("Higher visual fidelity than cascades (abstract)", "report of `make demo`: identity and PSNR against the cascade and the base"),
    ("More accurate lips than cascades (abstract)", "report of `make demo`: mouth against the true dub's mouth, for every method"),
    ("Robust to complex motion (abstract)", "table `difficulty`: head turn, occluder; real motion is open without a GPU"),
    ("Failure cases: head motion, sound in the background (referee)", "table `difficulty`"),
    ("Named metrics, baselines, sizes, statistics (referee)", "[metrology.md](metrology.md), [baselines.md](baselines.md), and the head of this page"),
    ("Generalises over languages and to real people (abstract)", "open: needs LTX-2 on a GPU"),
)  # fmt: skip


def page(line: Line, given: argparse.Namespace) -> str:
    """docs/evidence.md: claims, tables of the experiments that were run, and how each is made."""
    lines = [
        "# Evidence, on nano",
        "",
        f"`python -m benchmarks.evidence FOLDER --experiments {' '.join(given.experiments)}{' --quick' if given.quick else ''} "
        f"--seeds {given.seeds}` wrote this page: nano, "
        f"{line.params.prompts.num_heldout * 2} held-out pairs of {line.params.prompts.num_heldout} puppets, "
        f"{line.num_steps} optimizer steps where a row says nothing else. Of each prompt one pair is taken before a second one; "
        "true pairs and pairs without a mask are of the same prompts and halves as the self-made ones that the gate accepted. "
        "Nothing here was measured on real clips or on LTX-2.",
        "",
        "| claim or request | where it is measured |",
        "|---|---|",
        *(f"| {claim} | {where} |" for claim, where in CLAIMS),
    ]
    for name in given.experiments:
        question, arms = EXPERIMENTS[name]
        lines += ["", f"## `{name}`: {question}", "", table(line, arms, given.seeds, line.params.evaluate)]
    lines += [
        "",
        "## `failures`: does the adapter repeat those of the base and of its pairs?",
        "",
        failures(line, given.seeds),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="keeps all artifacts")
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, help="trainings of each arm; 3 without it, 1 with --quick")
    parser.add_argument("--processes", type=int, default=2, help="adapters trained at once, with one thread each")
    parser.add_argument("--quick", action="store_true", help="one seed, half of the steps")
    parser.add_argument("--out", type=Path, help="the page; printed without it")
    parser.add_argument("--jobs-of-one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.folder, given.seeds = given.folder.resolve(), given.seeds or (1 if given.quick else 3)
    line = Line(given.folder, load(ROOT / "params.yaml"), is_quick=given.quick)
    if given.jobs_of_one:
        for name, place, seed in (job.split(":") for job in given.jobs_of_one):
            line.measure(EXPERIMENTS[name][1][int(place)], int(seed))
        return
    run(given, line)
    if given.out:
        write_atomically(given.out, page(line, given).encode())
    else:
        sys.stdout.write(page(line, given))


if __name__ == "__main__":
    main()
