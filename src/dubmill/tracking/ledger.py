"""Who was champion, since when, why, and who was refused: one JSON object a line in a file that only grows."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FILE = "promotions.jsonl"


def now() -> str:
    """The time in UTC, to the millisecond, as ISO 8601 with `Z` (MLflow takes no `+` in the name of a tag)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Entry(BaseModel):
    """One decision about one version."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    time: str = Field(default_factory=now)
    name: str
    version: int
    previous: int | None  # the champion before
    digest: str  # of the Release; of the adapter, where it was refused
    decision: Literal["promoted", "refused", "rolled back"]
    reasons: list[str]
    metrics: dict[str, float] = {}

    def is_same(self, other: Entry) -> bool:
        """Whether both tell of the same decision, whatever the time."""
        return self.model_dump(exclude={"time"}) == other.model_dump(exclude={"time"})


class Ledger:
    """The promotion ledger beside the Releases."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def entries(self) -> list[Entry]:
        """All entries, oldest first; the torn line of a killed writer is not one."""
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        return [entry for entry in map(_read, lines) if entry is not None]

    def last_change(self, name: str) -> Entry | None:
        """The newest entry that made a version of `name` champion."""
        changes = [one for one in self.entries if one.name == name and one.decision != "refused"]
        return changes[-1] if changes else None

    def last_refusal(self, name: str, version: int) -> Entry | None:
        """The newest entry about this version, where it is a refusal."""
        about = [one for one in self.entries if (one.name, one.version) == (name, version)]
        return about[-1] if about and about[-1].decision == "refused" else None

    def append(self, entry: Entry) -> Entry:
        """Write `entry` down and wait for the disk; a repetition of what was just decided gives the entry it repeats."""
        said = self._said(entry)
        if said is not None:
            return said
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as stream:
            line = json.dumps(entry.model_dump()).encode() + b"\n"
            stream.write(line if self._ends_whole() else b"\n" + line)
            stream.flush()
            os.fsync(stream.fileno())
        return entry

    def _said(self, entry: Entry) -> Entry | None:
        """The entry that says this already: the same refusal, or that this very Release is champion."""
        if entry.decision == "refused":
            last = self.last_refusal(entry.name, entry.version)
            return last if last is not None and last.is_same(entry) else None
        last = self.last_change(entry.name)
        return last if last is not None and (last.version, last.digest) == (entry.version, entry.digest) else None

    def _ends_whole(self) -> bool:
        data = self.path.read_bytes()
        return not data or data.endswith(b"\n")


def _read(line: str) -> Entry | None:
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        return None
