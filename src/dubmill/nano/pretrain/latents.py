"""Training data of the base: packed, normalised latents of clips and half clips, with their captions' tokens.

Axes: B clips, S tokens, C channels, L text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
from safetensors.torch import load_file, save_file

from dubmill.nano import tokenizer
from dubmill.nano.captions import caption
from dubmill.nano.modules import TEXT_LENGTH
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.audio_vae import whole_mel
from dubmill.nano.world import halves

LENGTHS = ("full", "half")


@dataclass(frozen=True)
class WorldLatents:
    """Latents and caption tokens of clips of one length.

    Attributes:
        video_BSC, audio_BSC: latents of zero mean and unit deviation per channel, float16.
        rich_BL, plain_BL: token ids of the caption with the puppet's description, and with "A person" instead.
    """

    video_BSC: torch.Tensor
    audio_BSC: torch.Tensor
    rich_BL: torch.Tensor
    plain_BL: torch.Tensor

    def __len__(self) -> int:
        return len(self.video_BSC)


def encode_shard(video_vae: Path, audio_vae: Path, out: Path, seeds: range, *, batch_size: int = 16) -> None:
    """Encode the sketches of the clips of `seeds`, and one half of each, and write the unnormalised latents to `out`."""
    vae = AutoencoderKLLTX2Video.from_pretrained(video_vae).eval()
    ears = AutoencoderKLLTX2Audio.from_pretrained(audio_vae).eval()
    rows: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in LENGTHS}
    for first in range(seeds.start, seeds.stop, batch_size):
        full = [data.take(seed, rendition=data.SKETCHES) for seed in range(first, min(first + batch_size, seeds.stop))]
        cut = [data.Take(one.puppet, halves(one.film)[(first + place) % 2]) for place, one in enumerate(full)]
        for name, takes in zip(LENGTHS, (full, cut), strict=True):
            rows[name].append((*_encode(vae, ears, takes), *_token_ids(takes)))
    partial = out.with_suffix(".partial")
    torch.save({name: [torch.cat(column) for column in zip(*rows[name], strict=True)] for name in LENGTHS}, partial)
    partial.rename(out)


@torch.no_grad()
def _encode(
    vae: AutoencoderKLLTX2Video, ears: AutoencoderKLLTX2Audio, takes: list[data.Take]
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        video_BCFHW = vae.encode(data.video(takes), return_dict=False)[0].mode()
        audio_BCLM = ears.encode(whole_mel(data.audio(takes)), return_dict=False)[0].mode()
    return video_BCFHW.flatten(2).transpose(1, 2).half(), audio_BCLM.transpose(1, 2).flatten(2).half()


def _token_ids(takes: list[data.Take]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = tokenizer.build()
    return tuple(
        tokens(captions, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt").input_ids
        for captions in (
            [caption(one.puppet.describe(), one.film.phrases) for one in takes],
            [caption("A person", one.film.phrases) for one in takes],
        )
    )


def write_statistics(shards: list[Path], path: Path) -> None:
    """Write mean and standard deviation of every latent channel, over the full clips of `shards`, to `path`."""
    full = [torch.load(shard)["full"] for shard in shards]
    tensors = {}
    for column, name in enumerate(("video", "audio")):
        values = torch.cat([shard[column] for shard in full]).float().flatten(0, 1)
        tensors[f"{name}_mean"], tensors[f"{name}_std"] = values.mean(0), values.std(0)
    save_file(tensors, path)


def normalising_vaes(
    video_vae: Path, audio_vae: Path, statistics: Path
) -> tuple[AutoencoderKLLTX2Video, AutoencoderKLLTX2Audio]:
    """Returns both autoencoders with the `statistics` of their latents, which are measured after their training."""
    tensors = load_file(statistics)
    vaes = AutoencoderKLLTX2Video.from_pretrained(video_vae), AutoencoderKLLTX2Audio.from_pretrained(audio_vae)
    for vae, name in zip(vaes, ("video", "audio"), strict=True):
        vae.latents_mean.copy_(tensors[f"{name}_mean"])
        vae.latents_std.copy_(tensors[f"{name}_std"])
    return vaes


def read_latents(shards: list[Path], statistics: Path) -> dict[str, WorldLatents]:
    """Returns the normalised latents of all shards, by clip length."""
    loaded, moments = [torch.load(shard) for shard in shards], load_file(statistics)
    by_length = {}
    for name in LENGTHS:
        columns = [torch.cat(column) for column in zip(*(shard[name] for shard in loaded), strict=True)]
        for place, kind in enumerate(("video", "audio")):
            columns[place] = ((columns[place].float() - moments[f"{kind}_mean"]) / moments[f"{kind}_std"]).half()
        by_length[name] = WorldLatents(*columns)
    return by_length


def shard_seeds(num_clips: int, num_shards: int) -> list[range]:
    """Returns the clip seeds of each shard."""
    bounds = np.linspace(0, num_clips, num_shards + 1).astype(int)
    return [range(int(first), int(last)) for first, last in zip(bounds, bounds[1:], strict=False)]
