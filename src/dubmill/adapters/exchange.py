"""Export of a sealed adapter as a folder for other tools, and import of a LoRA file as a sealed adapter.

Other tools know a LoRA only by the names and shapes of its tensors. How a dubbing LoRA uses its reference (positions, attention,
isolation) is not in them: our exports put it in the metadata; for a file of another tool the user must give it. Nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from dubmill.adapters import lora
from dubmill.adapters.naming import DIFFUSERS_PREFIX, LIGHTRICKS_PREFIX, to_diffusers, to_lightricks
from dubmill.artifacts.files import sha256_of, write_atomically
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, Backbone, Report
from dubmill.errors import BackboneMismatchError, InvalidArtifactError, UsageError
from dubmill.model.load import skeleton
from dubmill.report import model_card

Tool = Literal["diffusers", "comfyui"]
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Metadata that ComfyUI's and Lightricks' loaders read: the size and rate of the reference clip against those of the target.
REFERENCE_SCALES = ("reference_downscale_factor", "reference_spatial_scale_factor", "reference_temporal_scale_factor")
A, B, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"


def export_adapter(adapter: Adapter, out: Path, *, tool: Tool, precision: str, report: Report | None) -> Path:
    """Writes a new folder `out` for `tool` (weights, model card, notice); returns the path of the weights.

    `diffusers` names the tensors as `LTX2Pipeline.load_lora_weights` does, `comfyui` as ComfyUI, Lightricks' trainer and
    pipelines do. Both have a scale of 1 and our facts in their metadata, so that `import_lora` reads them back.

    Raises:
        UsageError: `out` is not empty, or the report is about another adapter.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the folder is not empty", where=str(out), cure="name a new folder")
    if report and report.lineage.inputs.get("Adapter") != adapter.digest:
        raise UsageError(
            "this report is about another adapter", where=str(report.path), cure="evaluate this one, or give no report"
        )
    facts = {**lora.lora_facts(adapter.lineage, adapter.info), "adapter": adapter.digest}
    tensors = {
        name: value.to(PRECISIONS[precision]) for name, value in lora.read_lora(adapter.file(lora.WEIGHTS)).items()
    }
    metadata = lora.file_metadata(facts)
    if tool == "comfyui":
        tensors = {LIGHTRICKS_PREFIX + to_lightricks(name): value for name, value in tensors.items()}
        metadata |= dict.fromkeys(REFERENCE_SCALES, "1")
    else:
        tensors = {DIFFUSERS_PREFIX + name: value for name, value in tensors.items()}
    base = model_card.base_of(adapter.info, report)
    card = model_card.model_card(
        adapter.lineage, adapter.info, name=out.name, base=base, digest=adapter.digest, report=report
    )
    out.mkdir(parents=True, exist_ok=True)
    weights = out / (f"{out.name}.safetensors" if tool == "comfyui" else lora.WEIGHTS)
    write_atomically(weights, lora.file_bytes(tensors, metadata))
    write_atomically(out / model_card.CARD, card.encode())
    write_atomically(out / model_card.NOTICE, model_card.licence_notice(adapter.lineage, base).encode())
    return weights


@dataclass(frozen=True)
class AdapterHints:
    """How a LoRA file must be used, as given by the user; None where the file's metadata must say it."""

    reference_positions: str | None
    isolate_modalities: bool | None
    languages: list[str] | None


