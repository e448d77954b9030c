"""Measures memory and time of the parts of LTX-2 on a GPU, and compares them with the counts of `dubmill plan`.

    python benchmarks/gpu_smoke.py --out smoke [--parts nano denoise train decode]

Needs no network and no published weights: the modules of LTX-2 19B are filled with random numbers on the GPU. A part that
is in `--out` already is not run again, so a killed run continues. Writes smoke/gpu_smoke.json and smoke/gpu_smoke.md.

- nano: clips from captions and their words and lips, on this machine's device and on its CPU.
- denoise: one guided denoising step with no reference, a reference in full, and one in the KV cache.
- train: one LoRA training step with gradient checkpointing and fused AdamW.
- decode: video VAE, and audio VAE with vocoder, of one half clip.

Without a GPU the same command runs on nano's architecture, in float32 and without peak memory. On a machine without
network, install from a folder of wheels: pip install --no-index --find-links WHEELS dubmill[media,model,data,report].
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dubmill.adapters import add_lora, lora_parameters
from dubmill.artifacts.files import write_atomically
from dubmill.config.params import Params, load
from dubmill.generation.sampling import generate_clips
from dubmill.metrics import observe, own_figures
from dubmill.model.conditioning import cache_reference, patched_attention, predict, sequence_layout
from dubmill.model.latents import Latents, decode_pixels, decode_wave, unpack_audio, unpack_video
from dubmill.model.load import compute_device, compute_dtype
from dubmill.model.loras import load_for_sampling
from dubmill.model.shapes import LatentShape
from dubmill.model.text import TextFeatures
from dubmill.plan.architecture import Architecture, load_architecture
from dubmill.plan.gpus import all_gpus, gpu_named, load_assumptions
from dubmill.plan.layers import Tokens
from dubmill.plan.memory import GpuSetup, Memory, memory_of, savings_in_params
from dubmill.plan.sizes import on_meta_device
from dubmill.plan.work import Work, clip_shapes, work_of
from dubmill.prompting import generate_prompts
from dubmill.training.batches import Batch
from dubmill.training.optimizer import build_optimizer
from dubmill.training.trainer import dubbing_losses
from dubmill.worlds import world_of
from dubmill.worlds.materialize import materialize

ROOT = Path(__file__).parents[1]
NUM_NANO_CLIPS = 8
NOISE_LEVEL = 0.7
MODES = {  # reference positions, attention
    "without reference": ("none", "full"),
    "reference in full": ("shared", "full"),
    "reference in the KV cache": ("shared", "self"),
}


@dataclass(frozen=True)
class Setup:
    """The recipe and the architecture that are measured, and the device."""

    params: Params
    architecture: Architecture
    device: torch.device

    @property
    def shape(self) -> LatentShape:
        """Latent extents of one half clip, the size of a dub."""
        return clip_shapes(self.params, self.architecture).half

    def work(self, step: str) -> Work:
        """What the plan counts for a step."""
        return next(work for work in work_of(self.params, self.architecture) if work.step == step)


def open_setup() -> Setup:
    """Returns the released recipe on LTX-2 19B where there is a GPU, and nano's elsewhere."""
    device = compute_device()
    overlays = [Path("jdi-19b")] if device.type == "cuda" else []
    params = load(ROOT / "params.yaml", *overlays)
    architecture = load_architecture("ltx-2-19b" if device.type == "cuda" else "nano")
    return Setup(params, architecture, device)


def random_module(setup: Setup, part: str) -> Any:
    """Returns a part at full size whose weights are random numbers made on the device."""
    dtype = compute_dtype(part, setup.device)
    module = on_meta_device(setup.architecture, part).to(dtype).to_empty(device=setup.device)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.02)
        for name, buffer in module.named_buffers():
            buffer.fill_(1.0 if name.endswith("std") else 0.0)
    return module.requires_grad_(False).eval()


