"""How much quality does a model lose with int8 weights?

    python benchmarks/eight_bits.py [--clips 16]

nano generates clips from the same captions and noise with 16-bit weights (float32 on a CPU), and with int8 weights in
transformer and text encoder; prints the share of requested words that are recognised in each, the PSNR between the pictures,
the bytes of the weights, and the mean error of a weight, compared with a plain cast to fp8. The time ratio is of CPU time
and says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from dubmill.artifacts.rows import Prompt
from dubmill.config import params
from dubmill.generation.sampling import generate_clips
from dubmill.media.clips import Clip
from dubmill.metrics.picture import outside_psnr_db
from dubmill.metrics.scorers import Scorers
from dubmill.metrics.speech import scorer_audio, words_right
from dubmill.model import quantization
from dubmill.model.loras import load_for_sampling
from dubmill.prompting import generate_prompts
from dubmill.worlds.materialize import materialize
from dubmill.worlds.nano import NanoWorld

PARTS = ("transformer", "text_encoder")
NOWHERE = np.empty((0, 4))


def right(clips: Iterable[Clip], prompts: Iterable[Prompt], scorers: Scorers) -> float:
    """The mean share of a caption's words, in both lines, that are recognised in its clip."""
    pairs = zip(clips, prompts, strict=True)
    return float(
        np.mean(
            [
                words_right(f"{one.first.text} {one.second.text}".split(), scorers.words(scorer_audio(clip)))
                for clip, one in pairs
            ]
        )
    )


def weight_errors(module: torch.nn.Module) -> tuple[float, float]:
    """The mean size of a layer's error, in units of its weights' size: in 8 bits with a scale for each row, and in fp8."""
    found = []
    for layer in quantization.block_linear_layers(module).values():
        packed, weight = quantization.Int8Linear(layer), layer.weight.float()
        restored = (packed.weight * packed.scale_O[:, None], weight.to(torch.float8_e4m3fn).float())
        found.append([float((one - weight).norm() / weight.norm()) for one in restored])
    ours, plain = np.mean(found, axis=0)
    return float(ours), float(plain)


def main() -> None:
    """Generate the clips with both kinds of weights and print the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=16)
    asked = parser.parse_args()
    values = params.load(Path(__file__).parents[1] / "params.yaml")
    small = values.backbone.model_copy(update={f"{part}_bits": 8 for part in PARTS})
    prompts = generate_prompts(values.prompts).prompts[: asked.clips]
    captions, seeds = [one.caption for one in prompts], range(len(prompts))
    made, heard, seconds, weights = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, section in (("16", values.backbone), ("8", small)):
            backbone = materialize(section, Path(scratch) / name)
            modules = load_for_sampling(backbone, values.synthesize.sampling.lora)
            if section is values.backbone:
                errors = weight_errors(modules.transformer)
            began = time.process_time()
            made.append(generate_clips(captions, seeds, values.synthesize, modules))
            seconds.append(time.process_time() - began)
            heard.append(right(made[-1], prompts, NanoWorld(backbone).scorers()))
            weights.append(sum(one.nbytes for part in PARTS for one in getattr(modules, part).parameters()))
    near = [outside_psnr_db(b.frames_FHWC, a.frames_FHWC, NOWHERE) for a, b in zip(*made, strict=True)]
    sys.stdout.write(
        f"{len(prompts)} clips by nano, words right: {heard[0]:.3f} with 16 bits, {heard[1]:.3f} with 8; "
        f"pictures {np.median(near):.1f} dB apart (median); weights {weights[1] / weights[0]:.2f} of float32's bytes; "
        f"CPU time {seconds[1] / seconds[0]:.2f}\n"
        f"a transformer's weight is off by {errors[0]:.2%} of its layer's size, by {errors[1]:.2%} in plain fp8\n"
    )


if __name__ == "__main__":
    main()
