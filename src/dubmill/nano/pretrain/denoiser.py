"""Trains the base: transformer, connectors and text encoder together, from step 0, by flow matching.

In about a third of the batches some tokens stay clean, at timestep 0, as in inpainting and dubbing. The captions of these
batches mostly do not describe the speaker, so that the base takes face and voice from the clean tokens.

Axes: B clips, S tokens, C channels, L text tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Gemma3ForConditionalGeneration

from dubmill.nano import modules, tokenizer
from dubmill.nano.figures import clip_figures, mean_figures
from dubmill.nano.pretrain import data, latents
from dubmill.nano.pretrain.loop import Schedule

_EMPTY_SHARE, _PLAIN_SHARE, _FULL_SHARE, _CLEAN_SHARE = 0.12, 0.2, 0.6, 0.35
_PLAIN_SHARE_BESIDE_CLEAN = 0.6  # the base must then take face and voice from the clean tokens
_PAD, _BOS = 0, 2
_SIDE = 4
_FIRST_HALF_FRAMES, _FIRST_HALF_AUDIO = 5, 33


@dataclass(frozen=True)
class BaseSources:
    """The files that the base's training reads: latents and their statistics, autoencoders, vocoder, scorers."""

    shards: list[Path]
    statistics: Path
    video_vae: Path
    audio_vae: Path
    vocoder: Path
    scorers: Path


class TrainedTogether(nn.Module):
    """The networks of the base in one module, so that one optimizer and one checkpoint hold them.

    Attributes:
        text: the language model inside the text encoder, which is trained without its vision tower and its head.
    """

    def __init__(self, text_encoder: Gemma3ForConditionalGeneration) -> None:
        super().__init__()
        self.transformer = modules.transformer()
        self.connectors = modules.connectors()
        self.text = text_encoder.model.language_model


