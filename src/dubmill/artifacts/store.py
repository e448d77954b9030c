"""Directories that know their type: sealed last, checked when opened, resumable while unsealed.

    draft = PairSet.draft(out, lineage)      # what an interrupted run with the same lineage left is kept
    draft.add_shard(0, rows, files)          # a shard is there whole, or not at all
    pairs = draft.seal()                     # writes manifest.json last: its existence means complete
    pairs = PairSet.open(out)                # kind, schema and every digest are checked, or it raises

Several tasks may fill one draft, each its own part of the shards; whoever comes after them seals it.

A digest is the sha256 of the manifest's canonical JSON without the digest itself, so equal content and equal lineage
give equal digests on any machine; no clock enters it.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from dubmill.artifacts.files import TORN, digest_of, sha256_of, table_bytes, tar_bytes, write_atomically
from dubmill.artifacts.rows import ClipRow, DubRow, PairRow, Prompt, Row
from dubmill.errors import ChangedArtifactError, InvalidArtifactError, UnsealedArtifactError, UsageError
from dubmill.media.clips import Clip

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
DRAFT = "draft.json"
ROWS = "rows.parquet"


class Lineage(BaseModel):
    """Where an artifact comes from: enough to make it again, and to refuse what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    step: str
    params: dict[str, Any]
    inputs: dict[str, str] = {}  # artifact word -> digest
    backbone: str = ""  # digest of the backbone, where one took part
    text_encoder: str = ""
    licence: str = ""
    pair_source: str = ""  # self-made | world, where pairs took part
    consent: str = ""

    @property
    def key(self) -> str:
        """A digest of all of it: equal keys mean the same work."""
        return digest_of(self.model_dump())


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
        """The same manifest with its digest filled in."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(exclude={"digest"}))})


@dataclass(frozen=True)
class Part:
    """One of `count` tasks that share the shards of a step: every `count`-th, from `index` on."""

    index: int
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether it is the only one, which makes whatever is missing, and seals."""
        return self.count == 1


WHOLE = Part(0, 1)


class Artifact:
    """A sealed directory; subclasses name their kind and say what is inside."""

    kind: ClassVar[str]

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def draft(cls, out: Path, lineage: Lineage, *, is_shared: bool = False) -> Draft[Self]:
        """A directory to fill at `out`; what an interrupted run of the same lineage left there is kept.

        Raises:
            UsageError: it holds what is no artifact, or, where others fill it too (`is_shared`), other work.
        """
        return Draft(cls, out, lineage, is_shared)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """The artifact at `path`, its kind, schema and every digest checked.

        Raises:
            UnsealedArtifactError: it was never finished.
            InvalidArtifactError: it is something else.
            ChangedArtifactError: a file changed, or is gone.
        """
        path = Path(path)
        manifest = read_manifest(path)
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
        cure = "make the artifact again or pull it"
        if manifest.with_digest().digest != manifest.digest:
            raise ChangedArtifactError("the manifest was edited", where=str(path), cure=cure)
        for name, expected in manifest.files.items():
            member = path / name
            if not member.is_file() or sha256_of(member) != expected:
                trouble = "has changed" if member.is_file() else "is gone"
                raise ChangedArtifactError(f"{name} {trouble} since it was sealed", where=str(path), cure=cure)
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


Kind = TypeVar("Kind", bound=Artifact)


