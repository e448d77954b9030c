"""`python -m dubmill.nano pretrain PART --out DIR | ship DIR`: nano trained from its seeds."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

PARTS = {
    "lexicon": 0,
    "sketch_vae": 7300,
    "video_vae": 3600,
    "audio_vae": 4000,
    "vocoder": 3000,
    "scorers": 1500,
    "latents": 0,
    "base": 8500,
    "few_steps": 300,
}
"""Parts in the order in which they need each other, and the steps that the shipped weights took."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dubmill.nano", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pretrain = commands.add_parser("pretrain", help="train a part from nothing, or continue where it was stopped")
    pretrain.add_argument("part", choices=[*PARTS, "all"])
    pretrain.add_argument("--out", type=Path, required=True, help="directory of checkpoints, curves and weights")
    pretrain.add_argument("--steps", type=int, default=0, help="length of the run; 0 takes the part's own")
    pretrain.add_argument("--seconds", type=float, default=math.inf, help="stop at a checkpoint after this time")
    pretrain.add_argument("--threads", type=int, default=2)
    pretrain.add_argument("--compile", action="store_true", help="base: compile its blocks; needs a C++ compiler")
    ship = commands.add_parser("ship", help="gather the trained parts into the package's weights")
    ship.add_argument("run", type=Path, help="the --out of pretrain")
    return parser.parse_args()


def main() -> None:
    """Run one command."""
    arguments = _arguments()
    if arguments.command == "pretrain":
        _pretrain(arguments)
    else:
        from dubmill.nano.pretrain.ship import ship
        from dubmill.nano.weights import WEIGHTS

        ship(arguments.run, WEIGHTS)


def _pretrain(arguments: argparse.Namespace) -> None:
    from dubmill.nano.pretrain.parts import pretrain

    for part in PARTS if arguments.part == "all" else [arguments.part]:
        steps = arguments.steps or PARTS[part]
        pretrain(
            part,
            arguments.out,
            steps=steps,
            seconds=arguments.seconds,
            threads=arguments.threads,
            is_compiled=arguments.compile,
        )


if __name__ == "__main__":
    main()