class BaseTraining:
    """Part `base`."""

    name = "base"

    def __init__(self, sources: BaseSources, *, batch_size: int = 16, is_compiled: bool = False) -> None:
        torch.manual_seed(0)
        self._text_encoder = modules.text_encoder(tokenizer.vocabulary_size())
        self.model = TrainedTogether(self._text_encoder)
        self.schedule = Schedule(peak_rate=1e-3, weight_decay=0.01, average=0.995)
        self.batch_size, self._sources = batch_size, sources
        self._latents = latents.read_latents(sources.shards, sources.statistics)
        if is_compiled:
            self.model.transformer.compile_repeated_blocks()

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        clips = self._latents["full" if rng.random() < _FULL_SHARE else "half"]
        at = torch.from_numpy(rng.integers(0, len(clips), self.batch_size))
        clean = [clips.video_BSC[at].float(), clips.audio_BSC[at].float()]
        noise = [torch.randn_like(tokens) for tokens in clean]
        sigma_B = _sigma(self.batch_size)
        noised = noised_tokens(clean, rng) if rng.random() < _CLEAN_SHARE else None
        plain_share = _PLAIN_SHARE if noised is None else _PLAIN_SHARE_BESIDE_CLEAN
        ids_BL = _with_dropout(clips.rich_BL[at], clips.plain_BL[at], plain_share, rng)
        sigmas = [sigma_B[:, None] * (1.0 if noised is None else mask) for mask in noised or (1, 1)]
        mixed = [
            torch.lerp(one, other, sigma[..., None]) for one, other, sigma in zip(clean, noise, sigmas, strict=True)
        ]
        velocity = self._velocity(mixed[0], mixed[1], sigmas[0], sigmas[1], ids_BL)
        losses = []
        for place in range(2):
            squared_BS = (velocity[place] - (noise[place] - clean[place])).square().mean(-1)
            weight_BS = torch.ones_like(squared_BS) if noised is None else noised[place]
            losses.append((squared_BS * weight_BS).sum() / weight_BS.sum().clamp(min=1))
        figures = {"video": losses[0].item(), "audio": losses[1].item()} if noised is None else {}
        return losses[0] + losses[1], figures

    def _velocity(
        self,
        video_BSC: torch.Tensor,
        audio_BSC: torch.Tensor,
        video_sigma: torch.Tensor,
        audio_sigma: torch.Tensor,
        ids_BL: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the predicted velocities of video and audio; each sigma is (B, 1) for whole clips or (B, S) for their tokens."""
        mask_BL = (ids_BL != _PAD).long()
        hidden = self.model.text(input_ids=ids_BL, attention_mask=mask_BL, output_hidden_states=True).hidden_states
        features = torch.stack(hidden, dim=-1).flatten(2)
        video_text, audio_text, _ = self.model.connectors(features, mask_BL, padding_side="left")
        transformer = self.model.transformer
        num_frames, num_clips, device = video_BSC.shape[1] // _SIDE**2, len(video_BSC), video_BSC.device
        return transformer(
            hidden_states=video_BSC,
            audio_hidden_states=audio_BSC,
            encoder_hidden_states=video_text,
            audio_encoder_hidden_states=audio_text,
            timestep=_timestep(video_sigma),
            audio_timestep=_timestep(audio_sigma),
            num_frames=num_frames,
            height=_SIDE,
            width=_SIDE,
            fps=12.5,
            audio_num_frames=audio_BSC.shape[1],
            video_coords=transformer.rope.prepare_video_coords(num_clips, num_frames, _SIDE, _SIDE, device, fps=12.5),
            audio_coords=transformer.audio_rope.prepare_audio_coords(num_clips, audio_BSC.shape[1], device),
            return_dict=False,
        )

    def evaluate(self) -> dict[str, float]:
        from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline
        from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

        from dubmill.nano import sampling, scorers
        from dubmill.nano.captions import caption

        takes = data.held_out_takes(24, is_drawn=False)
        places = self._sources
        vae, audio_vae = latents.normalising_vaes(places.video_vae, places.audio_vae, places.statistics)
        pipeline = LTX2Pipeline(
            scheduler=modules.scheduler(),
            vae=vae,
            audio_vae=audio_vae,
            text_encoder=self._text_encoder,
            tokenizer=tokenizer.build(),
            connectors=self.model.connectors,
            transformer=self.model.transformer,
            vocoder=LTX2Vocoder.from_pretrained(places.vocoder),
        )
        pipeline.set_progress_bar_config(disable=True)
        captions = [caption(one.puppet.describe(), one.film.phrases) for one in takes]
        frames, audio = sampling.sample_clips(pipeline, captions, seed=0)
        self._evaluated = torch.from_numpy(frames[:6]).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        judge = scorers.load_scorers(places.scorers)
        return mean_figures(
            [
                clip_figures(judge, frames_FHWC, audio_N, one.film.phrases)
                for frames_FHWC, audio_N, one in zip(frames, audio, takes, strict=True)
            ]
        )

    def save(self, out: Path) -> None:
        from dubmill.nano.pretrain.sheets import save_rows

        self.model.transformer.save_pretrained(out / "transformer")
        self.model.connectors.save_pretrained(out / "connectors")
        self._text_encoder.save_pretrained(out / "text_encoder")
        save_rows([clip[:, ::2] for clip in self._evaluated], out / "sheet.png")


def _timestep(sigma: torch.Tensor) -> torch.Tensor:
    """Returns the transformer's timestep, sigma times 1000: (B,) for whole clips, (B, S) for tokens."""
    return (sigma[:, 0] if sigma.shape[1] == 1 else sigma) * 1000


def _sigma(count: int) -> torch.Tensor:
    """Returns sigmas (B,): half near .95, where the time of a word is decided, half near .6, where its sound is decided."""
    mean = torch.where(torch.rand(count) < 0.5, 2.8, 0.4)
    return torch.sigmoid(mean + 1.2 * torch.randn(count))


def _with_dropout(
    rich_BL: torch.Tensor, plain_BL: torch.Tensor, plain_share: float, rng: np.random.Generator
) -> torch.Tensor:
    """Returns caption ids: mostly with the puppet's description, sometimes with "A person", sometimes empty."""
    empty_L = torch.full_like(rich_BL[0], _PAD)
    empty_L[-1] = _BOS
    draw = torch.from_numpy(rng.random(len(rich_BL)))[:, None]
    ids_BL = torch.where(draw < _EMPTY_SHARE + plain_share, plain_BL, rich_BL)
    return torch.where(draw < _EMPTY_SHARE, empty_L, ids_BL)


def noised_tokens(clean: list[torch.Tensor], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns masks (B, S) for video and audio: 1 where a token is noised, 0 where it stays clean."""
    video_BSC, audio_BSC = clean
    num_frames = video_BSC.shape[1] // _SIDE**2
    video = torch.zeros(len(video_BSC), num_frames, _SIDE, _SIDE)
    audio = torch.zeros(audio_BSC.shape[:2])
    for clip in range(len(video)):
        frames, sounds = _span(num_frames, rng)
        kind = rng.choice(["mouth", "picture", "sound", "all"], p=[0.55, 0.15, 0.15, 0.15])
        narrow = int(rng.integers(2))
        if kind == "mouth":
            video[clip, frames, 2:, narrow : _SIDE - narrow] = 1
        if kind in ("picture", "all"):
            video[clip, frames] = 1
        if kind in ("mouth", "sound", "all"):
            audio[clip, sounds] = 1
    return video.flatten(1), audio


def _span(num_frames: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Returns the frames and audio latents of a clip's first half, second half, or all of it; a half clip is never divided."""
    whole, first, second = slice(None), slice(None, _FIRST_HALF_FRAMES), slice(_FIRST_HALF_FRAMES, None)
    if num_frames == _FIRST_HALF_FRAMES:
        return whole, whole
    choice = int(rng.integers(5))
    if choice == 0:
        return whole, whole
    if choice < 3:
        return first, slice(None, _FIRST_HALF_AUDIO + 1)
    return second, slice(_FIRST_HALF_AUDIO, None)
