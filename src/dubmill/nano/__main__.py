"""`python -m dubmill.nano pretrain PART --out DIR | ship DIR | card | sample OUT`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

PARTS = {
    "lexicon": 0,
    "video_vae": 6000,
    "audio_vae": 3300,
    "vocoder": 2200,
    "scorers": 1000,
    "latents": 0,
    "base": 3200,
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
    card = commands.add_parser("card", help="measure the shipped weights and write the figures card")
    card.add_argument("--docs", type=Path, default=Path("docs"))
    card.add_argument("--clips", type=int, default=200)
    sample = commands.add_parser("sample", help="write a contact sheet and its sound")
    sample.add_argument("out", type=Path)
    ship = commands.add_parser("ship", help="gather the trained parts into the package's weights")
    ship.add_argument("run", type=Path, help="the --out of pretrain")
    return parser.parse_args()


def main() -> None:
    """Run one command."""
    arguments = _arguments()
    if arguments.command == "pretrain":
        _pretrain(arguments)
    elif arguments.command == "card":
        from dubmill.nano import card

        card.write(arguments.docs, num_clips=arguments.clips)
    elif arguments.command == "sample":
        from dubmill.nano.pretrain import gallery

        gallery.write(arguments.out)
    else:
        from dubmill.nano import weights

        weights.ship(arguments.run, weights.WEIGHTS)


def _pretrain(arguments: argparse.Namespace) -> None:
    from dubmill.nano.pretrain.parts import pretrain

    for part in PARTS if arguments.part == "all" else [arguments.part]:
        steps = arguments.steps or PARTS[part]
        pretrain(part, arguments.out, steps=steps, seconds=arguments.seconds, threads=arguments.threads)


if __name__ == "__main__":
    main()
