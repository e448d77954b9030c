"""The consent ledger: an append-only file with one JSON object a line for each dub that somebody agreed to."""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dubmill.errors import DiskFullError, MissingConsentError, ServiceUnavailableError

LEDGER = Path("consent.jsonl")  # default place: the working directory
CURE = "say who agrees, such as 'Ana Ruiz, the speaker, agrees to this dub'"


def check_statement(statement: str) -> str:
    """The consent statement without outer blanks.

    Raises:
        MissingConsentError: it is empty, or too short to name anybody (a bare "yes").
    """
    if len(statement.split()) < 2:
        trouble = "the consent statement names nobody" if statement.strip() else "there is no consent statement"
        raise MissingConsentError(trouble, cure=CURE)
    return statement.strip()


@dataclass(frozen=True)
class ConsentLedger:
    """Appends consent statements to one file, before the dub is made."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, *, source_sha256: str, statement: str, language: str, release: str) -> None:
        """Append an entry: sha256 of the source file, statement, target language, digest of the release.

        Raises:
            MissingConsentError: see `check_statement`.
            DiskFullError: the disk is full.
            ServiceUnavailableError: the ledger cannot be written.
        """
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "source_sha256": source_sha256,
            "statement": check_statement(statement),
            "language": language,
            "release": release,
        }
        self._append((json.dumps(entry, ensure_ascii=False) + "\n").encode())

    def check_writable(self) -> None:
        """Raise what `record` would raise if the ledger cannot be written."""
        self._append(b"")

    def _append(self, line: bytes) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, self.path.open("ab") as stream:
                stream.write(line)  # a single write in append mode: lines of several servers do not interleave
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    "the disk of the consent ledger is full", where=str(self.path), cure="free room"
                ) from error
            raise ServiceUnavailableError(
                f"consent cannot be recorded ({error.strerror})", where=str(self.path), cure="give a writable --ledger"
            ) from error
