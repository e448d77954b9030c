"""A directory that a step fills: resumable after a kill, shared by several tasks if need be, sealed at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dubmill.artifacts.files import PARTIAL_FILES, ROWS_FILE, sha256_of, table_bytes, tar_bytes, write_atomically
from dubmill.artifacts.manifest import MANIFEST, SCHEMA_VERSION, Lineage, Manifest
from dubmill.artifacts.rows import Row
from dubmill.errors import InvalidArtifactError, UsageError

if TYPE_CHECKING:
    from dubmill.artifacts.store import Artifact

DRAFT = "draft.json"
LEFT_OUT = "left-out-{:05d}.json"  # reasons by id of the rows of a shard that the set has not

Kind = TypeVar("Kind", bound="Artifact")


@dataclass(frozen=True)
class ShardSlice:
    """The shards that one of several tasks makes: every `num_tasks`-th, from number `index` on."""

    index: int
    num_tasks: int

    @property
    def is_all(self) -> bool:
        """Whether this is the only task: it makes all missing shards and seals the artifact."""
        return self.num_tasks == 1


ALL_SHARDS = ShardSlice(0, 1)


class Draft(Generic[Kind]):
    """A directory being filled, resumable until it is sealed."""

    def __init__(self, kind: type[Kind], path: Path, lineage: Lineage) -> None:
        self.kind, self.path, self.lineage = kind, path, lineage

    def begin(self, *, is_shared: bool) -> None:
        """Prepare the directory: files of an interrupted run with the same lineage are kept, others are deleted.

        Raises:
            UsageError: it holds something that is no artifact, or, where other tasks fill it too, other work.
        """
        if self.is_sealed:
            return
        if self._key_on_disk() != self.lineage.key:
            self._refuse_foreign_files()
            if is_shared:
                self._refuse_other_work()
            else:
                self.clear()
        self.path.mkdir(parents=True, exist_ok=True)
        if not is_shared:  # a partial file may be another task's, on its way
            for partial in self.path.rglob(PARTIAL_FILES):
                partial.unlink()
        write_atomically(self.path / DRAFT, json.dumps({"key": self.lineage.key}).encode())

    def clear(self) -> None:
        """Remove the directory with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def is_sealed(self) -> bool:
        """Whether the directory holds a complete artifact of the same lineage; only the manifest is read, no file is hashed."""
        try:
            return self.kind.open(self.path).lineage.key == self.lineage.key
        except InvalidArtifactError:
            return False

    def _refuse_foreign_files(self) -> None:
        files = self.path.iterdir() if self.path.is_dir() else ()
        names = {path.name for path in files if not path.match(PARTIAL_FILES)}
        if names and not names & {MANIFEST, DRAFT}:
            raise UsageError(
                "the directory holds files that are not an artifact", where=str(self.path), cure="give an empty one"
            )

    def _refuse_other_work(self) -> None:
        if (self.path / MANIFEST).exists() or (self.path / DRAFT).exists():
            raise UsageError(
                "the directory holds files made from other inputs or params",
                where=str(self.path),
                cure="give every task of one step the same inputs and params, and an empty directory at first",
            )

    def _key_on_disk(self) -> str:
        try:
            return json.loads((self.path / DRAFT).read_bytes())["key"]
        except (OSError, ValueError, KeyError):
            return ""

    def has_file(self, name: str) -> bool:
        """Returns whether a file was written, by this run or an earlier one."""
        return (self.path / name).is_file()

    def write(self, name: str, data: bytes | Iterable[bytes]) -> Path:
        """Write one file into the draft, atomically; returns its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        return path

    def has_shard(self, index: int) -> bool:
        """Returns whether shard `index` was written, by this run or an earlier one."""
        return self.has_file(f"shard-{index:05d}.json")

    def missing(self, num_shards: int, shards: ShardSlice) -> list[int]:
        """Returns the numbers of the shards in `shards` that do not exist yet."""
        return [index for index in range(shards.index, num_shards, shards.num_tasks) if not self.has_shard(index)]

    def add_shard(self, index: int, rows: Sequence[Row], files: Mapping[str, bytes]) -> None:
        """Write the rows and files of shard `index`; members are named `<row id>/<name>`."""
        self.write(f"shard-{index:05d}.tar", tar_bytes(files))
        self.write(f"shard-{index:05d}.json", json.dumps([row.model_dump() for row in rows]).encode())

    def leave_out(self, index: int, reasons: Mapping[str, str]) -> None:
        """Record the ids and reasons of the rows of shard `index` that are left out of the set; written before the shard."""
        if reasons:
            self.write(LEFT_OUT.format(index), json.dumps(dict(reasons), sort_keys=True).encode())

    def left_out(self) -> dict[str, str]:
        """Returns the reasons, by id, of all rows that were left out by this run or an earlier one."""
        notes = sorted(self.path.glob(LEFT_OUT.replace("{:05d}", "*")))
        return {row_id: reason for note in notes for row_id, reason in json.loads(note.read_bytes()).items()}

    def seal(self, info: Mapping[str, Any] | None = None) -> Kind:
        """Merge the rows of all shards, write the manifest last, and return the artifact."""
        if self.is_sealed:
            return self.kind.open(self.path)
        self._merge_rows()
        names = sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())
        manifest = Manifest(
            kind=self.kind.kind,
            schema_version=SCHEMA_VERSION,
            files={name: sha256_of(self.path / name) for name in names if name not in (MANIFEST, DRAFT)},
            lineage=self.lineage,
            info=dict(info or {}),
        ).with_digest()
        write_atomically(self.path / MANIFEST, manifest.model_dump_json(indent=1).encode())
        (self.path / DRAFT).unlink(missing_ok=True)  # only now: after a kill before this, it is still a draft
        return self.kind(self.path, manifest)

    def _merge_rows(self) -> None:
        parts = sorted(self.path.glob("shard-*.json"))
        if not parts:
            return
        rows = [dict(row, shard=part.stem) for part in parts for row in json.loads(part.read_bytes())]
        self.write(ROWS_FILE, table_bytes(rows))
        for part in parts:
            part.unlink()
