"""Atomic writes, and the digests, tables and archives that artifacts consist of."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dubmill.errors import DiskFullError

ROWS_FILE = "rows.parquet"  # the rows of a set, or of a report
METRICS_FILE = "metrics.json"  # of a report and a release
LOSSES_FILE = "losses.jsonl"  # of an adapter: one {"step", "video", "audio", "total", "lr", "sigmas"} a line

PARTIAL_FILES = ".*.partial"  # pattern of what a killed writer leaves behind


def digest_of(value: Any) -> str:
    """Returns the sha256 of the canonical JSON of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_digests: dict[tuple[str, int, int, int], str] = {}  # file as it was hashed: path, inode, size, time of change
_MAX_DIGESTS = 10_000  # a server hashes files for months


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file; a file that did not change since this process hashed it is not read again."""
    state = path.stat()
    key = (str(path.resolve()), state.st_ino, state.st_size, state.st_mtime_ns)
    if (digest := _digests.get(key)) is None:
        if len(_digests) >= _MAX_DIGESTS:
            _digests.clear()
        digest = _digests[key] = hash_file(path)
    return digest


def hash_file(path: Path) -> str:
    """Returns the sha256 of a file; always reads it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write `data` (bytes, or an iterable of blocks) to `path` atomically: after an error the old file is unchanged.

    Raises:
        DiskFullError: the disk is full.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")  # process ids repeat across containers
    try:
        with partial.open("wb") as stream:
            for block in [data] if isinstance(data, bytes) else data:
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                "the disk is full", where=str(path.parent), cure="free room and run the step again"
            ) from error
        raise


def table_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns the bytes of a Parquet table of rows of plain data."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), stream)
    return stream.getvalue()


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    """Returns the bytes of a tar archive of `files`; equal files give equal bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return stream.getvalue()


def tar_index(path: Path) -> dict[str, tuple[int, int]]:
    """Returns the place of each member in a tar archive: name -> (offset, size) in bytes."""
    with tarfile.open(path) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}
