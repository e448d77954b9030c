"""How much time do the orchestrators add to the work that they call?

    python benchmarks/callers.py

Prints: seconds of a Kubeflow local task that does nothing, beside a bare start of its runner; seconds to compile the pipeline; seconds of a `dvc repro` that
has nothing to do (run in a checkout where `dvc repro` has been run).
"""

import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def timed(work: Callable[[], object]) -> float:
    """Returns the wall seconds of one call; its output is discarded."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.perf_counter() - started


def command(*words: str) -> float:
    """Wall seconds of one command."""
    return timed(lambda: subprocess.run(words, cwd=ROOT, check=True, capture_output=True))


def kfp_task() -> tuple[float, float]:
    """Seconds of one local task that does nothing (of a pipeline of five), and of a bare Python that imports its runner."""
    from kfp import dsl, local

    @dsl.component(install_kfp_package=False)
    def nothing():  # noqa: ANN202 (KFP reads annotations)
        pass

    component: Any = nothing  # which KFP made a factory of tasks

    @dsl.pipeline
    def five() -> None:
        before = component()
        for _ in range(4):
            task = component().after(before)
            before = task

    with tempfile.TemporaryDirectory() as root:
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
        whole = timed(five)
    bare = statistics.median(command(sys.executable, "-c", "import kfp.dsl.executor_main") for _ in range(5))
    return whole / 5, bare


def main() -> None:
    """Measure and print."""
    compile_seconds = command(sys.executable, "-m", "pipelines", "compile")
    task, bare = kfp_task()
    lines = [
        f"Kubeflow local task that does nothing: {task:.2f} s; a bare Python that imports its runner: {bare:.2f} s",
        f"compile, with its imports: {compile_seconds:.2f} s",
    ]
    if (ROOT / "dvc.lock").exists():
        repro = statistics.median(command(sys.executable, "-m", "dvc", "repro") for _ in range(3))
        lines.append(f"dvc repro with nothing to do: {repro:.2f} s")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
