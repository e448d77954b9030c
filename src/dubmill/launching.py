"""How a pod runs a step: from a draft that outlives the pod, and `train` in a process for each of its GPUs.

By hand: `torchrun --standalone --nproc-per-node N -m dubmill.cli.main step train ...` (docs/scale.md).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dubmill.artifacts.draft import Draft
from dubmill.artifacts.files import digest_of
from dubmill.artifacts.store import Adapter, Artifact, Backbone, LatentSet
from dubmill.config.params import Section, TrainParams
from dubmill.errors import DubmillError, InterruptedStepError

WORK = "DUBMILL_WORK"  # a folder that outlives a pod
GRACE_SECONDS = 300  # to write a checkpoint once asked to end; the pod's own grace period may be shorter

Kind = TypeVar("Kind", bound=Artifact)


def outliving(step: Callable[..., Kind | Draft[Kind]], opened: Sequence[Artifact], params: Section, out: Path) -> Kind:
    """What `step` seals of `opened`, at `out`; drafted under $DUBMILL_WORK where that is set.

    A task that lost its pod is tried again with an empty `out`: there it finds the shards or the checkpoint it had.
    """
    home = os.environ.get(WORK, "")
    if not home:
        return _sealed(step(*opened, params, out))
    work = [os.environ.get("DUBMILL_CODE", ""), [one.digest for one in opened], params.model_dump()]
    draft = Path(home) / "drafts" / f"{step.__name__}-{digest_of(work)[:16]}"
    sealed = _sealed(step(*opened, params, draft))
    shutil.copytree(draft, out, dirs_exist_ok=True)
    shutil.rmtree(draft)
    return type(sealed).open(out)


def _sealed(result: Kind | Draft[Kind]) -> Kind:
    assert isinstance(result, Artifact), "a step without --shard seals its output"
    return result


def train_on_all_gpus(backbone: Backbone, latents: LatentSet, params: TrainParams, out: Path) -> Adapter:
    """Step `train` in as many processes as this machine shows GPUs; one, where it shows none.

    Raises:
        DubmillError: see `train_together`, and the step.
    """
    import torch

    if torch.cuda.device_count() > 1:
        return train_together(backbone, latents, params, out, num_processes=torch.cuda.device_count())
    from dubmill.steps.train import train as step

    return step(backbone, latents, params, out)


def train_together(
    backbone: Backbone, latents: LatentSet, params: TrainParams, out: Path, *, num_processes: int
) -> Adapter:
    """Step `train` in `num_processes` processes of this machine.

    Raises:
        InterruptedStepError: they were asked to end (SIGTERM), and kept a checkpoint.
        DubmillError: one of them failed; it has said why on stderr.
    """
    with tempfile.TemporaryDirectory() as scratch:
        section = Path(scratch) / "train.json"
        section.write_text(params.model_dump_json())
        torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes))
        work = ("dubmill.launching", str(backbone.path), str(latents.path), str(section), str(out))
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE_SECONDS))
        status, is_asked = _wait_for([sys.executable, "-m", *torchrun, "-m", *work])
    if is_asked and status:
        raise InterruptedStepError(
            "asked to end", where=str(out), cure="run the step again to go on from its last checkpoint"
        )
    if status:
        raise DubmillError(
            f"one of {num_processes} training processes failed", where=str(out), cure="its own words stand above"
        )
    return Adapter.open(out)


def _wait_for(command: list[str]) -> tuple[int, bool]:
    """The exit status of a command that is handed every SIGTERM of this process, and whether there was one."""
    process, asked = subprocess.Popen(command), list[int]()
    before = signal.signal(signal.SIGTERM, lambda number, _: (asked.append(number), process.send_signal(number)))
    try:
        return process.wait(), bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)


def main(backbone: str, latents: str, section: str, out: str) -> None:
    """What each process of `train_together` runs."""
    import logging

    from dubmill.steps.train import train as step

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    params = TrainParams.model_validate_json(Path(section).read_text())
    try:
        step(Backbone.open(backbone), LatentSet.open(latents), params, Path(out))
    except DubmillError as error:
        sys.stderr.write(f"{error.sentence}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
