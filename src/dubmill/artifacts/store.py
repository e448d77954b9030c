"""Directories that know their type: sealed last, checked when they are read, resumable while unsealed.

    draft = PairSet.draft(out, lineage)      # what an interrupted run with the same lineage left is kept
    draft.add_shard(0, rows, files)          # a shard is there whole, or not at all
    pairs = draft.seal()                     # writes manifest.json last: its existence means complete
    pairs = PairSet.open(out)                # kind, schema and manifest are checked; each file when it is first read

Several tasks may fill one draft, each its own shards; whoever comes after them seals it.

A digest is the sha256 of the manifest's canonical JSON without the digest itself, so equal content and equal lineage
give equal digests on any machine; no clock enters it. A process hashes a file once, and only if it reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import pyarrow.parquet as pq

from dubmill.artifacts.draft import Draft
from dubmill.artifacts.files import ROWS_FILE, sha256_of, tar_index
from dubmill.artifacts.manifest import MANIFEST, SCHEMA_VERSION, Lineage, Manifest
from dubmill.artifacts.references import resolve_reference
from dubmill.artifacts.rows import ClipRow, DubRow, PairRow, Prompt, Row
from dubmill.errors import ChangedArtifactError, InvalidArtifactError
from dubmill.media.clips import Clip

REMAKE = "make the artifact again or pull it"


class Artifact:
    """A sealed directory; subclasses name their kind and say what is inside."""

    kind: ClassVar[str]

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def draft(cls, out: Path, lineage: Lineage, *, is_shared: bool = False) -> Draft[Self]:
        """Returns a directory to fill at `out`; what an interrupted run of the same lineage left there is kept.

        Raises:
            UsageError: it holds what is no artifact, or, where other tasks fill it too (`is_shared`), other work.
        """
        draft = Draft(cls, Path(out), lineage)
        draft.begin(is_shared=is_shared)
        return draft

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Returns the artifact at `path`, or the one that a reference there names: its kind, schema and manifest are checked now, the bytes of a file when it is read.

        Raises:
            UnsealedArtifactError: it was never finished.
            InvalidArtifactError: it is something else.
            ChangedArtifactError: the manifest was edited, or a file is gone.
        """
        path, manifest = resolve_reference(Path(path))
        if manifest.kind != cls.kind:
            raise InvalidArtifactError(
                f"this is a {manifest.kind}, not a {cls.kind}", where=str(path), cure="give the right directory"
            )
        if manifest.schema_version != SCHEMA_VERSION:
            raise InvalidArtifactError(
                f"schema version {manifest.schema_version}, this dubmill reads {SCHEMA_VERSION}",
                where=str(path),
                cure="make it again",
            )
        if manifest.with_digest().digest != manifest.digest:
            raise ChangedArtifactError("the manifest was edited", where=str(path), cure=REMAKE)
        for name in manifest.files:
            if not (path / name).is_file():
                raise ChangedArtifactError(f"{name} is gone since it was sealed", where=str(path), cure=REMAKE)
        return cls(path, manifest)

    @property
    def digest(self) -> str:
        """The identity of content and lineage."""
        return self.manifest.digest

    @property
    def lineage(self) -> Lineage:
        """Where it comes from."""
        return self.manifest.lineage

    @property
    def info(self) -> dict[str, Any]:
        """Counts and settings sealed with it."""
        return self.manifest.info

    @property
    def backbone_digest(self) -> str:
        """Digest of the backbone that it was made with; empty where none took part."""
        return self.lineage.backbone

    @property
    def text_encoder_digest(self) -> str:
        """Identity of the text encoder that it was made with; empty where none took part."""
        return self.lineage.text_encoder

    def has_file(self, name: str) -> bool:
        """Returns whether a file was sealed with it; `name` is relative, with slashes."""
        return name in self.manifest.files

    def file(self, name: str) -> Path:
        """Returns the path of one of its files, whose bytes are those that were sealed.

        Raises:
            InvalidArtifactError: it has no such file.
            ChangedArtifactError: the file has changed, or is gone.
        """
        if name == MANIFEST:  # checked when the artifact was opened
            return self.path / name
        if name not in self.manifest.files:
            raise InvalidArtifactError(f"it has no {name}", where=str(self.path), cure="see `dubmill look`")
        path = self.path / name
        if not path.is_file() or sha256_of(path) != self.manifest.files[name]:
            trouble = "has changed" if path.is_file() else "is gone"
            raise ChangedArtifactError(f"{name} {trouble} since it was sealed", where=str(self.path), cure=REMAKE)
        return path

    def folder(self, name: str, *parts: str) -> Path:
        """Returns the path of one of its folders, with the files in the sub-folders `parts` and at its top checked.

        Without `parts` all files in it are checked.

        Raises:
            ChangedArtifactError: a file has changed, or is gone.
        """
        inside = [member.removeprefix(f"{name}/") for member in self.manifest.files if member.startswith(f"{name}/")]
        for member in inside:
            if not parts or "/" not in member or member.split("/")[0] in parts:
                self.file(f"{name}/{member}")
        return self.path / name

    def verify(self) -> None:
        """Check the bytes of every file.

        Raises:
            ChangedArtifactError: a file has changed, or is gone.
        """
        for name in self.manifest.files:
            self.file(name)


