"""LoRA on the transformer: add, save, load and attach.

Keys on disk are those of diffusers (prefix `transformer.`), so `LTX2Pipeline.load_lora_weights` opens the file too. The scale
of a file is always 1, because alpha / rank is multiplied into B when the file is written: Lightricks' pipelines know no alpha,
ComfyUI takes 1 where there is no `.alpha` tensor, and diffusers refuses a file that has one.
"""

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

from dubmill.adapters.naming import DIFFUSERS_PREFIX
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, Backbone
from dubmill.config.training import TrainParams
from dubmill.errors import BackboneMismatchError, InvalidArtifactError, InvalidParamsError
from dubmill.model.conditioning import ReferenceMode
from dubmill.model.load import Modules

ADAPTER_NAME = "dub"
WEIGHTS = "pytorch_lora_weights.safetensors"
METADATA_KEY = "dubmill"  # our key in a file's metadata: what a user of the LoRA must know, as JSON
REFERENCE_POSITIONS, REFERENCE_ATTENTIONS = ("shared", "negative"), ("full", "self")


def add_lora(
    transformer: Any, *, rank: int, alpha: float, dropout: float, targets: list[str], name: str = ADAPTER_NAME
) -> None:
    """Adds new LoRA layers to every linear layer whose name ends in one of `targets`; only they train.

    Raises:
        InvalidParamsError: no layer has such a name.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] (PEFT declares int, but computes with floats)
        lora_dropout=dropout,
        target_modules=targets,
        init_lora_weights=True,
    )
    try:
        transformer.add_adapter(config, adapter_name=name)
    except ValueError as error:
        raise InvalidParamsError(
            f"no layer matches targets {targets}", cure="see the names of the transformer's layers"
        ) from error


def lora_parameters(transformer: Any) -> dict[str, torch.nn.Parameter]:
    """Returns the trainable parameters by name, sorted by name."""
    return {name: value for name, value in sorted(transformer.named_parameters()) if value.requires_grad}


def learning_rates(names: list[str], params: TrainParams) -> dict[str, float]:
    """Returns the learning rate of each parameter: that of the first pattern that matches its whole name.

    Patterns are anchored: `audio_attn` does not match `video_to_audio_attn`; write `.*\\.audio_attn1\\..*`.

    Raises:
        InvalidParamsError: a pattern matches no parameter, as one written for an unanchored search does.
    """
    for pattern in params.learning_rate_groups:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise InvalidParamsError(
                f"train.learning_rate_groups: {pattern!r} matches the whole name of no parameter",
                cure=f"names look like {names[0]}; write .* before and after the part you mean",
            )
    rates = {}
    for name in names:
        matches = (rate for pattern, rate in params.learning_rate_groups.items() if re.fullmatch(pattern, name))
        rates[name] = next(matches, params.learning_rate)
    return rates


def learning_rate_table(lora: Mapping[str, torch.Tensor], rates: Mapping[str, float]) -> str:
    """Returns one line per part of a block and learning rate, with the number of parameters that train at it."""
    sizes: dict[tuple[str, float], int] = {}
    for name, value in lora.items():
        part = name.split(".")[2] if name.startswith("transformer_blocks.") else name.split(".")[0]
        sizes[part, rates[name]] = sizes.get((part, rates[name]), 0) + value.numel()
    return "\n".join(f"{part:24s} {rate:8.2g} {size:14,d} parameters" for (part, rate), size in sorted(sizes.items()))


def lora_bytes(transformer: Any, facts: Mapping[str, Any]) -> bytes:
    """Returns the LoRA as a safetensors file with diffusers' names and the scale multiplied into B; dtypes are kept."""
    config = transformer.peft_config[ADAPTER_NAME]
    scale = config.lora_alpha / config.r
    state = get_peft_model_state_dict(transformer, adapter_name=ADAPTER_NAME)
    tensors = {name: value.detach().cpu() for name, value in state.items()}
    scaled = {name: _times(value, scale if ".lora_B." in name else 1.0) for name, value in tensors.items()}
    return file_bytes({DIFFUSERS_PREFIX + name: value for name, value in scaled.items()}, file_metadata(facts))


def _times(value: torch.Tensor, scale: float) -> torch.Tensor:
    return value if scale == 1 else (value.float() * scale).to(value.dtype)


