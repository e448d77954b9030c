"""The promotion ledger: one JSON object per line about every promotion, refusal and rollback; append-only."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FILE = "promotions.jsonl"


def now() -> str:
    """Returns the time in UTC, in milliseconds, as ISO 8601 with `Z` (MLflow forbids `+` in tag names)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Entry(BaseModel):
    """One decision about one model version."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    time: str = Field(default_factory=now)
    name: str
    version: int
    previous: int | None  # version number of the champion before
    digest: str  # of the Release; of the adapter, where it was refused
    decision: Literal["promoted", "refused", "rolled back"]
    reasons: list[str]
    metrics: dict[str, float] = {}

    def is_same(self, other: Entry) -> bool:
        """Returns whether both are equal except for the time."""
        return self.model_dump(exclude={"time"}) == other.model_dump(exclude={"time"})


class Ledger:
    """The promotion ledger beside the releases."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def entries(self) -> list[Entry]:
        """Returns all entries, oldest first; an incomplete line of a killed writer is skipped."""
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        return [entry for entry in map(_read, lines) if entry is not None]

    def last_change(self, name: str) -> Entry | None:
        """Returns the newest entry that made a version of `name` champion, or None."""
        changes = [entry for entry in self.entries if entry.name == name and entry.decision != "refused"]
        return changes[-1] if changes else None

    def last_refusal(self, name: str, version: int) -> Entry | None:
        """Returns the newest entry about this version if it is a refusal, else None."""
        entries = [entry for entry in self.entries if (entry.name, entry.version) == (name, version)]
        return entries[-1] if entries and entries[-1].decision == "refused" else None

    def append(self, entry: Entry) -> Entry:
        """Writes `entry` and syncs the disk; returns it, or the last entry where that is the same decision."""
        repeated = self._repeated(entry)
        if repeated is not None:
            return repeated
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as stream:
            line = json.dumps(entry.model_dump()).encode() + b"\n"
            stream.write(line if self._is_complete() else b"\n" + line)
            stream.flush()
            os.fsync(stream.fileno())
        return entry

    def _repeated(self, entry: Entry) -> Entry | None:
        """Returns the last entry where it is the same refusal, or where this Release already is champion."""
        if entry.decision == "refused":
            last = self.last_refusal(entry.name, entry.version)
            return last if last is not None and last.is_same(entry) else None
        last = self.last_change(entry.name)
        return last if last is not None and (last.version, last.digest) == (entry.version, entry.digest) else None

    def _is_complete(self) -> bool:
        data = self.path.read_bytes()
        return not data or data.endswith(b"\n")


def _read(line: str) -> Entry | None:
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        return None
