"""What does a training step cost beside the bare transformer's forward and backward on the same batch?

    python benchmarks/train_step.py [--rounds 20]

Both are timed in turn, so that a drifting machine drifts for both; prints the median of the ratios pair by pair.
Runs on the untrained nano modules with random latents: the cost does not depend on the weights' values.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from dubmill import params, training
from dubmill.adapters import parameters
from dubmill.artifacts import LatentSet, Lineage
from dubmill.backbone import load, materialize
from dubmill.conditioning import encode_captions, isolated
from dubmill.shapes import LatentShape

SHAPE = LatentShape(frames=4, height=4, width=4, audio=26)
NUM_PAIRS = 8


def latent_set(modules: object, folder: Path) -> LatentSet:
    """Random latents of nano's size with real text features."""
    from safetensors.torch import save

    text = encode_captions(['A person is speaking Spanish, saying: "uno dos"'] * 2 * NUM_PAIRS + [""], modules)
    geometry = modules.geometry
    tensors = {
        "video": torch.randn(NUM_PAIRS, 2, SHAPE.video_tokens, geometry.video_channels),
        "audio": torch.randn(NUM_PAIRS, 2, SHAPE.audio, geometry.audio_channels),
        "face": torch.ones(NUM_PAIRS, SHAPE.video_tokens),
        "text_video": text.video_BTD,
        "text_audio": text.audio_BTD,
        "text_mask": text.mask_BT,
    }
    draft = LatentSet.draft(folder, Lineage(step="encode", params={}))
    draft.write(training.LATENTS, save({name: value.contiguous() for name, value in tensors.items()}))
    shape = {name: getattr(SHAPE, name) for name in ("frames", "height", "width", "audio")}
    return draft.seal({"latent_shape": shape, "frame_rate": 12.5})


def seconds(work: object) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Time both in turn and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    all_params = params.load(Path(__file__).parents[1] / "params.yaml")
    with tempfile.TemporaryDirectory() as scratch:
        modules = load(materialize(all_params.backbone, Path(scratch) / "backbone"))
        latents = latent_set(modules, Path(scratch) / "latents")
        (Path(scratch) / "run").mkdir()
        trainer = training.Trainer(modules, latents, all_params.train, Path(scratch) / "run")
        batch = training.draw(trainer.pairs, SHAPE, all_params.train, torch.Generator().manual_seed(1))

        def bare() -> None:
            video, audio = training.losses(trainer.transformer, batch, trainer.where)
            (video + audio).backward()
            for value in parameters(trainer.transformer).values():
                value.grad = None

        with isolated(modules.transformer, trainer.where):
            trainer.step(0), bare()
            ratios = [seconds(lambda: trainer.step(1)) / seconds(bare) for _ in range(rounds)]
    sys.stdout.write(
        f"train step / bare forward and backward, nano: median {statistics.median(ratios):.3f} of {rounds}\n"
    )


if __name__ == "__main__":
    main()
