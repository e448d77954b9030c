"""The manifest of a sealed artifact: its files with their digests, and its lineage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dubmill.artifacts.files import digest_of
from dubmill.errors import ChangedArtifactError, UnsealedArtifactError

if TYPE_CHECKING:
    from dubmill.artifacts.store import Artifact

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class Lineage(BaseModel):
    """The origin of an artifact: step, params and inputs, enough to make it again and to detect artifacts that do not belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    step: str
    params: dict[str, Any]
    inputs: dict[str, str] = {}  # kind of artifact -> digest
    backbone: str = ""  # digest of the backbone, where one took part
    text_encoder: str = ""
    licence: str = ""
    pair_source: str = ""  # self-made | world | footage, where pairs took part
    consent: str = ""  # what the people in it agreed to; empty: nobody real is in it

    @property
    def key(self) -> str:
        """Digest of the lineage: equal keys mean equal step, params and inputs."""
        return digest_of(self.model_dump())

    @classmethod
    def of(
        cls,
        step: str,
        params: BaseModel | dict[str, Any],
        *inputs: Artifact,
        licence: str = "",
        pair_source: str = "",
        consent: str = "",
    ) -> Lineage:
        """Returns the lineage of the artifact that `step` makes from `inputs`.

        The backbone and its text encoder are those of the inputs. Licences and consents of all inputs are carried on,
        beside those that the step itself adds; each is named once. `pair_source` is the inputs' unless given.
        """
        known = [artifact.lineage for artifact in inputs]
        return cls(
            step=step,
            params=params.model_dump() if isinstance(params, BaseModel) else params,
            inputs={artifact.kind: artifact.digest for artifact in inputs},
            backbone=_first(artifact.backbone_digest for artifact in inputs),
            text_encoder=_first(artifact.text_encoder_digest for artifact in inputs),
            licence=" AND ".join(_distinct(" AND ", [*(one.licence for one in known), licence])),
            pair_source=pair_source or _first(one.pair_source for one in known),
            consent="; ".join(_distinct("; ", [*(one.consent for one in known), consent])),
        )


def _first(values: Iterable[str]) -> str:
    return next(filter(None, values), "")


def _distinct(separator: str, values: list[str]) -> list[str]:
    """Returns the parts of all values, each once, in order."""
    return list(dict.fromkeys(part for value in values if value for part in value.split(separator)))


class Manifest(BaseModel):
    """The sealed description of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    schema_version: int
    files: dict[str, str]  # relative path -> sha256
    lineage: Lineage
    info: dict[str, Any]  # counts and settings that a reader needs
    digest: str = ""

    def with_digest(self) -> Manifest:
        """Returns the same manifest with its digest filled in."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(exclude={"digest"}))})


def read_manifest(path: Path) -> Manifest:
    """Returns the manifest of an artifact; its files are not compared with it yet.

    Raises:
        UnsealedArtifactError: there is none.
        ChangedArtifactError: it cannot be read.
    """
    if not (path / MANIFEST).is_file():
        state = "was never finished" if path.is_dir() else "is not there"
        raise UnsealedArtifactError(f"the artifact {state}", where=str(path), cure="run the step that makes it")
    try:
        return Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except ValidationError as error:
        raise ChangedArtifactError(
            "its manifest cannot be read", where=str(path), cure="make the artifact again"
        ) from error
