"""The table of a project's segments: a CSV file that a person can edit and compare line by line.

Columns: id, start and end (seconds), speaker, face, seed, text (what the film says), and for each target language its words,
their end where it is another, a note on what was done to make them fit, and, where a segment has one, the file of their recording,
in full or from the project's folder.
"""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from dubmill.artifacts.files import write_atomically
from dubmill.dubbing.longform import Segment
from dubmill.errors import DubmillError, UsageError
from dubmill.faces import check_face_choice
from dubmill.text.subtitles import Cue, read_cues

COLUMNS = ("id", "start", "end", "speaker", "face", "seed", "text")
_END, _NOTE, _AUDIO = " end", " note", " audio"  # after the language, in the name of a column


@dataclass(frozen=True)
class Target:
    """The words of a segment in one language.

    Attributes:
        text: the words.
        note: what was done to make them fit.
        end_seconds: their own end; None: the segment's.
        recording: of the words, which begins with the segment; None: as in `Segment`.
    """

    text: str = ""
    note: str = ""
    end_seconds: float | None = None
    recording: Path | None = None

    @property
    def without_fitting(self) -> Target:
        """The words and their recording alone, without what was done to make them fit."""
        return Target(self.text, recording=self.recording)


@dataclass(frozen=True)
class Row:
    """A segment in all languages; `speaker`, `face` and `seed` as in `Segment`."""

    id: str
    start_seconds: float
    end_seconds: float
    speaker: str = ""
    face: str = ""
    seed: int | None = None
    text: str = ""
    targets: Mapping[str, Target] = field(default_factory=dict)

    @property
    def last_end_seconds(self) -> float:
        """The end of its longest words in any language."""
        ends = [words.end_seconds for words in self.targets.values() if words.end_seconds is not None]
        return max([self.end_seconds, *ends])

    def segment(self, language: str) -> Segment:
        """The segment that is dubbed into `language`."""
        words = self.targets[language]
        end = self.end_seconds if words.end_seconds is None else words.end_seconds
        return Segment(
            self.start_seconds, end, words.text, self.speaker, self.id, self.face, self.seed, words.recording
        )


def without_fitting(row: Row) -> Row:
    """The row without what was done to make its words fit."""
    return replace(row, targets={tag: words.without_fitting for tag, words in row.targets.items()})


def rows_of(cues: Sequence[Cue]) -> list[Row]:
    """Rows for the cues of a transcript, named s1, s2 and so on."""
    return [
        Row(f"s{number}", round(cue.start_seconds, 3), round(cue.end_seconds, 3), speaker=cue.speaker, text=cue.text)
        for number, cue in enumerate(cues, start=1)
    ]


def write_table(path: Path, rows: Sequence[Row], languages: Sequence[str]) -> None:
    """Write the table atomically, in order of time."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    recorded = [tag for tag in languages if any(row.targets.get(tag, Target()).recording for row in rows)]
    columns = [name for tag in languages for name in (tag, tag + _END, tag + _NOTE)]
    writer.writerow([*COLUMNS, *columns, *(tag + _AUDIO for tag in recorded)])
    for row in sorted(rows, key=lambda row: row.start_seconds):
        seed = "" if row.seed is None else str(row.seed)
        times = (_shown(seconds) for seconds in (row.start_seconds, row.end_seconds))
        targets = (row.targets.get(tag, Target()) for tag in languages)
        words = (part for target in targets for part in (target.text, _shown(target.end_seconds), target.note))
        recordings = (_shown_file(row.targets.get(tag, Target()).recording, path.parent) for tag in recorded)
        writer.writerow([row.id, *times, row.speaker, row.face, seed, row.text, *words, *recordings])
    write_atomically(path, stream.getvalue().encode())


def read_table(path: Path, languages: Sequence[str]) -> list[Row]:
    """The rows in order of time.

    Raises:
        UsageError: it cannot be read, a column is missing, a value is wrong, or two segments overlap; with the line.
    """
    head, lines = _read_lines(path, (*COLUMNS, *languages))
    rows = [
        _row(dict(zip(head, line, strict=False)), languages, path, number, len(line) == len(head))
        for number, line in lines
    ]
    rows.sort(key=lambda row: row.start_seconds)
    check_rows(rows, str(path))
    return rows


def read_script(path: Path) -> list[Cue]:
    """The cues of a script: SRT, WebVTT, or a CSV with the columns start, end, text, and speaker if it has one.

    Raises:
        UsageError: it cannot be read, or two cues overlap; with the line.
    """
    if path.suffix.lower() != ".csv":
        return read_cues(path)
    head, lines = _read_lines(path, ("start", "end", "text"))
    cues = []
    for number, line in lines:
        values, where = dict(zip(head, line, strict=False)), f"{path}, line {number}"
        start, end = (seconds_of(values.get(name, ""), name, where) for name in ("start", "end"))
        cues.append(Cue(start, end, values.get("text", "").strip(), values.get("speaker", "").strip()))
    rows = sorted(rows_of(cues), key=lambda row: row.start_seconds)
    check_rows([check_row(row, str(path)) for row in rows], str(path))
    return [Cue(row.start_seconds, row.end_seconds, row.text, row.speaker) for row in rows]


def _read_lines(path: Path, columns: Sequence[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The head of a CSV file, and its other lines with their numbers, without empty ones."""
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the table cannot be read ({error})", where=str(path), cure="give a CSV in UTF-8") from error
    head = lines[0] if lines else []
    missing = [name for name in columns if name not in head]
    if missing:
        raise UsageError(f"the columns {', '.join(missing)} are missing", where=str(path), cure="put them back")
    return head, [(number, line) for number, line in enumerate(lines[1:], start=2) if line]


