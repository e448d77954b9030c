"""`python -m dubmill.nano record | pretrain PART --out DIR | ship DIR`: nano recorded and trained from its seeds."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

PARTS = {
    "video_vae": 9000,
    "audio_vae": 4000,
    "vocoder": 3000,
    "scorers": 1200,
    "latents": 0,
    "base": 8500,
}
"""Parts in the order in which they need each other, and the steps that the shipped weights took."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dubmill.nano", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="speak every word in every voice and write the lexicon")
    record.add_argument("--kokoro", type=Path, required=True, help="folder of voices/*.bin and vocab.json")
    record.add_argument(
        "--whisper", type=Path, help="folder of a CTranslate2 Whisper that checks every voice and language"
    )
    record.add_argument("--takes", type=Path, required=True, help="where finished voices are kept")
    record.add_argument("--out", type=Path, help="the lexicon to write; the shipped one if not given")
    pretrain = commands.add_parser("pretrain", help="train a part from nothing, or continue where it was stopped")
    pretrain.add_argument("part", choices=[*PARTS, "all"])
    pretrain.add_argument("--out", type=Path, required=True, help="directory of checkpoints, curves and weights")
    pretrain.add_argument("--steps", type=int, default=0, help="length of the run; 0 takes the part's own")
    pretrain.add_argument("--seconds", type=float, default=math.inf, help="stop at a checkpoint after this time")
    pretrain.add_argument("--threads", type=int, default=2)
    pretrain.add_argument("--compile", action="store_true", help="base: compile its blocks; needs a C++ compiler")
    pretrain.add_argument("--evaluate-every", type=int, default=500, help="steps between held-out figures")
    pretrain.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead; for a GPU")
    ship = commands.add_parser("ship", help="gather the trained parts into the package's weights")
    ship.add_argument("run", type=Path, help="the --out of pretrain")
    return parser.parse_args()


def main() -> None:
    """Run one command."""
    arguments = _arguments()
    if arguments.command == "record":
        from dubmill.nano.lexicon import LEXICON_PATH
        from dubmill.nano.recording.session import record

        record(arguments.kokoro, arguments.takes, arguments.out or LEXICON_PATH, whisper=arguments.whisper)
    elif arguments.command == "pretrain":
        _pretrain(arguments)
    else:
        from dubmill.nano import weights

        weights.ship(arguments.run, weights.WEIGHTS)


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
            workers=arguments.workers,
            evaluate_every=arguments.evaluate_every,
            is_compiled=arguments.compile,
        )


if __name__ == "__main__":
    main()
