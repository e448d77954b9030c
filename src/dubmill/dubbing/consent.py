"""Consent records, and the ledger of dubs: an append-only file of JSON lines, each of which holds the hash of the one before."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any

from dubmill.errors import ChangedArtifactError, DiskFullError, MissingConsentError, ServiceUnavailableError

LEDGER = Path("consent.jsonl")  # default place: the working directory
CURE = "say who agrees, such as 'Ana Ruiz, the speaker, agrees to this dub'"
MAX_CHARACTERS = 1000  # of a statement or scope
NO_ENTRY = "0" * 64  # hash before the first entry


@dataclass(frozen=True)
class Consent:
    """Who agreed to be dubbed, and to what.

    Attributes:
        statement: who agrees, in one sentence.
        scope: what it covers, such as a film or a campaign; empty: this dub.
        until: last day on which dubs may be made; None: no end.
        evidence_sha256: hash of a signed form or recording that proves it; empty: none.
    """

    statement: str
    scope: str = ""
    until: date | None = None
    evidence_sha256: str = ""

    @classmethod
    def of(cls, consent: Consent | str) -> Consent:
        """A bare statement as a record."""
        return consent if isinstance(consent, Consent) else cls(consent)

    def check(self) -> Consent:
        """Returns the record without leading and trailing blanks, after checking it.

        Raises:
            MissingConsentError: it names nobody (a bare "yes"), holds control characters, or has expired.
        """
        statement, scope = self.statement.strip(), self.scope.strip()
        if any(unicodedata.category(character) == "Cc" for character in statement + scope):
            raise MissingConsentError("the consent statement holds control characters", cure=CURE)
        if len(statement) > MAX_CHARACTERS or len(scope) > MAX_CHARACTERS:
            raise MissingConsentError(f"the consent has more than {MAX_CHARACTERS} characters", cure=CURE)
        if sum(any(map(str.isalpha, word)) for word in statement.split()) < 2:
            trouble = "the consent statement names nobody" if statement else "there is no consent statement"
            raise MissingConsentError(trouble, cure=CURE)
        if self.until is not None and self.until < datetime.now(UTC).date():
            raise MissingConsentError(f"the consent ended on {self.until}", cure="ask the speaker for a new one")
        return Consent(statement, scope, self.until, self.evidence_sha256.lower())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "until": self.until.isoformat() if self.until else None}


@dataclass(frozen=True, kw_only=True)
class DubRecord:
    """One dub as the ledger keeps it: sha256 of source, dub and release, language, and the job, empty outside the server."""

    source_sha256: str
    dub_sha256: str
    language: str
    release: str
    job: str = ""


@dataclass(frozen=True)
class ConsentLedger:
    """One entry for each dub that was made, written before the dub is handed over."""

    path: Path

    def record(self, consent: Consent | str, dub: DubRecord) -> str:
        """Append an entry and return its hash; a job that has one already is not entered again.

        Raises:
            MissingConsentError: see `Consent.check`.
            DiskFullError: the disk is full.
            ServiceUnavailableError: the ledger cannot be written.
        """
        agreed = Consent.of(consent).check()
        with self._locked() as stream:
            if dub.job and (known := _entry_of(stream, dub.job)):
                return known
            entry = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                **asdict(dub),
                **agreed.to_dict(),
                "previous": _last_hash(stream),
            }
            line = json.dumps({**entry, "hash": _hash_of(entry)}, ensure_ascii=False) + "\n"
            stream.seek(0, os.SEEK_END)
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        return _hash_of(entry)

    def check_writable(self) -> None:
        """Raise what `record` would raise if the ledger cannot be written."""
        with self._locked():
            pass

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """The open file under a lock that other processes keep too; the end of a killed writer's line is cut off."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                _cut_incomplete_line(stream)
                yield stream
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    "the disk of the consent ledger is full", where=str(self.path), cure="free room"
                ) from error
            raise ServiceUnavailableError(
                f"consent cannot be recorded ({error.strerror})", where=str(self.path), cure="give a writable --ledger"
            ) from error


def verify_ledger(path: Path, *, head: str = "") -> tuple[int, str]:
    """The number of entries and the hash of the last one, after every entry was held against the one before it.

    Lines that were cut off at the end leave no trace in the file itself: `head`, the hash of any entry that was noted
    elsewhere (a dub's job shows its own), has to be among them.

    Raises:
        ChangedArtifactError: an entry was changed, removed, added or moved, or `head` is missing; with its line.
        ServiceUnavailableError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ServiceUnavailableError(
            f"the ledger cannot be read ({error.strerror})", where=str(path), cure="give its path"
        ) from error
    previous, is_chained, hashes = NO_ENTRY, False, set()
    for number, line in enumerate(lines, start=1):
        entry = _parsed(line)
        if not is_chained and entry is not None and "hash" not in entry:
            previous = _bytes_hash(line)  # written before entries were chained
            continue
        if entry is None or entry.get("previous") != previous or entry.get("hash") != _hash_of(entry):
            cure = "compare it with a backup: this entry or the one before it was changed, removed or added"
            raise ChangedArtifactError("the chain of hashes breaks here", where=f"{path}, line {number}", cure=cure)
        is_chained, previous = True, str(entry["hash"])
        hashes.add(previous)
    if head and head not in hashes:
        raise ChangedArtifactError(f"entry {head[:12]} is missing", where=str(path), cure="compare it with a backup")
    return len(lines), previous


def _cut_incomplete_line(stream: IO[bytes]) -> None:
    end = stream.seek(0, os.SEEK_END)
    if end and (last := _tail(stream, end)).rpartition(b"\n")[2]:
        stream.truncate(end - len(last.rpartition(b"\n")[2]))


def _last_hash(stream: IO[bytes]) -> str:
    end = stream.seek(0, os.SEEK_END)
    lines = _tail(stream, end).splitlines() if end else []
    if not lines:
        return NO_ENTRY
    return str((_parsed(lines[-1]) or {}).get("hash") or _bytes_hash(lines[-1]))


def _tail(stream: IO[bytes], end: int) -> bytes:
    """The last bytes, which hold at least one whole entry: a statement has at most some kilobytes."""
    stream.seek(max(0, end - (1 << 16)))
    return stream.read()


def _entry_of(stream: IO[bytes], job: str) -> str:
    """The hash of a job's entry, or an empty string."""
    stream.seek(0)
    sign = f'"job": {json.dumps(job)}'.encode()
    return next((str((_parsed(line) or {}).get("hash", "")) for line in stream if sign in line), "")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _hash_of(entry: Mapping[str, Any]) -> str:
    """sha256 of an entry's canonical JSON; it covers the hash of the entry before."""
    content = {name: value for name, value in entry.items() if name != "hash"}
    return _bytes_hash(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def _bytes_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