def read_manifest(path: Path) -> Manifest:
    """The manifest of an artifact, not yet held against its files.

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


class Draft(Generic[Kind]):
    """A directory being filled, resumable until it is sealed."""

    def __init__(self, kind: type[Kind], out: Path, lineage: Lineage, is_shared: bool) -> None:
        self.kind, self.path, self.lineage = kind, Path(out), lineage
        if not self.is_sealed and self._left_by() != lineage.key:
            self._refuse_strangers()
            if is_shared:
                self._refuse_other_work()
            else:
                shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        if not is_shared:  # what looks torn may be another task's file on its way
            for torn in self.path.rglob(TORN):
                torn.unlink()
        if not self.is_sealed:
            write_atomically(self.path / DRAFT, json.dumps({"key": lineage.key}).encode())

    @property
    def is_sealed(self) -> bool:
        """Whether an artifact of this very lineage is already complete here."""
        try:
            return self.kind.open(self.path).lineage.key == self.lineage.key
        except InvalidArtifactError:
            return False

    def _refuse_strangers(self) -> None:
        names = {path.name for path in self.path.iterdir() if not path.match(TORN)} if self.path.is_dir() else set()
        if names and not names & {MANIFEST, DRAFT}:
            raise UsageError(
                "the directory holds files that are not an artifact", where=str(self.path), cure="give an empty one"
            )

    def _refuse_other_work(self) -> None:
        if (self.path / MANIFEST).exists() or (self.path / DRAFT).exists():
            raise UsageError(
                "the directory holds the work of other inputs or params",
                where=str(self.path),
                cure="give every task of one step the same inputs and params, and an empty directory at first",
            )

    def _left_by(self) -> str:
        try:
            return json.loads((self.path / DRAFT).read_bytes())["key"]
        except (OSError, ValueError, KeyError):
            return ""

    def write(self, name: str, data: bytes) -> Path:
        """Put one file into the draft, atomically."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        return path

    def has_shard(self, index: int) -> bool:
        """Whether shard `index` was written, by this run or the one before it."""
        return (self.path / f"shard-{index:05d}.json").is_file()

    def missing(self, num_shards: int, part: Part) -> list[int]:
        """Which of a step's shards are still to be made by `part`."""
        return [index for index in range(part.index, num_shards, part.count) if not self.has_shard(index)]

    def add_shard(self, index: int, rows: Sequence[Row], files: Mapping[str, bytes]) -> None:
        """Write the rows and files of shard `index`; members are named `<row id>/<name>`."""
        self.write(f"shard-{index:05d}.tar", tar_bytes(files))
        described = [row.model_dump() for row in rows]
        self.write(f"shard-{index:05d}.json", json.dumps(described).encode())

    def seal(self, info: Mapping[str, Any] | None = None) -> Kind:
        """Merge shard rows, write the manifest last, and hand back the artifact."""
        if self.is_sealed:
            return self.kind.open(self.path)
        self._merge_rows()
        names = sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())
        files = {name: sha256_of(self.path / name) for name in names if name not in (MANIFEST, DRAFT)}
        manifest = Manifest(
            kind=self.kind.kind, schema_version=SCHEMA_VERSION, files=files, lineage=self.lineage, info=dict(info or {})
        ).with_digest()
        write_atomically(self.path / MANIFEST, manifest.model_dump_json(indent=1).encode())
        (self.path / DRAFT).unlink(missing_ok=True)  # only now: a kill before leaves a draft, never a stranger
        return self.kind(self.path, manifest)

    def _merge_rows(self) -> None:
        parts = sorted(self.path.glob("shard-*.json"))
        if not parts:
            return
        rows = [dict(row, shard=part.stem) for part in parts for row in json.loads(part.read_bytes())]
        self.write(ROWS, table_bytes(rows))
        for part in parts:
            part.unlink()


RowKind = TypeVar("RowKind", bound=Row)