def import_lora(path: Path, backbone: Backbone, hints: AdapterHints, out: Path) -> Adapter:
    """Imports a LoRA file with diffusers' or Lightricks' names as a sealed adapter of `backbone` at `out`.

    Raises:
        InvalidArtifactError: it is no LoRA, one matrix of a pair is missing, or its keys or ranks cannot be held by an adapter.
        BackboneMismatchError: its layers or shapes are not this backbone's, or its metadata names another backbone.
        UsageError: how it must be used is neither in the file nor in `hints`, or the two differ.
    """
    tensors, metadata = _read(path)
    known = lora.facts_in_file(path)
    _check_same_backbone(path, known, metadata, backbone)
    pairs = _pairs(path, tensors, _alpha_of_all(path, metadata))
    rank = _rank(path, pairs)
    layers = {
        name: module for name, module in skeleton(backbone).named_modules() if isinstance(module, torch.nn.Linear)
    }
    _check_fit(path, pairs, layers)
    facts = {name: _known_or_given(path, name, known.get(name), given) for name, given in asdict(hints).items()}
    lineage = _lineage(path, known, facts, backbone)
    kept = {name: known[name] for name in ("num_pairs", "clip", "pair_source", "reference_attention") if name in known}
    targets = _targets(pairs, layers)
    info = {"base_model": backbone.info["repo"], "rank": rank, "targets": targets, **facts, **kept}
    draft = Adapter.draft(out, lineage)
    if draft.is_sealed:
        return draft.seal()
    named = {
        DIFFUSERS_PREFIX + name + end: value
        for name, pair in pairs.items()
        for end, value in zip((A, B), pair, strict=True)
    }
    draft.write(lora.WEIGHTS, lora.file_bytes(named, lora.file_metadata(lora.lora_facts(lineage, info))))
    base = model_card.base_of(info, None)
    card = model_card.model_card(lineage, info, name=path.stem, base=base, digest="", report=None)
    draft.write(model_card.CARD, card.encode())
    draft.write(model_card.NOTICE, model_card.licence_notice(lineage, base).encode())
    return draft.seal(info)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Returns the tensors by diffusers' names without prefix, and the file's metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {_diffusers_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InvalidArtifactError(
            "not a safetensors file", where=str(path), cure="give the LoRA's .safetensors file"
        ) from error


def _diffusers_name(key: str) -> str:
    """Returns diffusers' name of a key; a key with neither prefix is returned as it is and matches no layer later."""
    if key.startswith(LIGHTRICKS_PREFIX):
        return to_diffusers(key.removeprefix(LIGHTRICKS_PREFIX))
    return key.removeprefix(DIFFUSERS_PREFIX)


def _check_same_backbone(path: Path, known: Mapping[str, Any], metadata: Mapping[str, str], backbone: Backbone) -> None:
    for name, digest in (("backbone", backbone.digest), ("text_encoder", backbone.text_encoder_digest)):
        if known.get(name, digest) != digest:
            raise BackboneMismatchError(
                f"it belongs to {name.replace('_', ' ')} {known[name][:12]}, but this backbone has {digest[:12]}",
                where=str(path),
                cure="import it for the backbone it was trained on",
            )
    scaled = [f"{name} {metadata[name]}" for name in REFERENCE_SCALES if metadata.get(name, "1") not in ("1", "1.0")]
    if scaled:
        raise InvalidArtifactError(
            f"it needs a reference of another size ({', '.join(scaled)})",
            where=str(path),
            cure="use a LoRA whose reference has the size of the target clip",
        )


def _alpha_of_all(path: Path, metadata: Mapping[str, str]) -> float | None:
    """Returns the alpha in diffusers' and PEFT's metadata, valid for every layer; None (a scale of 1) where there is none."""
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    unsupported = ("alpha_pattern", "use_rslora", "use_dora")
    used = [name for name in unsupported if config.get(DIFFUSERS_PREFIX + name)]
    if used:
        raise InvalidArtifactError(
            f"its scaling is not supported ({', '.join(used)})",
            where=str(path),
            cure="merge the scale into lora_B, or train a plain LoRA",
        )
    return config.get(DIFFUSERS_PREFIX + "lora_alpha")


def _pairs(
    path: Path, tensors: Mapping[str, torch.Tensor], alpha: float | None
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Returns (A, B) of every layer; the layer's own alpha, or else the common one, is multiplied into B."""
    unknown = sorted(key for key, value in tensors.items() if not _is_lora_tensor(key, value))
    if unknown or not tensors:
        raise InvalidArtifactError(
            f"{len(unknown)} of its {len(tensors)} tensors do not belong to a LoRA, such as {unknown[:1]}",
            where=str(path),
            cure=f"give a file whose keys end in {A} and {B}",
        )
    names = sorted({key.removesuffix(end) for key in tensors for end in (A, B, ALPHA) if key.endswith(end)})
    halves = [name for name in names if name + A not in tensors or name + B not in tensors]
    if halves:
        raise InvalidArtifactError(
            f"{len(halves)} layers have only one of lora_A and lora_B, such as {halves[0]}",
            where=str(path),
            cure="download the file again, it is incomplete",
        )
    return {name: (tensors[name + A], _scaled(name, tensors, alpha)) for name in names}


def _is_lora_tensor(key: str, value: torch.Tensor) -> bool:
    return value.numel() == 1 if key.endswith(ALPHA) else value.ndim == 2 and key.endswith((A, B))


def _scaled(name: str, tensors: Mapping[str, torch.Tensor], alpha: float | None) -> torch.Tensor:
    up = tensors[name + B]
    own = tensors[name + ALPHA].item() if name + ALPHA in tensors else alpha
    return up if own is None else (up.float() * (own / up.shape[1])).to(up.dtype)


def _rank(path: Path, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> int:
    ranks = {size for down, up in pairs.values() for size in (down.shape[0], up.shape[-1])}
    if len(ranks) != 1:
        raise InvalidArtifactError(
            f"its layers have different ranks ({', '.join(map(str, sorted(ranks)))})",
            where=str(path),
            cure="give a file of one rank",
        )
    return ranks.pop()


def _check_fit(
    path: Path, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], layers: Mapping[str, torch.nn.Linear]
) -> None:
    """Compares names and shapes with the backbone's layers."""
    cure = "import it for the backbone it was trained on"
    unknown = [name for name in pairs if name not in layers]
    if unknown:
        what = f"{len(unknown)} of its {len(pairs)} layers are not in this backbone, such as {unknown[0]}"
        raise BackboneMismatchError(what, where=str(path), cure=cure)
    for name, (down, up) in pairs.items():
        in_file, expected = (down.shape[-1], up.shape[0]), (layers[name].in_features, layers[name].out_features)
        if in_file != expected:
            what = f"{name} has (inputs, outputs) {in_file} in the file and {expected} in this backbone"
            raise BackboneMismatchError(what, where=str(path), cure=cure)


def _known_or_given(path: Path, name: str, known: Any, given: Any) -> Any:
    """Returns the value from the file or from the user; one must give it, and they must not differ."""
    if known is None and given is None:
        option = name.replace("_", "-")
        raise UsageError(f"it does not say its {option}", where=str(path), cure=f"give it with --{option}")
    if known is not None and given is not None and known != given:
        raise UsageError(
            f"its {name.replace('_', ' ')}: the file says {known}, the option says {given}",
            where=str(path),
            cure="leave the option out, or give another file",
        )
    return given if known is None else known


def _lineage(path: Path, known: Mapping[str, Any], facts: Mapping[str, Any], backbone: Backbone) -> Lineage:
    return Lineage(
        step="import",
        params=dict(facts),
        inputs={"Backbone": backbone.digest, "file": sha256_of(path)},
        backbone=backbone.digest,
        text_encoder=backbone.text_encoder_digest,
        licence=known.get("licence") or backbone.lineage.licence,
        pair_source=known.get("pair_source", ""),
        consent=known.get("consent", ""),
    )


def _targets(pairs: Collection[str], layers: Collection[str]) -> list[str]:
    """Returns the shortest list of name endings that selects exactly these layers: names within a block, or full names."""
    names = set(pairs)
    short = {name.split(".", 2)[2] if name.startswith("transformer_blocks.") else name for name in names}
    ends = tuple("." + name for name in short)
    is_exact = names == {name for name in layers if name in short or name.endswith(ends)}
    return sorted(short if is_exact else names)
