"""LoRA on the transformer: add, read, write. Keys on disk are diffusers' (`transformer.` prefix), so that
`LTX2Pipeline.load_lora_weights` opens the file too."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save

from dubmill.artifacts import Adapter, Backbone
from dubmill.backbone import Modules
from dubmill.errors import BadArtifact, BadParams, MismatchedBackbone
from dubmill.params import TrainParams

NAME = "dub"
WEIGHTS = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."


def add(transformer: Any, *, rank: int, alpha: float, dropout: float, targets: list[str]) -> None:
    """Put fresh LoRA layers on every linear layer whose name ends in one of `targets`; only they train.

    Raises:
        BadParams: no layer has such a name.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, init_lora_weights=True)
    try:
        transformer.add_adapter(config, adapter_name=NAME)
    except ValueError as error:
        raise BadParams(
            f"no layer matches targets {targets}", cure="see the names of the transformer's layers"
        ) from error


def parameters(transformer: Any) -> dict[str, torch.nn.Parameter]:
    """The LoRA's trainable parameters by name, in a fixed order."""
    return {name: value for name, value in sorted(transformer.named_parameters()) if value.requires_grad}


def groups(names: list[str], params: TrainParams) -> dict[str, float]:
    """The learning rate of each parameter: the first pattern that matches its module's name whole wins.

    Patterns are anchored: `audio_attn` does not catch `video_to_audio_attn`; write `.*audio_attn1.*`.
    """
    rates = {}
    for name in names:
        matches = (rate for pattern, rate in params.learning_rate_groups.items() if re.fullmatch(pattern, name))
        rates[name] = next(matches, params.learning_rate)
    return rates


def to_bytes(transformer: Any, info: Mapping[str, str]) -> bytes:
    """The LoRA as a safetensors file in diffusers' naming."""
    state = get_peft_model_state_dict(transformer, adapter_name=NAME)
    tensors = {PREFIX + name: value.detach().cpu().float().contiguous() for name, value in state.items()}
    return save(
        tensors, metadata={"dubmill": json.dumps(dict(info), sort_keys=True)}
    )  # one key: the format keeps no order


def attach(modules: Modules, backbone: Backbone, adapter: Adapter, strength: float) -> None:
    """Load `adapter` onto the modules' transformer, scaled by `strength`.

    Raises:
        MismatchedBackbone: it was trained on another backbone.
        BadArtifact: its keys are not exactly those of the layers it names.
    """
    if adapter.lineage.backbone != backbone.digest:
        raise MismatchedBackbone(
            f"the adapter was trained on backbone {adapter.lineage.backbone[:12]}, this one is {backbone.digest[:12]}",
            where=str(adapter.path),
            cure="use the backbone it was trained on, or train again",
        )
    info, transformer = adapter.info, modules.transformer
    add(transformer, rank=info["rank"], alpha=info["alpha"], dropout=0.0, targets=info["targets"])
    expected = set(get_peft_model_state_dict(transformer, adapter_name=NAME))
    tensors = read(adapter.path / WEIGHTS)
    if set(tensors) != expected:
        missing, unknown = expected - set(tensors), set(tensors) - expected
        raise BadArtifact(
            f"{len(missing)} LoRA tensors are missing and {len(unknown)} unknown",
            where=str(adapter.path),
            cure="train again",
        )
    set_peft_model_state_dict(transformer, tensors, adapter_name=NAME)
    transformer.set_adapters([NAME], weights=[strength])
    transformer.requires_grad_(False).eval()


def read(path: Path) -> dict[str, torch.Tensor]:
    """The LoRA tensors of a file, without the prefix."""
    with safe_open(path, framework="pt") as file:
        return {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
