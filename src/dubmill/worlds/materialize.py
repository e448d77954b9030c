"""Makes a sealed backbone: unpacks the embedded nano model, or fetches a published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dubmill.artifacts.files import digest_of, sha256_of
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Backbone
from dubmill.config.params import BackboneParams
from dubmill.errors import InvalidParamsError
from dubmill.model.geometry import check_weights, measure_geometry
from dubmill.model.load import PIPELINE
from dubmill.model.loras import DISTILLED_FOLDER, check_distilled_lora
from dubmill.worlds import hub

ABSENT = "none"


def materialize(params: BackboneParams, out: Path) -> Backbone:
    """Write the backbone's diffusers folder at `out` and seal it; a revision of the hub is resolved to its commit.

    Raises:
        ChangedArtifactError: a shipped nano weight file is not the one whose digest ships with it.
        UsageError: there is no such repository or revision, or no access to it.
        ServiceUnavailableError: the hub does not answer.
        InvalidArtifactError: the folder is not an LTX-2 pipeline.
        InvalidParamsError: there is no such distilled LoRA, or it is not in a safetensors file.
        BackboneMismatchError: the distilled LoRA belongs to another model.
    """
    source = _resolved(params)
    draft = Backbone.draft(out, Lineage.of("backbone", _lineage_params(source), licence=source.licence))
    if draft.is_sealed:
        return draft.seal()
    folder = draft.path / PIPELINE
    _write_pipeline(params, source, folder)
    check_weights(folder)
    check_distilled_lora(folder)
    geometry, mel = measure_geometry(folder)
    info = {
        "source": source.source,
        "repo": source.repo,
        "revision": source.revision,
        "geometry": geometry.to_dict(),
        "mel": mel.to_dict(),
        "text_encoder_digest": folder_digest(folder, "text_encoder", "tokenizer", "connectors"),
        "in_8_bits": in_8_bits(source),
    }
    return draft.seal(info)


def _resolved(params: BackboneParams) -> BackboneParams:
    """Returns the params with commits in place of branches and tags, local folders by name, and a local LoRA by name and digest.

    They enter the artifact's digest, which must be the same wherever and whenever one revision is fetched.
    """
    if params.source == "nano":
        return params.model_copy(update={"distilled_lora": ABSENT})
    repo, revision = _identity(params.repo, params.revision)
    upsampler, lora = params.upsampler, params.distilled_lora
    if upsampler != ABSENT:
        upsampler = "@".join(_identity(*_split(upsampler)))
    if Path(lora).is_file():
        lora = f"{Path(lora).name}@{sha256_of(Path(lora))}"
    elif lora != ABSENT:
        lora_repo, lora_revision, file = _split_lora(lora)
        lora = f"{lora_repo}@{hub.resolve_commit(lora_repo, lora_revision)}:{file}"
    update = {"repo": repo, "revision": revision, "upsampler": upsampler, "distilled_lora": lora}
    return params.model_copy(update=update)


def _identity(repo: str, revision: str) -> tuple[str, str]:
    if Path(repo).is_dir():
        return Path(repo).resolve().name, revision
    return repo, hub.resolve_commit(repo, revision)


def _split(upsampler: str) -> tuple[str, str]:
    """Returns `repo@revision` in its parts; without a revision it is main."""
    repo, _, revision = upsampler.partition("@")
    return repo, revision or "main"


def _split_lora(lora: str) -> tuple[str, str, str]:
    """Returns repository, revision and file of `repo@revision:file`.

    Raises:
        InvalidParamsError: it has another form, and no such file is on this machine.
    """
    repo, _, place = lora.partition("@")
    revision, _, file = place.partition(":")
    if not file:
        raise InvalidParamsError(
            f"no such file, and not of the form repo@revision:file: {lora}",
            where="backbone.distilled_lora",
            cure="name a safetensors file, or set none",
        )
    return repo, revision, file


def _lineage_params(source: BackboneParams) -> dict[str, Any]:
    """Returns the params for the lineage, without those that name nothing: backbones from before them keep their digest."""
    return source.model_dump(
        exclude={name for name in ("upsampler", "distilled_lora") if getattr(source, name) == ABSENT}
    )


def _write_pipeline(params: BackboneParams, source: BackboneParams, folder: Path) -> None:
    if params.source == "nano":
        from dubmill.nano import weights

        weights.unpack_weights(folder)
        return
    if params.distilled_lora != ABSENT:
        _write_lora(params.distilled_lora, source.distilled_lora, folder / DISTILLED_FOLDER)
    _fetch(params.repo, source.revision, folder, hub.PIPELINE_FILES)
    if params.upsampler != ABSENT:
        _fetch(_split(params.upsampler)[0], _split(source.upsampler)[1], folder, hub.UPSAMPLER_FILES)


def _write_lora(lora: str, resolved: str, folder: Path) -> None:
    path = Path(lora)
    if path.is_file():
        hub.copy_files(path.parent, folder, (path.name,))
    else:
        repo, commit, file = _split_lora(resolved)
        hub.download(repo, commit, folder, (file,))
    if not any(folder.rglob("*.safetensors")):
        raise InvalidParamsError(
            f"no safetensors file of this name was found: {lora}",
            where="backbone.distilled_lora",
            cure="check the file's name, or set none",
        )


def _fetch(repo: str, commit: str, folder: Path, patterns: tuple[str, ...]) -> None:
    if Path(repo).is_dir():
        hub.copy_files(Path(repo), folder, patterns)
    else:
        hub.download(repo, commit, folder, patterns)


def in_8_bits(params: BackboneParams) -> list[str]:
    """Returns the parts whose blocks get int8 weights wherever the backbone is loaded."""
    bits = {"transformer": params.transformer_bits, "text_encoder": params.text_encoder_bits}
    return [part for part in bits if bits[part] == 8]


def folder_digest(folder: Path, *parts: str) -> str:
    """Returns a digest of the names and bytes of all files in some parts of a pipeline folder."""
    files = sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    return digest_of({path.relative_to(folder).as_posix(): sha256_of(path) for path in files})
