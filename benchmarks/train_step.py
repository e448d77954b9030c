"""How much time does a training step add to the transformer's forward and backward pass on the same batch?

    python benchmarks/train_step.py [--rounds 20]

Both are timed in turn, so that a drifting machine drifts for both; prints the median of the ratios pair by pair, and
the share of a step that it waits for its batch: drawing, slicing, moving to the device. Seconds are of the processor
where there is no GPU, so that whatever else runs on the machine counts little.
Runs on the untrained nano modules with random latents: the cost does not depend on the weights' values.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dubmill.adapters import lora_parameters
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import LatentSet
from dubmill.config import params
from dubmill.model.conditioning import patched_attention
from dubmill.model.load import Modules, load
from dubmill.model.shapes import half_frames, latent_shape
from dubmill.model.text import encode_captions
from dubmill.prompting import generate_prompts
from dubmill.training import trainer as training
from dubmill.training.batches import LATENTS
from dubmill.worlds.materialize import materialize

NUM_PAIRS = 8


def latent_set(modules: Modules, values: params.Params, folder: Path) -> LatentSet:
    """Random latents of nano's size with real text features."""
    from safetensors.torch import save

    text = encode_captions([generate_prompts(values.prompts).prompts[0].caption] * 2 * NUM_PAIRS + [""], modules)
    geometry, clip = modules.geometry, values.synthesize
    size = {"height": clip.height, "width": clip.width, "frame_rate": clip.frame_rate}
    shape = latent_shape(num_frames=half_frames(clip.num_frames, geometry.temporal), geometry=geometry, **size)
    tensors = {
        "video": torch.randn(NUM_PAIRS, 2, shape.video_tokens, geometry.video_channels),
        "audio": torch.randn(NUM_PAIRS, 2, shape.audio, geometry.audio_channels),
        "face": torch.ones(NUM_PAIRS, shape.video_tokens),
        "text_video": text.video_BTD,
        "text_audio": text.audio_BTD,
        "text_mask": text.mask_BT,
    }
    draft = LatentSet.draft(folder, Lineage(step="encode", params={}))
    draft.write(LATENTS, save({name: value.contiguous() for name, value in tensors.items()}))
    extents = {name: getattr(shape, name) for name in ("frames", "height", "width", "audio")}
    return draft.seal({"latent_shape": extents, "frame_rate": clip.frame_rate})


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    """Time both, and the drawing of a batch, in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    values = params.load(Path(__file__).parents[1] / "params.yaml")
    with tempfile.TemporaryDirectory() as scratch:
        modules = load(materialize(values.backbone, Path(scratch) / "backbone"))
        latents = latent_set(modules, values, Path(scratch) / "latents")
        (Path(scratch) / "run").mkdir()
        accelerator = training.build_accelerator(values.train)
        trainer = training.Trainer(modules, latents, values.train, Path(scratch) / "run", accelerator)
        batch = trainer._sample(0, 0)[0]

        def bare() -> None:
            video, audio = training.dubbing_losses(modules.transformer, batch, trainer.layout)
            (video + audio).backward()
            for value in lora_parameters(modules.transformer).values():
                value.grad = None

        with patched_attention(modules.transformer, trainer.layout):
            trainer.step(0)
            bare()
            timed = [
                (seconds(lambda: trainer.step(1)), seconds(bare), seconds(lambda: trainer._sample(1, 0)))
                for _ in range(rounds)
            ]
    ratio = statistics.median(step / least for step, least, _ in timed)
    waits = statistics.median(drawing / step for step, _, drawing in timed)
    sys.stdout.write(
        f"train step / bare forward and backward, nano: median {ratio:.3f} of {rounds}\n"
        f"share of a step that waits for its batch: median {waits:.2%}\n"
    )


if __name__ == "__main__":
    main()