def measured(work: Callable[[], torch.Tensor], device: torch.device, rounds: int = 3) -> dict[str, Any]:
    """Returns median seconds, peak bytes (on a GPU) and whether the result is finite, after one run that warms up."""
    result, seconds = work(), []
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(rounds):
        started = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {
        "seconds": statistics.median(seconds),
        "peak_bytes": peak,
        "is_finite": bool(torch.isfinite(result).all()),
    }


def against_plan(row: dict[str, Any], memory: Memory, flops: float) -> dict[str, Any]:
    """Returns the row with the plan's bytes and seconds, and the measured ones as ratios to them."""
    expected_bytes = memory.total
    row |= {"plan_bytes": expected_bytes, "flops": flops}
    if row["peak_bytes"] is not None:
        row["memory_ratio"] = row["peak_bytes"] / expected_bytes
    if torch.cuda.is_available():
        gpu, assumed = _gpu(), load_assumptions()
        row["plan_seconds"] = [flops / gpu / assumed.fastest, flops / gpu / assumed.slowest]
        row["time_ratio"] = row["seconds"] / statistics.mean(row["plan_seconds"])
    return row


def _gpu() -> float:
    """Floating-point operations per second of this GPU, by the plan's table; an H100's if it is not in there."""
    name = torch.cuda.get_device_name().replace(" ", "-")
    known = next((gpu for gpu in all_gpus() if gpu.name.rsplit("-", 1)[0] in name), gpu_named("H100-80GB"))
    return known.tflops * 1e12


def plan_memory(setup: Setup, step: str, **changes: Any) -> Memory:
    """Returns the plan's memory of the transformer alone in a step, without a margin."""
    work = replace(setup.work(step), parts=("transformer",), num_pixels=0, **changes)
    savings = replace(savings_in_params(setup.params), gradient_checkpointing=True)
    memory = memory_of(work, setup.params, setup.architecture, savings, GpuSetup(1, 0.0, 1.0))
    return memory if step == "train" else replace(memory, lora=0.0)  # nothing is attached here


def tokens_of(setup: Setup, count: int, seed: int) -> Latents:
    """Returns random video and audio tokens of `count` clips."""
    generator, config = torch.Generator().manual_seed(seed), setup.architecture.geometry
    shape = setup.shape
    video = torch.randn(count, shape.video_tokens, config.video_channels, generator=generator)
    audio = torch.randn(count, shape.audio, config.audio_channels, generator=generator)
    return Latents(video, audio).to(setup.device)


def text_of(setup: Setup, count: int) -> TextFeatures:
    """Returns random text features of `count` captions."""
    text, dtype = setup.architecture.text, compute_dtype("transformer", setup.device)
    video, audio = (
        torch.randn(count, text.tokens, width, dtype=dtype, device=setup.device)
        for width in (text.video_width, text.audio_width)
    )
    return TextFeatures(video, audio, torch.ones(count, text.tokens, device=setup.device))


