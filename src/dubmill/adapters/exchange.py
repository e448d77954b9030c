"""A sealed adapter as a folder that other tools open, and their file as a sealed adapter.

Other tools know a LoRA by the names and shapes of its tensors alone. What makes it a dubbing LoRA (where the reference
stands in time, what is hidden from what) is not in them: our exports tell it in their metadata, a file of somebody else
must be told it, and nothing is guessed.
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
from dubmill.artifacts.store import Adapter, Backbone, Lineage, Report
from dubmill.errors import BadArtifact, MismatchedBackbone, UsageError
from dubmill.model.load import skeleton
from dubmill.report import model_card

Tool = Literal["diffusers", "comfyui"]
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
# What ComfyUI's and Lightricks' loaders read: our reference clip has the size and the rate of the target.
SAME_SIZE = ("reference_downscale_factor", "reference_spatial_scale_factor", "reference_temporal_scale_factor")
A, B, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"


def export(adapter: Adapter, out: Path, *, tool: Tool, precision: str, report: Report | None) -> Path:
    """The weights file of a new folder `out` for `tool`, with its card and notice beside it.

    `diffusers` names the tensors as `LTX2Pipeline.load_lora_weights` does, `comfyui` as ComfyUI, Lightricks' trainer and
    pipelines do. Both hold a scale of 1 and our own facts in their metadata, so that `import_file` reads them back.

    Raises:
        UsageError: `out` holds something already, or the report is about another adapter.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("there is something already", where=str(out), cure="name a new folder")
    if report and report.lineage.inputs.get("Adapter") != adapter.digest:
        raise UsageError(
            "this report is about another adapter", where=str(report.path), cure="evaluate this one, or give no report"
        )
    facts = {**lora.facts(adapter.lineage, adapter.info), "adapter": adapter.digest}
    tensors = {name: value.to(PRECISIONS[precision]) for name, value in lora.read(adapter.path / lora.WEIGHTS).items()}
    metadata = lora.told(facts)
    if tool == "comfyui":
        tensors = {LIGHTRICKS_PREFIX + to_lightricks(name): value for name, value in tensors.items()}
        metadata |= dict.fromkeys(SAME_SIZE, "1")
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
class Told:
    """What the user says of a file; None where the user says nothing, and the file itself must tell."""

    reference_positions: str | None
    isolate_modalities: bool | None
    languages: list[str] | None


