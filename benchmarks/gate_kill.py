"""The step `gate` on many pairs of 5 s, killed with SIGKILL half-way and run again: the same bytes as without the kill.

    python -m benchmarks.gate_kill FOLDER [--pairs 1000]

Pictures are 16 x 16 and stand-in scorers answer at once, so that it is the step that is measured, and not the models. Prints
how many pairs were measured before the kill, how many of them were measured once more, the times, and both digests.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import Line, PairRow
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import Backbone, PairSet
from dubmill.config.params import load
from dubmill.steps import gate as step

ROOT = Path(__file__).parents[1]
SECONDS, NUM_VARIANTS, PER_SHARD = 5.0, 8, 100
sys.path.insert(0, str(ROOT / "tests"))


def pair_set(out: Path, backbone: Backbone, num_pairs: int) -> PairSet:
    """Pairs of talking squares of 5 s; a few kinds of clips are used again and again."""
    from doubles.scorers import talking

    draft = PairSet.draft(out, Lineage.of("inpaint", {}, backbone, pair_source="self-made"))
    random, num_frames = np.random.default_rng(0), round(SECONDS * 12.5)
    clips = [talking(random.uniform(0.1, 0.9, num_frames)) for _ in range(NUM_VARIANTS)]
    members = [clip_members("clip", clip) for clip in clips]
    for start in range(0, num_pairs, PER_SHARD):
        rows, files = [], {}
        for at in range(start, min(num_pairs, start + PER_SHARD)):
            rows.append(_row(at, num_frames))
            for side, variant in (("original", at % NUM_VARIANTS), ("counterpart", at // 3 % NUM_VARIANTS)):
                files |= {f"{rows[-1].id}/{side}{Path(name).suffix}": data for name, data in members[variant].items()}
        draft.add_shard(start // PER_SHARD, rows, files)
    return draft.seal({"gated": False, "pair_source": "self-made"})


def _row(at: int, num_frames: int) -> PairRow:
    return PairRow(
        id=f"p{at:05d}", split="train", source="self-made", half="first", seed=at, speaker="A person", accepted=False,
        original=Line(language="es", text="uno"), counterpart=Line(language="es", text="uno"), consent="",
        mouth_boxes=np.tile([4.0, 4.0, 8.0, 8.0], (num_frames, 1)).tolist(),
    )  # fmt: skip


def judge(folder: Path, out: Path) -> None:
    """Run the step in this process, with stand-in scorers, and print what it took and its digest."""
    from doubles.scorers import PlainScorers

    step.world_of = lambda _: SimpleNamespace(is_toy=True, scorers=lambda _: PlainScorers())
    values, started = load(ROOT / "params.yaml"), time.monotonic()
    strict = values.gate.strict.model_copy(update=dict.fromkeys(type(values.gate.strict).model_fields, "none"))
    params = values.gate.model_copy(update={"strict": strict.model_copy(update={"min_mouth_change": 0.05})})
    pairs, backbone = PairSet.open(folder / "pairs"), Backbone.open(folder / "backbone")
    result = step.gate(backbone, pairs, values.scorers, params, out)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stdout.write(f"{result.digest} {time.monotonic() - started:.0f} s, peak {peak_gb:.2f} GB, {result.info}\n")


def main() -> int:
    """Make the pairs, judge them without a kill and with one, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.judge:
        judge(folder, given.judge)
        return 0
    from doubles.releases import tiny_backbone

    shutil.rmtree(folder, ignore_errors=True)
    pair_set(folder / "pairs", tiny_backbone(folder / "backbone"), given.pairs)
    command = [sys.executable, "-m", "benchmarks.gate_kill", str(folder), "--judge"]
    killed = subprocess.Popen([*command, str(folder / "killed")], cwd=ROOT)
    while len(_measured(folder)) < given.pairs // step.BATCH // 2 and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = {path.name: path.stat().st_mtime_ns for path in _measured(folder)}
    is_sealed = (folder / "killed/manifest.json").exists()
    sys.stdout.write(f"killed: {len(before) * step.BATCH} of {given.pairs} measured, sealed: {is_sealed}\n")
    resumed = subprocess.Popen([*command, str(folder / "killed")], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    again: set[str] = set()
    while resumed.poll() is None:
        now = {path.name: path.stat().st_mtime_ns for path in _measured(folder)}
        again |= {name for name in now if name in before and now[name] != before[name]}
        time.sleep(0.05)
    assert resumed.stdout is not None
    after = resumed.stdout.read()
    whole = subprocess.run([*command, str(folder / "whole")], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    sys.stdout.write(f"measured again: {len(again) * step.BATCH}\nresumed: {after}unbroken: {whole.stdout}")
    is_equal = after.split()[:1] == whole.stdout.split()[:1]
    sys.stdout.write(f"same digest: {is_equal}\n")
    return int(not is_equal or is_sealed or bool(again))


def _measured(folder: Path) -> list[Path]:
    return [path for path in (folder / "killed").glob("measured-*.json") if path.exists()]


if __name__ == "__main__":
    sys.exit(main())