def nano_part(setup: Setup) -> dict[str, Any]:
    """Returns nano's figures on this device and, from another process, on the CPU."""
    here = nano_figures()
    if setup.device.type == "cpu":
        return {"device": here, "cpu": here}
    command = [sys.executable, __file__, "--nano-figures"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {"device": here, "cpu": json.loads(done.stdout.splitlines()[-1])}


def nano_figures() -> dict[str, float]:
    """Returns mean words right and lip sync of clips that nano generates from captions."""
    params = load(ROOT / "params.yaml")
    prompts = generate_prompts(params.prompts).prompts[:NUM_NANO_CLIPS]
    with tempfile.TemporaryDirectory() as scratch:
        backbone = materialize(params.backbone, Path(scratch) / "backbone")
        modules = load_for_sampling(backbone, params.synthesize.sampling.lora)
        scorers = world_of(backbone).scorers(params.scorers)
        clips = generate_clips([prompt.caption for prompt in prompts], range(len(prompts)), params.synthesize, modules)
    rows = [
        own_figures(observe(clip, scorers), prompt.first, prompt.second)
        for clip, prompt in zip(clips, prompts, strict=True)
    ]
    return {name: statistics.mean(row[name] for row in rows) for name in ("words_right", "sync_correlation")}


def denoise_part(setup: Setup) -> dict[str, Any]:
    """Returns seconds and peak memory of a guided denoising step in each mode."""
    transformer = random_module(setup, "transformer")
    return {name: _denoise(setup, transformer, *mode) for name, mode in MODES.items()}


@torch.no_grad()
def _denoise(setup: Setup, transformer: Any, positions: str, attention: str) -> dict[str, Any]:
    shape, count = setup.shape, 2  # classifier-free guidance: captions and negative prompts
    layout = sequence_layout(
        shape,
        setup.params.synthesize.frame_rate,
        transformer,
        reference=positions,
        isolate=positions != "none",
        attention=attention,
    )
    state, reference, text = tokens_of(setup, count, 0), tokens_of(setup, count, 1), text_of(setup, count)
    sigma_video_BS, sigma_audio_BL = (
        torch.full((count, length), NOISE_LEVEL, device=setup.device) for length in (shape.video_tokens, shape.audio)
    )

    def step() -> torch.Tensor:
        return predict(transformer, state, reference, sigma_video_BS, sigma_audio_BL, text, layout).video_BSD

    with patched_attention(transformer, layout):
        cache_reference(transformer, reference, text, layout)
        row = measured(step, setup.device)
    times = 2 if layout.is_appended else 1
    tokens = Tokens(times * shape.video_tokens, times * shape.audio, setup.architecture.text.tokens)
    memory = plan_memory(setup, "dub", tokens=tokens, num_samples=count, batch_size=1)
    return against_plan(row, memory, count * setup.architecture.transformer.forward_flops(tokens))


def train_part(setup: Setup) -> dict[str, Any]:
    """Returns seconds and peak memory of a training step, as the trainer makes it, in each reference attention."""
    return {attention: _train(setup, attention) for attention in ("full", "self")}


def _train(setup: Setup, attention: str) -> dict[str, Any]:
    params, shape = setup.params.train, setup.shape
    transformer = random_module(setup, "transformer")
    add_lora(transformer, rank=params.rank, alpha=params.alpha, dropout=0.0, targets=params.targets)
    for value in lora_parameters(transformer).values():
        value.data = value.data.float()
    transformer.train()
    transformer.enable_gradient_checkpointing()
    lora = lora_parameters(transformer)
    optimizer = build_optimizer(lora, dict.fromkeys(lora, params.learning_rate), params, setup.device)
    layout = sequence_layout(
        shape,
        setup.params.synthesize.frame_rate,
        transformer,
        reference="shared",
        isolate=True,
        attention=attention,
    )
    batch, is_bf16 = _batch(setup), setup.device.type == "cuda"

    def step() -> torch.Tensor:
        with torch.autocast(setup.device.type, torch.bfloat16, enabled=is_bf16):
            video, audio = dubbing_losses(transformer, batch, layout)
        (video + audio).backward()
        optimizer.step()
        optimizer.zero_grad()
        return (video + audio).detach()

    with patched_attention(transformer, layout):
        row = measured(step, setup.device, rounds=2)
    tokens = Tokens(2 * shape.video_tokens, 2 * shape.audio, setup.architecture.text.tokens)
    flops = setup.architecture.transformer.train_flops(tokens, params.rank, params.targets, checkpointing=True)
    return against_plan(row, plan_memory(setup, "train", num_samples=1, batch_size=1), flops)


def _batch(setup: Setup) -> Batch:
    shape, text, device = setup.shape, text_of(setup, 1), setup.device
    return Batch(
        target=tokens_of(setup, 1, 0),
        reference=tokens_of(setup, 1, 1),
        text=text,
        empty=text,
        weight_video_BS=torch.ones(1, shape.video_tokens, device=device),
        weight_audio_BL=torch.ones(1, shape.audio, device=device),
        sigma_video_BS=torch.full((1, shape.video_tokens), NOISE_LEVEL, device=device),
        sigma_audio_BL=torch.full((1, shape.audio), NOISE_LEVEL, device=device),
        noise=tokens_of(setup, 1, 2),
    )


@torch.no_grad()
def decode_part(setup: Setup) -> dict[str, Any]:
    """Returns seconds and peak memory of decoding one half clip."""
    return {"video": _decode_video(setup), "audio": _decode_audio(setup)}


def _decode_video(setup: Setup) -> dict[str, Any]:
    shape, clips, architecture = setup.shape, clip_shapes(setup.params, setup.architecture), setup.architecture
    vae = random_module(setup, "vae")
    size = (shape.frames, shape.height, shape.width)
    latents = unpack_video(tokens_of(setup, 1, 0).video_BSD, size, vae)
    row = measured(lambda: decode_pixels(latents, vae), setup.device)
    weights = architecture.number_bytes * architecture.parameters["vae"]
    busy = architecture.number_bytes / 2 * clips.half_pixels * architecture.video_vae.decode_bytes
    memory = Memory(weights=weights, lora=0, gradients=0, moments=0, activations=busy, reserve=0)
    return against_plan(row, memory, clips.half_pixels * architecture.video_vae.decode_flops)


def _decode_audio(setup: Setup) -> dict[str, Any]:
    audio_vae, vocoder = random_module(setup, "audio_vae"), random_module(setup, "vocoder")
    latents = unpack_audio(tokens_of(setup, 1, 0).audio_BLD, audio_vae)
    return measured(lambda: decode_wave(latents, audio_vae, vocoder), setup.device)


PARTS: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "nano": nano_part,
    "denoise": denoise_part,
    "train": train_part,
    "decode": decode_part,
}


