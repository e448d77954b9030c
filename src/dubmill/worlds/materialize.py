"""Makes a sealed backbone folder: the embedded nano model unpacked, or a published one fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

from dubmill.artifacts.files import digest_of, sha256_of
from dubmill.artifacts.store import Backbone, Lineage
from dubmill.config.params import BackboneParams
from dubmill.errors import ServiceUnavailableError
from dubmill.model.geometry import check_weights, measure
from dubmill.model.load import PIPELINE


def materialize(params: BackboneParams, out: Path) -> Backbone:
    """Write the backbone's diffusers folder at `out` and seal it.

    Raises:
        ChangedArtifactError: a shipped nano weight file is not the one whose digest ships with it.
        ServiceUnavailableError: the hub does not answer.
        InvalidArtifactError: the folder is not an LTX-2 pipeline.
    """
    draft = Backbone.draft(out, Lineage(step="backbone", params=params.model_dump(), licence=params.licence))
    if draft.is_sealed:
        return draft.seal()
    folder = draft.path / PIPELINE
    if params.source == "nano":
        from dubmill.nano import weights

        weights.materialize(folder)
    else:
        _fetch(params, folder)
    check_weights(folder)
    geometry, mel = measure(folder)
    info = {
        "source": params.source,
        "repo": params.repo,
        "revision": params.revision,
        "geometry": geometry.to_dict(),
        "mel": mel.to_dict(),
        "text_encoder_digest": folder_digest(folder, "text_encoder", "tokenizer", "connectors"),
        "in_8_bits": in_8_bits(params),
    }
    return draft.seal(info)


def in_8_bits(params: BackboneParams) -> list[str]:
    """The parts whose blocks' weights are to lie in 8 bits wherever the backbone is loaded."""
    bits = {"transformer": params.transformer_bits, "text_encoder": params.text_encoder_bits}
    return [part for part in bits if bits[part] == 8]


def _fetch(params: BackboneParams, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(params.repo).is_dir():
        shutil.copytree(params.repo, folder, dirs_exist_ok=True)
        return
    try:
        snapshot_download(params.repo, revision=params.revision, local_dir=folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ServiceUnavailableError(
            f"{params.repo}@{params.revision} could not be fetched ({type(error).__name__})",
            cure="check the network, the revision and HF_TOKEN, or use backbone.source: nano",
        ) from error


def folder_digest(folder: Path, *parts: str) -> str:
    files = sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    return digest_of({path.relative_to(folder).as_posix(): sha256_of(path) for path in files})
