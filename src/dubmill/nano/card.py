"""The figures card: what the shipped weights reach on unseen puppets, beside the world's own truth.

Four rows of clips are measured by the same scorers: `world` (clean renders, the oracle), `round_trip` (the same through
both VAEs and the vocoder), `base` (made from captions alone) and `base_half` (half clips, from captions alone).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dubmill.nano import sampling, scorers, weights
from dubmill.nano.captions import caption
from dubmill.nano.figures import clip_figures, truth_figures
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.audio_vae import whole_mel

if TYPE_CHECKING:
    from diffusers import LTX2Pipeline

MEANINGS = {
    "words": "share of words heard, in order (edit distance)",
    "language": "share of words heard in the right language",
    "lips_r": "mouth opening seen, against the opening that its own sound implies (Pearson r)",
    "offset_within_one": "share of clips whose best sync offset is within one frame",
    "lse_d": "least distance of sight and sound over offsets (lower is better)",
    "lse_c": "median less least distance (higher is better)",
    "mouth_seen_r": "mouth opening seen, against the truth (Pearson r)",
    "mouth_heard_r": "mouth opening implied by the sound, against the truth (Pearson r)",
    "mouth_box_px": "error of the mouth box seen, in pixels (lower is better)",
    "identity": "cosine of the face to the same puppet's clean film",
    "voice": "cosine of the voice to the same puppet's clean film",
    "psnr_db": "PSNR of the round trip",
    "mouth_psnr_db": "PSNR of the round trip in the true mouth box",
}
_BATCH = 8


def write(docs: Path, *, num_clips: int) -> dict:
    """Measure the shipped weights and write `nano-card.json` and `nano-card.md` into `docs`."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "folder"
        weights.materialize(folder)
        rows = measure(sampling.load(folder), scorers.load(folder), num_clips=num_clips)
    card = {
        "num_clips": num_clips,
        "measured_seconds": round(time.monotonic() - started),
        "meanings": MEANINGS,
        "rows": {name: {figure: _interval(values) for figure, values in row.items()} for name, row in rows.items()},
    }
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "nano-card.json").write_text(json.dumps(card, indent=2) + "\n")
    (docs / "nano-card.md").write_text(_page(card))
    return card


def measure(pipeline: LTX2Pipeline, judge: scorers.Scorers, *, num_clips: int) -> dict[str, dict[str, list[float]]]:
    """Every figure of every clip, by row and name."""
    measured: dict[str, list[dict[str, float]]] = {"world": [], "round_trip": [], "base": [], "base_half": []}
    for first in range(0, num_clips, _BATCH):
        full, half = (
            data.held_out_takes(min(_BATCH, num_clips - first), first=1000 + first, is_half=is_half)
            for is_half in (False, True)
        )
        for name, takes, clips in (
            ("world", full, [(one.film.frames_FHWC, one.film.audio_N) for one in full]),
            ("round_trip", full, round_trip(pipeline, full)),
            ("base", full, _from_captions(pipeline, full, seed=first)),
            ("base_half", half, _from_captions(pipeline, half, seed=first)),
        ):
            measured[name] += [_figures(judge, *clip, one, name) for clip, one in zip(clips, takes, strict=True)]
    return {name: {figure: [row[figure] for row in rows] for figure in rows[0]} for name, rows in measured.items()}


@torch.no_grad()
def round_trip(pipeline: LTX2Pipeline, takes: list[data.Take]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames and audio of each take after both VAEs and the vocoder."""
    made = pipeline.vae.decode(pipeline.vae.encode(data.video(takes)).latent_dist.mode()).sample
    frames = ((made.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()
    mel = whole_mel(data.audio(takes))
    heard = pipeline.audio_vae.decode(pipeline.audio_vae.encode(mel).latent_dist.mode()).sample
    audio = sampling.whole_clip(pipeline.vocoder(heard)[:, 0].numpy(), frames.shape[1])
    yield from zip(frames, audio, strict=True)


def _from_captions(
    pipeline: LTX2Pipeline, takes: list[data.Take], *, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    captions = [caption(one.puppet.describe(), one.film.phrases) for one in takes]
    num_frames = len(takes[0].film.frames_FHWC)
    yield from zip(*sampling.generate(pipeline, captions, seed=seed, num_frames=num_frames), strict=True)


def _figures(
    judge: scorers.Scorers, frames: np.ndarray, audio: np.ndarray, take: data.Take, row: str
) -> dict[str, float]:
    film = take.film
    figures = clip_figures(judge, frames, audio, film.phrases)
    figures["identity"] = float(judge.identity(frames) @ judge.identity(film.frames_FHWC))
    figures["voice"] = float(judge.voice(audio) @ judge.voice(film.audio_N))
    if row in ("world", "round_trip"):
        figures |= truth_figures(judge, frames, audio, film.mouth_opening_F, film.mouth_box_F4)
    if row == "round_trip":
        squared = ((frames.astype(float) - film.frames_FHWC) / 255) ** 2
        inside = data.mouth_mask([take])[0, 0].numpy().astype(bool)
        figures["psnr_db"] = float(-10 * np.log10(squared.mean()))
        figures["mouth_psnr_db"] = float(-10 * np.log10(squared[inside].mean()))
    return figures


def _interval(values: list[float]) -> dict[str, float]:
    """Mean and its 95 % bootstrap interval."""
    sample = np.asarray(values)
    means = np.random.default_rng(0).choice(sample, (2000, len(sample))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": round(float(sample.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _page(card: dict) -> str:
    rows = card["rows"]
    lines = [
        "# What nano reaches",
        "",
        f"{card['num_clips']} clips of puppets that no part was trained on, with the 95 % bootstrap interval of the mean;",
        f"measured in {card['measured_seconds']} s by `python -m dubmill.nano card`. These are nano's own figures.",
        "",
        f"| figure | {' | '.join(name.replace('_', ' ') for name in rows)} | meaning |",
        "|---|" + "---|" * (len(rows) + 1),
    ]
    for figure, meaning in card["meanings"].items():
        told = [_cell(row[figure]) if figure in row else "–" for row in rows.values()]
        lines.append(f"| {figure} | {' | '.join(told)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _cell(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.3g} ({interval['low']:.3g} to {interval['high']:.3g})"