def table(results: dict[str, Any]) -> str:
    """Returns the measured rows as a Markdown table."""
    lines = [
        "| part | what | seconds | peak GiB | memory / plan | time / plan | finite |",
        "|---|---|---|---|---|---|---|",
    ]
    for part, rows in results["parts"].items():
        for name, row in rows.items():
            if part == "nano":
                figures = ", ".join(f"{key} {value:.3f}" for key, value in row.items())
                lines.append(f"| nano | {name}: {figures} | | | | | |")
                continue
            peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f}"
            ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("memory_ratio", "time_ratio")]
            cells = [part, name, f"{row['seconds']:.3f}", peak, *ratios, "yes" if row["is_finite"] else "NO"]
            lines.append(f"| {' | '.join(cells)} |")
    return f"Device: {results['device']}, torch {results['torch']}\n\n" + "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> None:
    """Run the parts that are not there yet, and write the results of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("smoke"))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--nano-figures", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.nano_figures:
        sys.stdout.write(json.dumps(nano_figures()) + "\n")
        return
    setup, results = open_setup(), {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.parts:
        path = arguments.out / f"part-{name}.json"
        if not path.exists():
            write_atomically(path, json.dumps(PARTS[name](setup), indent=1).encode())
            if setup.device.type == "cuda":
                torch.cuda.empty_cache()
        results[name] = json.loads(path.read_bytes())
    device = torch.cuda.get_device_name() if setup.device.type == "cuda" else "cpu"
    whole = {"device": device, "torch": torch.__version__, "architecture": setup.architecture.name, "parts": results}
    write_atomically(arguments.out / "gpu_smoke.json", json.dumps(whole, indent=1).encode())
    write_atomically(arguments.out / "gpu_smoke.md", table(whole).encode())
    sys.stdout.write(table(whole))


if __name__ == "__main__":
    main()