class RowSet(Artifact, Generic[RowKind]):
    """Rows in a Parquet table, their clips in tar shards (`<row id>/<name>.clip` without loss, `.mp4` to look at)."""

    row_type: ClassVar[type[Row]]

    @cached_property
    def _table(self) -> list[dict[str, Any]]:
        return pq.read_table(self.path / ROWS).to_pylist() if (self.path / ROWS).is_file() else []

    @cached_property
    def rows(self) -> list[RowKind]:
        """All rows, in the order they were written."""
        stripped = ({name: value for name, value in row.items() if name != "shard"} for row in self._table)
        return [self.row_type.model_validate(row) for row in stripped]  # type: ignore[misc]

    @cached_property
    def _shard_of(self) -> dict[str, str]:
        return {row["id"]: row["shard"] for row in self._table}

    @cached_property
    def _tars(self) -> dict[str, tarfile.TarFile]:
        return {}

    def data(self, row_id: str, name: str) -> bytes:
        """The bytes of member `<row id>/<name>`.

        Raises:
            InvalidArtifactError: there is no such row or member.
        """
        try:
            shard = self._shard_of[row_id]
            if shard not in self._tars:
                self._tars[shard] = tarfile.open(self.path / f"{shard}.tar")  # noqa: SIM115 (kept open for its index)
            stream = self._tars[shard].extractfile(f"{row_id}/{name}")
        except KeyError as error:
            raise InvalidArtifactError(
                f"no {name} of {row_id!r}", where=str(self.path), cure="see `dubmill look`"
            ) from error
        assert stream is not None
        return stream.read()

    def clip(self, row_id: str, name: str) -> Clip:
        """The lossless clip `<name>` of a row."""
        return Clip.from_bytes(self.data(row_id, f"{name}.clip"))

    def mp4(self, row_id: str, name: str) -> bytes:
        """The MP4 of clip `<name>` of a row, for players."""
        return self.data(row_id, f"{name}.mp4")

    def split(self, name: str) -> list[RowKind]:
        """The rows of one split, train or heldout."""
        return [row for row in self.rows if getattr(row, "split", name) == name]

    def batches(self, rows: Sequence[RowKind], size: int) -> Iterator[list[RowKind]]:
        """`rows` in lists of at most `size`."""
        for start in range(0, len(rows), size):
            yield list(rows[start : start + size])


class Backbone(Artifact):
    """A joint audio-video diffusion model that `dubmill.model.load.load` opens; `info` names its source and geometry."""

    kind = "Backbone"

    @property
    def text_encoder_digest(self) -> str:
        """Identity of the text encoder: text features of another one do not fit."""
        return self.info["text_encoder_digest"]


class PromptSet(RowSet[Prompt]):
    """Structured prompts of both splits."""

    kind, row_type = "PromptSet", Prompt


class ClipSet(RowSet[ClipRow]):
    """Generated switch clips; member `clip`."""

    kind, row_type = "ClipSet", ClipRow


class PairSet(RowSet[PairRow]):
    """Bilingual pairs; members `original` and `counterpart`. `info["gated"]` says whether the gate has spoken."""

    kind, row_type = "PairSet", PairRow


class LatentSet(Artifact):
    """Latents and text features of accepted pairs, packed in one safetensors file to map into memory."""

    kind = "LatentSet"


class Adapter(Artifact):
    """A LoRA with what it needs to be used rightly: backbone digest, reference positions, rank, geometry."""

    kind = "Adapter"


class DubSet(RowSet[DubRow]):
    """Dubs of held-out clips by each method; member `dub`."""

    kind, row_type = "DubSet", DubRow


class Report(Artifact):
    """What was measured: metrics.json, rows.parquet, report.html."""

    kind = "Report"


class Release(Artifact):
    """What is served: an adapter with its report's figures, its backbone's digest, and its licence."""

    kind = "Release"


KINDS: dict[str, type[Artifact]] = {
    one.kind: one for one in (Backbone, PromptSet, ClipSet, PairSet, LatentSet, Adapter, DubSet, Report, Release)
}


def open_any(path: Path | str) -> Artifact:
    """The artifact at `path`, whatever its kind."""
    manifest = read_manifest(Path(path))
    if manifest.kind not in KINDS:
        raise InvalidArtifactError(
            f"unknown kind {manifest.kind!r}", where=str(path), cure=f"known: {', '.join(KINDS)}"
        )
    return KINDS[manifest.kind].open(path)