RowKind = TypeVar("RowKind", bound=Row)


class RowSet(Artifact, Generic[RowKind]):
    """Rows in a Parquet table, with their clips in tar shards: `<row id>/<name>.clip` is lossless, `.mp4` is for players."""

    row_type: ClassVar[type[Row]]

    @cached_property
    def _table(self) -> list[dict[str, Any]]:
        return pq.read_table(self.file(ROWS_FILE)).to_pylist() if self.has_file(ROWS_FILE) else []

    @cached_property
    def rows(self) -> list[RowKind]:
        """All rows, in the order they were written."""
        stripped = ({name: value for name, value in row.items() if name != "shard"} for row in self._table)
        return cast("list[RowKind]", [self.row_type.model_validate(row) for row in stripped])

    @cached_property
    def _shard_of(self) -> dict[str, str]:
        return {row["id"]: row["shard"] for row in self._table}

    @cached_property
    def _indices(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Offset and size of the members of each archive that was read."""
        return {}

    def data(self, row_id: str, name: str) -> bytes:
        """Returns the bytes of member `<row id>/<name>`.

        Raises:
            InvalidArtifactError: there is no such row or member.
            ChangedArtifactError: its shard has changed.
        """
        try:
            archive = self.file(f"{self._shard_of[row_id]}.tar")
            if archive.name not in self._indices:
                self._indices[archive.name] = tar_index(archive)
            offset, size = self._indices[archive.name][f"{row_id}/{name}"]
        except KeyError as error:
            raise InvalidArtifactError(
                f"no {name} of {row_id!r}", where=str(self.path), cure="see `dubmill look`"
            ) from error
        with archive.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def clip(self, row_id: str, name: str) -> Clip:
        """Returns the lossless clip `<name>` of a row."""
        return Clip.from_bytes(self.data(row_id, f"{name}.clip"))

    def mp4(self, row_id: str, name: str) -> bytes:
        """Returns the MP4 of clip `<name>` of a row, for players."""
        return self.data(row_id, f"{name}.mp4")

    def split(self, name: str) -> list[RowKind]:
        """Returns the rows of one split, train or heldout."""
        return [row for row in self.rows if getattr(row, "split", name) == name]

    def batches(self, rows: Sequence[RowKind], size: int) -> Iterator[list[RowKind]]:
        """Yields `rows` in lists of at most `size`."""
        for start in range(0, len(rows), size):
            yield list(rows[start : start + size])


class Backbone(Artifact):
    """A joint audio-video diffusion model that `dubmill.model.load.load` opens; `info` names its source and geometry."""

    kind = "Backbone"

    @property
    def backbone_digest(self) -> str:
        """Its own digest."""
        return self.digest

    @property
    def text_encoder_digest(self) -> str:
        """Identity of its text encoder: text features of another one do not fit."""
        return self.info["text_encoder_digest"]


class PromptSet(RowSet[Prompt]):
    """Structured prompts of both splits."""

    kind, row_type = "PromptSet", Prompt


class ClipSet(RowSet[ClipRow]):
    """Generated switch clips; member `clip`."""

    kind, row_type = "ClipSet", ClipRow


class PairSet(RowSet[PairRow]):
    """Bilingual pairs; members `original` and `counterpart`. `info["gated"]` says whether the gate judged them."""

    kind, row_type = "PairSet", PairRow


class LatentSet(Artifact):
    """Latents and text features of accepted pairs, as safetensors files that are mapped into memory."""

    kind = "LatentSet"


class Adapter(Artifact):
    """A LoRA with what its use requires: backbone digest, reference positions, rank, geometry."""

    kind = "Adapter"


class DubSet(RowSet[DubRow]):
    """Dubs of held-out clips by each method; member `dub`."""

    kind, row_type = "DubSet", DubRow


class Report(Artifact):
    """Measurements of dubs: metrics.json, rows.parquet, report.html."""

    kind = "Report"


class Release(Artifact):
    """What an endpoint serves: an adapter with its report's figures, its backbone's digest, and its licence."""

    kind = "Release"


KINDS: dict[str, type[Artifact]] = {
    one.kind: one for one in (Backbone, PromptSet, ClipSet, PairSet, LatentSet, Adapter, DubSet, Report, Release)
}


def open_any(path: Path | str) -> Artifact:
    """Returns the artifact at `path`, of any kind.

    Raises:
        InvalidArtifactError: see `Artifact.open`, or its kind is unknown.
    """
    _, manifest = resolve_reference(Path(path))
    if manifest.kind not in KINDS:
        raise InvalidArtifactError(
            f"unknown kind {manifest.kind!r}", where=str(path), cure=f"known: {', '.join(KINDS)}"
        )
    return KINDS[manifest.kind].open(path)
