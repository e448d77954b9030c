"""The parts by name, in the order in which they need each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from dubmill.nano.pretrain import latents, loop
from dubmill.nano.pretrain.audio_vae import AudioVae
from dubmill.nano.pretrain.denoiser import Denoiser, Sources
from dubmill.nano.pretrain.scorers import ScorerTraining
from dubmill.nano.pretrain.video_vae import VideoVae
from dubmill.nano.pretrain.vocoder import Vocoder

NUM_CLIPS, NUM_SHARDS = 5000, 2


def pretrain(
    part: str,
    out: Path,
    *,
    steps: int,
    seconds: float = math.inf,
    threads: int = 2,
    workers: int = 0,
    evaluate_every: int = 500,
    is_compiled: bool = False,
) -> None:
    """Train one part under `out/PART`; `latents` encodes what the base trains on."""
    torch.set_num_threads(threads)
    if part == "latents":
        encode(out)
        return
    trained = _makers(out, is_compiled)[part]()
    loop.fit(trained, out / part, total_steps=steps, seconds=seconds, workers=workers, evaluate_every=evaluate_every)


def _makers(out: Path, is_compiled: bool) -> dict[str, Callable[[], loop.Part]]:
    return {
        "video_vae": VideoVae,
        "audio_vae": AudioVae,
        "vocoder": lambda: Vocoder(sources(out).audio_vae),
        "scorers": ScorerTraining,
        "base": lambda: Denoiser(sources(out), is_compiled=is_compiled),
    }


def sources(out: Path) -> Sources:
    """Where each part leaves what the base needs."""
    return Sources(
        shards=[out / "latents" / f"{index}.pt" for index in range(NUM_SHARDS)],
        statistics=out / "latents" / "statistics.safetensors",
        video_vae=out / "video_vae" / "vae",
        audio_vae=out / "audio_vae" / "audio_vae",
        vocoder=out / "vocoder" / "vocoder",
        scorers=out / "scorers",
    )


def encode(out: Path, *, shards: range = range(NUM_SHARDS)) -> None:
    """Encode the clips that are not encoded yet; once all are, tell their statistics."""
    found = sources(out)
    (out / "latents").mkdir(parents=True, exist_ok=True)
    seeds = latents.shard_seeds(NUM_CLIPS, NUM_SHARDS)
    for index in shards:
        if not found.shards[index].exists():
            latents.encode_shard(found.video_vae, found.audio_vae, found.shards[index], seeds[index])
    if all(shard.exists() for shard in found.shards):
        latents.write_statistics(found.shards, found.statistics)
