"""Commands for the weights of the measuring models.

python -m dubmill.scorers fetch [--params params.yaml]      every file of the section `scorers`, into the cache
python -m dubmill.scorers convert-syncnet SOURCE OUT        syncnet_v2.model as safetensors, and its sha256
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dubmill.config.params import load
from dubmill.config.scorers import ScorerParams
from dubmill.errors import DubmillError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; an error is one sentence and the exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m dubmill.scorers", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="get every file that params name, and check it")
    fetch.add_argument("--params", type=Path, default=Path("params.yaml"))
    convert = commands.add_parser("convert-syncnet", help="SyncNet's published weights as safetensors")
    convert.add_argument("source", type=Path)
    convert.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    try:
        lines = _fetched(given.params) if given.command == "fetch" else _converted(given.source, given.out)
    except DubmillError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return error.exit_code
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _fetched(params: Path) -> list[str]:
    from dubmill.scorers.weights import read_weights

    models: dict[str, ScorerParams] = {
        name: model for name, model in load(params).scorers if isinstance(model, ScorerParams)
    }
    read = {name: read_weights(model, may_fetch=True) for name, model in models.items()}
    return [
        f"{name}: {models[name].name}, {sum(map(len, files.values())) / 1e6:.1f} MB" for name, files in read.items()
    ]


def _converted(source: Path, out: Path) -> list[str]:
    from dubmill.scorers.syncnet import convert

    return [f"{out}", f"sha256: {convert(source, out)}"]


if __name__ == "__main__":
    sys.exit(main())
