"""LoRA on the transformer: add, read, write. Keys on disk are diffusers' (`transformer.` prefix), so that
`LTX2Pipeline.load_lora_weights` opens the file too.

A file's scale is always 1: alpha / rank is multiplied into B when it is written. Lightricks' pipelines know no alpha,
ComfyUI takes 1 where there is no `.alpha` tensor, and diffusers refuses a file that has one; so all of them agree.
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
from dubmill.artifacts.store import Adapter, Backbone, Lineage
from dubmill.config.params import TrainParams
from dubmill.errors import BadArtifact, BadParams, MismatchedBackbone
from dubmill.model.load import Modules

NAME = "dub"
WEIGHTS = "pytorch_lora_weights.safetensors"
METADATA = "dubmill"  # the one key of our own in a file's metadata: what a user of the LoRA must know, as JSON
POSITIONS, ATTENTIONS = ("shared", "negative"), ("full", "self")


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

    Patterns are anchored: `audio_attn` does not catch `video_to_audio_attn`; write `.*\\.audio_attn1\\..*`.

    Raises:
        BadParams: a pattern catches nothing, as one that was meant for a search does.
    """
    for pattern in params.learning_rate_groups:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise BadParams(
                f"train.learning_rate_groups: {pattern!r} is the whole name of no parameter",
                cure=f"names are like {names[0]}; write .* before and after the part you mean",
            )
    rates = {}
    for name in names:
        matches = (rate for pattern, rate in params.learning_rate_groups.items() if re.fullmatch(pattern, name))
        rates[name] = next(matches, params.learning_rate)
    return rates


def group_table(lora: Mapping[str, torch.Tensor], rates: Mapping[str, float]) -> str:
    """Which part of a block trains at which rate, a line each: what a pattern caught is to be seen, not believed."""
    sizes: dict[tuple[str, float], int] = {}
    for name, value in lora.items():
        part = name.split(".")[2] if name.startswith("transformer_blocks.") else name.split(".")[0]
        sizes[part, rates[name]] = sizes.get((part, rates[name]), 0) + value.numel()
    return "\n".join(f"{part:24s} {rate:8.2g} {size:14,d} parameters" for (part, rate), size in sorted(sizes.items()))


def to_bytes(transformer: Any, facts: Mapping[str, Any]) -> bytes:
    """The LoRA as a safetensors file in diffusers' naming, its scale multiplied into B; dtypes stay."""
    config = transformer.peft_config[NAME]
    scale = config.lora_alpha / config.r
    state = get_peft_model_state_dict(transformer, adapter_name=NAME)
    tensors = {name: value.detach().cpu() for name, value in state.items()}
    scaled = {name: _times(value, scale if ".lora_B." in name else 1.0) for name, value in tensors.items()}
    return file_bytes({DIFFUSERS_PREFIX + name: value for name, value in scaled.items()}, told(facts))


def _times(value: torch.Tensor, scale: float) -> torch.Tensor:
    return value if scale == 1 else (value.float() * scale).to(value.dtype)


def facts(lineage: Lineage, info: Mapping[str, Any]) -> dict[str, Any]:
    """What a user of the weights must know wherever they go: the adapter's info, and what it belongs to."""
    kept = ("backbone", "text_encoder", "licence", "pair_source", "consent")
    return {**info, **lineage.model_dump(include=set(kept))}


def told(facts: Mapping[str, Any]) -> dict[str, str]:
    """`facts` as the metadata of a file."""
    return {METADATA: json.dumps(dict(facts), sort_keys=True)}


def file_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; equal content gives equal bytes, which the library's own unordered metadata does not."""
    data = save({name: value.contiguous() for name, value in tensors.items()}, metadata=dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **_without_metadata(json.loads(data[8:end]))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to eight bytes
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[end:]])


def _without_metadata(header: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name != "__metadata__"}


def attach(modules: Modules, backbone: Backbone, adapter: Adapter, strength: float) -> dict[str, Any]:
    """How `adapter` was trained (`trained_as`), once it is loaded onto the modules' transformer, scaled by `strength`.

    Raises:
        MismatchedBackbone: it was trained on another backbone.
        BadArtifact: its keys are not exactly those of the layers it names, or it does not tell for sure at which
            reference positions it was trained.
    """
    if adapter.lineage.backbone != backbone.digest:
        raise MismatchedBackbone(
            f"the adapter was trained on backbone {adapter.lineage.backbone[:12]}, this one is {backbone.digest[:12]}",
            where=str(adapter.path),
            cure="use the backbone it was trained on, or train again",
        )
    trained = trained_as(adapter)
    info, transformer = adapter.info, modules.transformer
    add(transformer, rank=info["rank"], alpha=info["rank"], dropout=0.0, targets=info["targets"])
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
    for value in parameters(transformer).values():  # on layers in 8 bits PEFT leaves them in float32, slow on a GPU
        value.data = value.data.to(modules.dtype)
    transformer.set_adapters([NAME], weights=[strength])
    transformer.requires_grad_(False).eval()
    return trained


def trained_as(adapter: Adapter) -> dict[str, Any]:
    """How an adapter's references were read when it was trained: `reference`, `attention`, `isolate`.

    It has to be used the same way, or it dubs, but badly.

    Raises:
        BadArtifact: its weights and its manifest tell different things, or nothing that is known.
    """
    info = {"reference_attention": "full", **adapter.info}  # an adapter that does not tell is older than the choice
    trained = facts_in(adapter.path / WEIGHTS)
    for name, known in (("reference_positions", POSITIONS), ("reference_attention", ATTENTIONS)):
        said = info.get(name)
        if said not in known or trained.get(name, said) != said:
            raise BadArtifact(
                f"its weights were trained with {name} {trained.get(name)!r}, the manifest says {said!r}",
                where=str(adapter.path),
                cure=f"import or train it again, with one of {', '.join(known)}",
            )
    return {
        "reference": info["reference_positions"],
        "attention": info["reference_attention"],
        "isolate": info["isolate_modalities"],
    }


def read(path: Path) -> dict[str, torch.Tensor]:
    """The LoRA tensors of a file, without the prefix."""
    with safe_open(path, framework="pt") as file:
        return {name.removeprefix(DIFFUSERS_PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def facts_in(path: Path) -> dict[str, Any]:
    """What a file's metadata tells a user of the LoRA; nothing, where it was not written by dubmill.

    Raises:
        BadArtifact: that part of the metadata is not what dubmill writes.
    """
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA, "{}")
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise BadArtifact("its metadata `dubmill` cannot be read", where=str(path), cure="export or train it again")
    return info