def check_rows(rows: Sequence[Row], where: str) -> None:
    """Refuse segments without or with equal names, and segments that overlap.

    Raises:
        UsageError: with the segments' names.
    """
    ids = [row.id for row in rows]
    if not all(ids):
        raise UsageError("a segment has no name", where=where, cure="fill in the column id")
    if len(set(ids)) < len(ids):
        twice = max(ids, key=ids.count)
        raise UsageError(f"two segments have the name {twice!r}", where=where, cure="give each its own")
    for before, after in pairwise(rows):
        if after.start_seconds < before.last_end_seconds:
            raise UsageError(
                f"segment {after.id} begins before {before.id} ends", where=where, cure="correct their times"
            )


def _row(values: Mapping[str, str], languages: Sequence[str], path: Path, number: int, is_complete: bool) -> Row:
    where = f"{path}, line {number}"
    if not is_complete:
        raise UsageError("the line has another number of columns than the head", where=where, cure="correct it")
    targets = {tag: _target(values, tag, path.parent, where) for tag in languages}
    start, end = (seconds_of(values[name], name, where) for name in ("start", "end"))
    seed = values["seed"].strip()
    if seed and not (seed.isascii() and seed.isdigit() and int(seed) < 2**53):
        raise UsageError(f"{seed[:40]!r} is no seed", where=where, cure="give a whole number, or nothing")
    row = Row(
        values["id"].strip(), start, end, values["speaker"].strip(), values["face"].strip(),
        int(seed) if seed else None, values["text"].strip(), targets,
    )  # fmt: skip
    return check_row(row, where)


def _target(values: Mapping[str, str], tag: str, folder: Path, where: str) -> Target:
    end = values.get(tag + _END, "").strip()
    end_seconds = seconds_of(end, tag + _END, where) if end else None
    recording = values.get(tag + _AUDIO, "").strip()
    note = values.get(tag + _NOTE, "").strip()
    return Target(values[tag].strip(), note, end_seconds, folder.absolute() / recording if recording else None)


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"


def _shown_file(path: Path | None, folder: Path) -> str:
    """The name of a file from `folder` where it is in it, else its whole path."""
    if path is None:
        return ""
    return str(path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path)


def check_row(row: Row, where: str) -> Row:
    """Refuse a segment that does not last, has control characters, a recording without words, or whose choice of face is none.

    Raises:
        UsageError: with the reason.
    """
    ends = [words.end_seconds for words in row.targets.values() if words.end_seconds is not None]
    if min([row.end_seconds, *ends]) <= row.start_seconds:
        raise UsageError(f"segment {row.id} ends before it starts", where=where, cure="correct its times")
    texts = [row.id, row.speaker, row.text, *(part for one in row.targets.values() for part in (one.text, one.note))]
    if any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in "".join(texts)):
        raise UsageError(f"segment {row.id!r} has control characters", where=where, cure="remove them")
    if any(words.recording and not words.text for words in row.targets.values()):
        cure = "give its words too, which the model's caption holds, or leave the recording out"
        raise UsageError(f"segment {row.id} has a recording without words", where=where, cure=cure)
    try:
        check_face_choice(row.face)
    except DubmillError as error:
        raise UsageError(f"segment {row.id}: {error.what}", where=where, cure=error.cure) from error
    return row


def seconds_of(text: str, name: str, where: str) -> float:
    """A number of seconds, or a clock such as 0:01:02.5, as seconds.

    Raises:
        UsageError: it is neither.
    """
    try:
        parts = [float(part) for part in text.strip().split(":")]
        seconds = sum(part * 60**place for place, part in enumerate(reversed(parts)))
        if len(parts) > 3 or not math.isfinite(seconds) or min(parts) < 0:
            raise ValueError
    except ValueError as error:
        raise UsageError(
            f"the {name} {text[:40]!r} is no time", where=where, cure="give seconds, such as 62.5, or 0:01:02.5"
        ) from error
    return seconds
