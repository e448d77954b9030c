"""`python -m dubmill.nano_card`: measures the shipped weights, runs the pipeline on them, and writes the card."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from dubmill.config.params import load
from dubmill.nano_card.measuring import measure_and_write


def main() -> None:
    """Writes the card."""
    parser = argparse.ArgumentParser(prog="python -m dubmill.nano_card", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--clips", type=int, default=200, help="clips of each kind")
    arguments = parser.parse_args()
    (arguments.docs / "images").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        measure_and_write(load(arguments.params), arguments.docs, Path(scratch), num_clips=arguments.clips)


if __name__ == "__main__":
    main()
