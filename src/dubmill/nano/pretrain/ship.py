"""Gathers the trained parts of nano into the weights that ship with the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from dubmill.artifacts.files import sha256_of
from dubmill.model.loras import DISTILLED_FOLDER
from dubmill.nano.lexicon import LEXICON_PATH
from dubmill.nano.weights import DIGESTS, TRAINING, files_in

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline
    from transformers import PreTrainedModel

_SHOWN = {
    "sketch_vae": ("psnr_db", "mouth_psnr_db"),
    "video_vae": ("psnr_db", "mouth_psnr_db"),
    "audio_vae": ("mel_l1",),
    "vocoder": ("round_trip_mel_l1",),
    "scorers": ("words", "voice_same"),
    "base": ("words", "language", "lips_r"),
    "few_steps": ("words", "language", "lips_r"),
}
"""Part -> its held-out figures that the card shows as curves."""
_PAUSE_SECONDS = 300
_PLACES = {
    "vae": ("video_vae", "vae"),
    "audio_vae": ("audio_vae", "audio_vae"),
    "vocoder": ("vocoder", "vocoder"),
    "transformer": ("base", "transformer"),
    "connectors": ("base", "connectors"),
    "text_encoder": ("base", "text_encoder"),
}
"""Module -> the part that trained it, and the folder in which that part saved it."""
_FILES = (("scorers", "scorers.safetensors", "scorers"), ("few_steps", "distilled_lora.safetensors", DISTILLED_FOLDER))
"""Part, the file that it saved, and the folder in which it ships."""


def ship(run: Path, weights: Path) -> None:
    """Gather the parts trained under `run` into `weights`, in bfloat16; parts not trained yet ship untrained.

    A run of the part `few_steps` alone adds its LoRA to the weights that are there.
    """
    weights.mkdir(parents=True, exist_ok=True)
    if (run / "base").exists() or not (run / "few_steps").exists():
        _ship_networks(run, weights)
    for part, name, folder in _FILES:
        if (run / part / name).exists():
            (weights / folder).mkdir(exist_ok=True)
            tensors = {key: _narrow(key, value) for key, value in load_file(run / part / name).items()}
            save_file(tensors, weights / folder / name)
    if weights.resolve() != LEXICON_PATH.parent.resolve():
        shutil.copyfile(LEXICON_PATH, weights / LEXICON_PATH.name)
    known = json.loads((weights / TRAINING).read_text()) if (weights / TRAINING).exists() else {}
    (weights / TRAINING).write_text(json.dumps(known | _training(run), indent=1) + "\n")
    digests = {str(path.relative_to(weights)): sha256_of(path) for path in files_in(weights) if path.name != DIGESTS}
    (weights / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n")


def _ship_networks(run: Path, weights: Path) -> None:
    shutil.rmtree(weights / DISTILLED_FOLDER, ignore_errors=True)  # it was distilled from another base
    pipeline_of(run).save_pretrained(weights)
    for path in weights.glob("*/*.safetensors"):
        tensors = {name: _narrow(name, value) for name, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    for path in weights.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # a path of the machine that trained the part
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _training(run: Path) -> dict[str, dict]:
    """Returns steps, seconds (without pauses) and held-out curves of every part trained under `run`."""
    parts = {}
    for part, shown in _SHOWN.items():
        log = run / part / "curve.jsonl"
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if not rows:
            continue
        gaps = [after["clock"] - before["clock"] for before, after in pairwise(rows)]
        held_out = [row for row in rows if row["kind"] == "held_out"]
        figures = [name for name in held_out[-1] if name not in ("kind", "step", "clock")]
        curve = {name: [[row["step"], round(row[name], 4)] for row in held_out] for name in figures}
        seconds = sum(gap for gap in gaps if gap < _PAUSE_SECONDS)
        parts[part] = {"steps": rows[-1]["step"], "seconds": seconds, "shown": list(shown), "curve": curve}
    return parts


def pipeline_of(run: Path) -> LTX2Pipeline:
    """Returns diffusers' pipeline of the parts trained under `run`; parts not trained yet are untrained."""
    from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline

    from dubmill.nano import modules, tokenizer
    from dubmill.nano.pretrain.latents import normalising_vaes
    from dubmill.nano.pretrain.parts import sources

    torch.manual_seed(0)
    makers: dict[str, Callable[[], ModelMixin | PreTrainedModel]] = {
        "vae": modules.video_vae,
        "audio_vae": modules.audio_vae,
        "vocoder": modules.vocoder,
        "transformer": modules.transformer,
        "connectors": modules.connectors,
        "text_encoder": lambda: modules.text_encoder(tokenizer.vocabulary_size()),
    }
    parts: dict[str, Any] = {}
    for name, make in makers.items():
        module = make()
        saved = run.joinpath(*_PLACES[name])
        parts[name] = type(module).from_pretrained(saved) if saved.exists() else module
    found = sources(run)
    if found.statistics.exists():
        vaes = normalising_vaes(found.video_vae, found.audio_vae, found.statistics)
        parts["vae"], parts["audio_vae"] = vaes
    return LTX2Pipeline(
        scheduler=modules.scheduler(),
        tokenizer=tokenizer.build(),
        vae=parts["vae"],
        audio_vae=parts["audio_vae"],
        text_encoder=parts["text_encoder"],
        connectors=parts["connectors"],
        transformer=parts["transformer"],
        vocoder=parts["vocoder"],
    )


def _narrow(name: str, value: torch.Tensor) -> torch.Tensor:
    """Returns `value` in bfloat16, except latent statistics and integers."""
    is_exact = "latents_" in name or not value.is_floating_point()
    return value if is_exact else value.bfloat16()
