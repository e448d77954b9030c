"""LoRAs that are active while a transformer samples, and the distilled LoRA of a backbone, which samples in few steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from dubmill.errors import BackboneMismatchError, InvalidArtifactError
from dubmill.model.geometry import on_meta
from dubmill.model.load import PIPELINE, load

if TYPE_CHECKING:
    import torch
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel

    from dubmill.model.load import Modules, StoredBackbone

logger = logging.getLogger(__name__)

DISTILLED = "distilled"  # its name on the transformer, and the value of `sampling.lora`
DISTILLED_FOLDER = "distilled_lora"  # in the backbone's pipeline folder; it has one safetensors file


def activate_loras(transformer: LTX2VideoTransformer3DModel, weights: Mapping[str, float]) -> None:
    """Makes exactly these LoRAs of the transformer active, by name with their weights; there may be none."""
    if not getattr(transformer, "peft_config", None):
        return
    if not weights:
        transformer.disable_adapters()
        return
    transformer.enable_adapters()
    transformer.set_adapters(list(weights), weights=list(weights.values()))


def sampling_lora_weights(lora: str) -> dict[str, float]:
    """Returns names and weights of the LoRAs that `sampling.lora` asks for: the distilled one, or {}."""
    return {DISTILLED: 1.0} if lora == DISTILLED else {}


def load_for_sampling(backbone: StoredBackbone, *loras: str) -> Modules:
    """Returns the loaded backbone with the LoRAs that any of these `sampling.lora` ask for; none is active yet.

    Raises:
        InvalidArtifactError: see `load` and `add_sampling_lora`.
    """
    modules = load(backbone)
    for lora in loras:
        add_sampling_lora(modules, backbone, lora)
    return modules


def add_sampling_lora(modules: Modules, backbone: StoredBackbone, lora: str) -> dict[str, float]:
    """Puts the LoRA that `sampling.lora` asks for on the transformer, inactive; returns its name and weight, {} for none.

    Raises:
        InvalidArtifactError: the backbone has no distilled LoRA.
    """
    from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline

    transformer, weights = modules.transformer, sampling_lora_weights(lora)
    if weights and DISTILLED not in getattr(transformer, "peft_config", {}):
        path = _lora_file(backbone.path / PIPELINE)
        if path is None:
            raise InvalidArtifactError(
                "the backbone has no distilled LoRA, which `lora: distilled` needs",
                where=str(backbone.path),
                cure="name one in backbone.distilled_lora and make the backbone again, or set `lora: none`",
            )
        backbone.folder(PIPELINE, DISTILLED_FOLDER)  # its bytes are the ones that were sealed
        LTX2Pipeline.load_lora_into_transformer(_tensors(path), transformer, adapter_name=DISTILLED)
        for name, value in transformer.named_parameters():
            if f".{DISTILLED}." in name:
                value.data = value.data.to(modules.dtype)
                value.requires_grad_(False)
        activate_loras(transformer, {})
    return weights


def check_distilled_lora(folder: Path) -> None:
    """Compares the distilled LoRA of a diffusers folder, if there is one, with the layers of its transformer.

    Raises:
        InvalidArtifactError: the file cannot be read.
        BackboneMismatchError: a layer is not in the transformer, or has other inputs or outputs, or there is none.
    """
    path = _lora_file(folder)
    if path is None:
        return
    sizes = {
        name: (module.in_features, module.out_features)
        for name, module in on_meta(folder, "transformer").named_modules()
        if hasattr(module, "in_features")
    }
    tensors = _tensors(path)
    wrong = [name for name, value in tensors.items() if not _fits(name.removeprefix("transformer."), value, sizes)]
    if wrong or not tensors:
        raise BackboneMismatchError(
            f"{len(wrong)} of the {len(tensors)} tensors of the distilled LoRA do not fit the transformer"
            + (f", such as {wrong[0]}" if wrong else ""),
            where=path.name,
            cure="name the LoRA that was distilled from this model in backbone.distilled_lora",
        )


def _lora_file(folder: Path) -> Path | None:
    """Returns the file of the distilled LoRA in a diffusers folder, `None` if it has none."""
    return next((folder / DISTILLED_FOLDER).rglob("*.safetensors"), None)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Returns the LoRA tensors of a file by diffusers' names, whichever names it has; only those of the transformer.

    Raises:
        InvalidArtifactError: it is no LoRA in a safetensors file.
    """
    from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline

    try:
        tensors: Any = LTX2Pipeline.lora_state_dict(str(path), use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidArtifactError(
            f"the distilled LoRA cannot be read ({(str(error).splitlines() or [''])[0]})",
            where=path.name,
            cure="name a LoRA's safetensors file in backbone.distilled_lora",
        ) from error
    used = {name: value for name, value in tensors.items() if name.startswith("transformer.")}
    if len(used) < len(tensors):
        logger.warning("%d tensors of %s are of other parts and are not used", len(tensors) - len(used), path.name)
    return used


def _fits(name: str, value: torch.Tensor, sizes: Mapping[str, tuple[int, int]]) -> bool:
    layer, _, matrix = name.partition(".lora_")
    inputs, outputs = sizes.get(layer, (0, 0))
    return value.shape[-1] == inputs if matrix == "A.weight" else value.shape[0] == outputs
