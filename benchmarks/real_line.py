"""The eleven steps on the set of `real_set.py`, by three callers, and whether each artifact has one digest.

    python -m benchmarks.real_line FOLDER [--source footage] [--callers cli kfp dvc]

cli: the commands of dvc.yaml one by one (`dubmill step <word>`), then register and promote; kfp: Kubeflow's local runner,
one process per task; dvc: `dvc repro` in a clone of this repository, which ends at evaluate. Each has a folder and an MLflow of its own in FOLDER/runs; a killed run goes on.
Prints a table of digests and what was refused by name; the exit code is 1 where two callers differ.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.real_set import ROOT, assemble
from dubmill.artifacts.manifest import read_manifest

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]  # DVC has no stage for what happens in a registry:
RELEASE = {
    "register": "dubmill step register --adapter data/train --report data/evaluate --out data/register",
    "promote": "dubmill step promote --backbone data/backbone --adapter data/train --report data/evaluate "
    "--pairs data/gate --registered data/register --out data/promote",
}
SOURCES = ("footage", "self-made")


def _environment(work: Path, sources: Path) -> dict[str, str]:
    """One thread, so that sums have one order; `dubmill` of this environment, on the code of `sources`."""
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ, "PATH": binaries, "PYTHONPATH": f"{sources / 'src'}{os.pathsep}{sources}", "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1",
    }  # fmt: skip


def _run(command: list[str], work: Path, sources: Path) -> None:
    """Run a command in `sources`' code; what it says goes to `work`/log.

    Raises:
        SystemExit: it failed; with the end of the log.
    """
    with (work / "log").open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        cwd = work if command[0] == "dubmill" else sources
        done = subprocess.run(
            command, cwd=cwd, env=_environment(work, sources), stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{(work / 'log').read_text()[-2000:]}")


def by_cli(params: Path, work: Path) -> dict[str, Path]:
    """The artifacts that the commands of dvc.yaml leave, by step."""
    shutil.copy(params, work / "params.yaml")
    commands = {word: stage["cmd"] for word, stage in STAGES.items()} | RELEASE
    for command in commands.values():
        _run(command.split(), work, ROOT)
    return {word: work / "data" / word for word in commands}


def by_kfp(params: Path, work: Path) -> dict[str, Path]:
    """The artifacts that Kubeflow's local runner leaves, by step."""
    _run([sys.executable, "-m", "pipelines", "run", "--params", str(params), "--out", str(work / "kfp"),
          "--work", str(work)], work, ROOT)  # fmt: skip
    found = {path.parent.parent.name: path.parent for path in sorted((work / "kfp").glob("*/*/*/manifest.json"))}
    return {word: found[word] for word in (*STAGES, *RELEASE) if word in found}


def by_dvc(params: Path, work: Path) -> dict[str, Path]:
    """The artifacts that `dvc repro` leaves in a clone of the last commit, by step."""
    clone = work / "clone"
    if not clone.is_dir():
        _run(["git", "clone", "-q", str(ROOT), str(clone)], work, ROOT)
    shutil.copy(params, clone / "params.yaml")
    _run([sys.executable, "-m", "dvc", "repro"], work, clone)
    return {word: clone / "data" / word for word in STAGES}


CALLERS = {"cli": by_cli, "kfp": by_kfp, "dvc": by_dvc}


def digests(artifacts: dict[str, Path]) -> dict[str, str]:
    """The digest of each sealed artifact, by step."""
    return {word: read_manifest(path).digest for word, path in artifacts.items() if (path / "manifest.json").is_file()}


def refusals(artifacts: dict[str, Path]) -> list[str]:
    """What was refused by name at each step, with the reason."""
    import pyarrow.parquet as parquet

    infos = {word: json.loads((path / "manifest.json").read_text())["info"] for word, path in artifacts.items()
             if word in ("prompts", "synthesize", "inpaint")}  # fmt: skip
    lines = [f"prompts: {Path(one['id']).name}: {one['reason']}" for one in infos["prompts"]["dropped"]]
    for word in ("synthesize", "inpaint"):
        lines += [f"{word}: {name}: {reason}" for name, reason in infos[word]["left_out_clips"].items()]
    for row in parquet.read_table(artifacts["gate"] / "measurements.parquet").to_pylist():
        lines.append(f"gate: {row['id']}: {row['verdict']} {row['reasons']}")
    return lines


def main() -> int:
    """Assemble the set, run it, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--media", type=Path, help="where fetched media are kept; FOLDER/media without it")
    parser.add_argument("--source", choices=SOURCES, default=SOURCES[0], help="inpaint.source")
    parser.add_argument("--callers", nargs="+", choices=CALLERS, default=list(CALLERS))
    given = parser.parse_args()
    folder = assemble(given.folder.resolve(), (given.media or given.folder / "media").resolve())
    found: dict[str, dict[str, str]] = {}
    for caller in given.callers:
        work = folder / "runs" / given.source / caller
        work.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        artifacts = CALLERS[caller](folder / f"{given.source}.yaml", work)
        found[caller] = digests(artifacts)
        sys.stdout.write(f"{caller}: {len(found[caller])} sealed artifacts, {time.monotonic() - started:.0f} s\n")
        sys.stdout.flush()
    sys.stdout.write("\n".join(refusals(artifacts)) + "\n\n")
    sys.stdout.write(f"| step | {' | '.join(found)} | |\n|{'---|' * (2 + len(found))}\n")
    differ = []
    for word in dict.fromkeys(word for of_caller in found.values() for word in of_caller):
        row = [of_caller.get(word, "")[:12] for of_caller in found.values()]
        differ += [word] if len({*row} - {""}) > 1 else []
        num_digests = sum(map(bool, row))
        verdict = "differ" if word in differ else "equal" if num_digests > 1 else "one only"
        sys.stdout.write(f"| {word} | {' | '.join(row)} | {verdict} |\n")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