def import_file(path: Path, backbone: Backbone, said: Told, out: Path) -> Adapter:
    """A LoRA file in diffusers' or Lightricks' naming as a sealed adapter of `backbone` at `out`.

    Raises:
        BadArtifact: it is no LoRA, half a pair is missing, or keys or ranks are not what an adapter can hold.
        MismatchedBackbone: layers or shapes are not this backbone's, or it says that it belongs to another.
        UsageError: what it must be used with is neither in the file nor given, or both and different.
    """
    tensors, metadata = _read(path)
    known = lora.facts_in(path)
    _check_kin(path, known, metadata, backbone)
    pairs = _pairs(path, tensors, _alpha_of_all(path, metadata))
    rank = _rank(path, pairs)
    layers = {
        name: module for name, module in skeleton(backbone).named_modules() if isinstance(module, torch.nn.Linear)
    }
    _check_fit(path, pairs, layers)
    facts = {name: _fact(path, name, known.get(name), given) for name, given in asdict(said).items()}
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
    draft.write(lora.WEIGHTS, lora.file_bytes(named, lora.told(lora.facts(lineage, info))))
    base = model_card.base_of(info, None)
    card = model_card.model_card(lineage, info, name=path.stem, base=base, digest="", report=None)
    draft.write(model_card.CARD, card.encode())
    draft.write(model_card.NOTICE, model_card.licence_notice(lineage, base).encode())
    return draft.seal(info)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by diffusers' names without prefix, and the file's metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {_plain(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BadArtifact(
            "not a safetensors file", where=str(path), cure="give the LoRA's .safetensors file"
        ) from error


def _plain(key: str) -> str:
    """A key's name in diffusers; one with neither prefix keeps its whole name, and no layer will have it."""
    if key.startswith(LIGHTRICKS_PREFIX):
        return to_diffusers(key.removeprefix(LIGHTRICKS_PREFIX))
    return key.removeprefix(DIFFUSERS_PREFIX)


def _check_kin(path: Path, known: Mapping[str, Any], metadata: Mapping[str, str], backbone: Backbone) -> None:
    for name, digest in (("backbone", backbone.digest), ("text_encoder", backbone.text_encoder_digest)):
        if known.get(name, digest) != digest:
            raise MismatchedBackbone(
                f"it belongs to {name.replace('_', ' ')} {known[name][:12]}, this one is {digest[:12]}",
                where=str(path),
                cure="import it for the backbone it was trained on",
            )
    scaled = [f"{name} {metadata[name]}" for name in SAME_SIZE if metadata.get(name, "1") not in ("1", "1.0")]
    if scaled:
        raise BadArtifact(
            f"it wants a reference of another size ({', '.join(scaled)})",
            where=str(path),
            cure="use a LoRA whose reference has the size of the target",
        )


def _alpha_of_all(path: Path, metadata: Mapping[str, str]) -> float | None:
    """The alpha that diffusers' and PEFT's own metadata gives for every layer; None where there is none: a scale of 1."""
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    odd = ("alpha_pattern", "use_rslora", "use_dora")
    used = [name for name in odd if config.get(DIFFUSERS_PREFIX + name)]
    if used:
        raise BadArtifact(
            f"its scale is of a kind that an adapter cannot hold ({', '.join(used)})",
            where=str(path),
            cure="merge the scale into lora_B, or train a plain LoRA",
        )
    return config.get(DIFFUSERS_PREFIX + "lora_alpha")


def _pairs(
    path: Path, tensors: Mapping[str, torch.Tensor], alpha: float | None
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(A, B) of every layer, its own alpha or that of all multiplied into B."""
    strange = sorted(key for key, value in tensors.items() if not _is_loras(key, value))
    if strange or not tensors:
        raise BadArtifact(
            f"{len(strange)} of its {len(tensors)} tensors are no LoRA's, such as {strange[:1]}",
            where=str(path),
            cure=f"give a file whose keys end in {A} and {B}",
        )
    names = sorted({key.removesuffix(end) for key in tensors for end in (A, B, ALPHA) if key.endswith(end)})
    halves = [name for name in names if name + A not in tensors or name + B not in tensors]
    if halves:
        raise BadArtifact(
            f"{len(halves)} layers have only one half of their pair, such as {halves[0]}",
            where=str(path),
            cure="get the file again, it is not whole",
        )
    return {name: (tensors[name + A], _scaled(name, tensors, alpha)) for name in names}


def _is_loras(key: str, value: torch.Tensor) -> bool:
    return value.numel() == 1 if key.endswith(ALPHA) else value.ndim == 2 and key.endswith((A, B))


def _scaled(name: str, tensors: Mapping[str, torch.Tensor], alpha: float | None) -> torch.Tensor:
    up = tensors[name + B]
    own = tensors[name + ALPHA].item() if name + ALPHA in tensors else alpha
    return up if own is None else (up.float() * (own / up.shape[1])).to(up.dtype)


def _rank(path: Path, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> int:
    ranks = {size for down, up in pairs.values() for size in (down.shape[0], up.shape[-1])}
    if len(ranks) != 1:
        raise BadArtifact(
            f"its layers have several ranks ({', '.join(map(str, sorted(ranks)))})",
            where=str(path),
            cure="give a file of one rank",
        )
    return ranks.pop()


def _check_fit(
    path: Path, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], layers: Mapping[str, torch.nn.Linear]
) -> None:
    """Hold names and shapes against the backbone's layers."""
    cure = "import it for the backbone it was trained on"
    unknown = [name for name in pairs if name not in layers]
    if unknown:
        what = f"{len(unknown)} of its {len(pairs)} layers are not in this backbone, such as {unknown[0]}"
        raise MismatchedBackbone(what, where=str(path), cure=cure)
    for name, (down, up) in pairs.items():
        theirs, ours = (down.shape[-1], up.shape[0]), (layers[name].in_features, layers[name].out_features)
        if theirs != ours:
            what = f"{name} takes and gives {theirs} numbers in the file, {ours} in this backbone"
            raise MismatchedBackbone(what, where=str(path), cure=cure)


def _fact(path: Path, name: str, known: Any, given: Any) -> Any:
    """What the file or the user tells; they must not differ, and one must tell it."""
    if known is None and given is None:
        option = name.replace("_", "-")
        raise UsageError(f"it does not tell its {option}", where=str(path), cure=f"say it with --{option}")
    if known is not None and given is not None and known != given:
        raise UsageError(
            f"its {name.replace('_', ' ')}: the file says {known}, you say {given}",
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
    """The shortest list of name endings that means exactly these layers: their names in a block, or else in full."""
    names = set(pairs)
    short = {name.split(".", 2)[2] if name.startswith("transformer_blocks.") else name for name in names}
    ends = tuple("." + one for one in short)
    is_exact = names == {name for name in layers if name in short or name.endswith(ends)}
    return sorted(short if is_exact else names)
