"""The parts of nano by name, in the order of their training: later ones use earlier ones."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from dubmill.nano import lexicon
from dubmill.nano.pretrain import latents, loop
from dubmill.nano.pretrain.audio_vae import AudioVaeTraining
from dubmill.nano.pretrain.denoiser import BaseSources, BaseTraining
from dubmill.nano.pretrain.few_steps import FewStepsTraining
from dubmill.nano.pretrain.scorers import ScorerTraining
from dubmill.nano.pretrain.ship import pipeline_of
from dubmill.nano.pretrain.sketch_vae import SketchVaeTraining
from dubmill.nano.pretrain.video_vae import VideoVaeTraining
from dubmill.nano.pretrain.vocoder import VocoderTraining
from dubmill.nano.weights import unpack_weights

NUM_CLIPS, NUM_SHARDS = 5000, 2


def pretrain(
    part: str,
    out: Path,
    *,
    steps: int,
    seconds: float = math.inf,
    threads: int = 2,
    is_compiled: bool = False,
) -> None:
    """Train one part under `out/PART`; `lexicon` synthesizes the words, `latents` encodes the base's training data."""
    torch.set_num_threads(threads)
    if part == "lexicon":
        lexicon.build_lexicon(lexicon.LEXICON_PATH)
    elif part == "latents":
        encode_world(out)
    else:
        loop.train_part(_makers(out, is_compiled)[part](), out / part, total_steps=steps, seconds=seconds)


def _makers(out: Path, is_compiled: bool) -> dict[str, Callable[[], loop.Part]]:
    return {
        "sketch_vae": SketchVaeTraining,
        "video_vae": lambda: VideoVaeTraining(_sketch_vae(out)),
        "audio_vae": AudioVaeTraining,
        "vocoder": lambda: VocoderTraining(sources(out).audio_vae),
        "scorers": ScorerTraining,
        "base": lambda: BaseTraining(sources(out), is_compiled=is_compiled),
        "few_steps": lambda: FewStepsTraining(base_folder(out), out / "few_steps", scorers=out),
    }


def _sketch_vae(out: Path) -> Path:
    return out / "sketch_vae" / "vae"


def sources(out: Path) -> BaseSources:
    """Returns the files under `out` that the base's training reads."""
    return BaseSources(
        shards=[out / "latents" / f"{index}.pt" for index in range(NUM_SHARDS)],
        statistics=out / "latents" / "statistics.safetensors",
        video_vae=out / "video_vae" / "vae",
        audio_vae=out / "audio_vae" / "audio_vae",
        vocoder=out / "vocoder" / "vocoder",
        scorers=out / "scorers",
    )


def base_folder(out: Path) -> Path:
    """Returns a diffusers folder, made once, of the base trained under `out`, or of the shipped one where none was."""
    folder = out / "few_steps" / "base"
    if not folder.exists():
        if (out / "base" / "transformer").exists():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            pipeline_of(out).save_pretrained(partial)
            partial.rename(folder)
        else:
            unpack_weights(folder)
    return folder


def encode_world(out: Path, *, shards: range = range(NUM_SHARDS)) -> None:
    """Encode the clips that are not encoded yet; once all are, write the statistics of their latents."""
    found = sources(out)
    (out / "latents").mkdir(parents=True, exist_ok=True)
    seeds = latents.shard_seeds(NUM_CLIPS, NUM_SHARDS)
    for index in shards:
        if not found.shards[index].exists():
            latents.encode_shard(_sketch_vae(out), found.audio_vae, found.shards[index], seeds[index])
    if all(shard.exists() for shard in found.shards):
        latents.write_statistics(found.shards, found.statistics)