def lora_facts(lineage: Lineage, info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what must travel with the weights: the adapter's info, its backbone's digests, licence and consent."""
    kept = ("backbone", "text_encoder", "licence", "pair_source", "consent")
    return {**info, **lineage.model_dump(include=set(kept))}


def file_metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns `facts` as the metadata of a safetensors file: one key, whose value is JSON."""
    return {METADATA_KEY: json.dumps(dict(facts), sort_keys=True)}


def file_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Returns a safetensors file; equal content gives equal bytes, since the metadata is sorted (the library's is not)."""
    data = save({name: value.contiguous() for name, value in tensors.items()}, metadata=dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **_without_metadata(json.loads(data[8:end]))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to eight bytes
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[end:]])


def _without_metadata(header: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name != "__metadata__"}


def attach_adapter(
    modules: Modules, backbone: Backbone, adapter: Adapter, strength: float, *, name: str = ADAPTER_NAME
) -> ReferenceMode:
    """Loads `adapter` onto the transformer of `modules`, scaled by `strength`; returns how its references are used.

    `name` tells it from other adapters on the same transformer.

    Raises:
        BackboneMismatchError: it was trained on another backbone.
        InvalidArtifactError: its tensors are not exactly those of the layers it names, or see `reference_mode_of`.
    """
    if adapter.lineage.backbone != backbone.digest:
        raise BackboneMismatchError(
            f"the adapter was trained on backbone {adapter.lineage.backbone[:12]}, this one is {backbone.digest[:12]}",
            where=str(adapter.path),
            cure="use the backbone it was trained on, or train again",
        )
    mode, info, transformer = reference_mode_of(adapter), adapter.info, modules.transformer
    add_lora(transformer, rank=info["rank"], alpha=info["rank"], dropout=0.0, targets=info["targets"], name=name)
    try:
        _load_tensors(transformer, adapter.file(WEIGHTS), name)
    except InvalidArtifactError:
        transformer.delete_adapters(name)
        raise
    for value in lora_parameters(transformer).values():  # PEFT keeps them in float32 on int8 layers, slow on a GPU
        value.data = value.data.to(modules.dtype)
    transformer.set_adapters([name], weights=[strength])
    transformer.requires_grad_(False).eval()
    return mode


def _load_tensors(transformer: Any, path: Path, name: str) -> None:
    layers = get_peft_model_state_dict(transformer, adapter_name=name)
    tensors = read_lora(path)
    missing, unknown = set(layers) - set(tensors), set(tensors) - set(layers)
    num_other = sum(tensors[key].shape != value.shape for key, value in layers.items() if key in tensors)
    if missing or unknown or num_other:
        raise InvalidArtifactError(
            f"{len(missing)} LoRA tensors are missing, {len(unknown)} are unknown and {num_other} have another shape",
            where=str(path.parent),
            cure="train again",
        )
    set_peft_model_state_dict(transformer, tensors, adapter_name=name)


def reference_mode_of(adapter: Adapter) -> ReferenceMode:
    """Returns how an adapter's references were used in training; used otherwise it dubs, but badly.

    Raises:
        InvalidArtifactError: its weights and its manifest differ about it, or hold an unknown value.
    """
    info = {
        "reference_attention": "full",
        **adapter.info,
    }  # adapters older than this choice were all trained with `full`
    in_file = facts_in_file(adapter.file(WEIGHTS))
    for name, known in (
        ("reference_positions", REFERENCE_POSITIONS),
        ("reference_attention", REFERENCE_ATTENTIONS),
    ):
        value = info.get(name)
        if value not in known or in_file.get(name, value) != value:
            raise InvalidArtifactError(
                f"its weights were trained with {name} {in_file.get(name)!r}, the manifest says {value!r}",
                where=str(adapter.path),
                cure=f"import or train it again, with one of {', '.join(known)}",
            )
    return ReferenceMode(info["reference_positions"], info["reference_attention"], info["isolate_modalities"])


def read_lora(path: Path) -> dict[str, torch.Tensor]:
    """Returns the LoRA tensors of a file by name, without the prefix."""
    with safe_open(path, framework="pt") as file:
        return {name.removeprefix(DIFFUSERS_PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def facts_in_file(path: Path) -> dict[str, Any]:
    """Returns what dubmill wrote into the metadata of a LoRA file; empty for a file of another tool.

    Raises:
        InvalidArtifactError: that part of the metadata cannot be read.
    """
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY, "{}")
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise InvalidArtifactError(
            "its metadata `dubmill` cannot be read", where=str(path), cure="export or train it again"
        )
    return info
