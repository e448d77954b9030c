"""A script in time: who says what when is a list of cues, read from SubRip (SRT) or WebVTT."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dubmill.errors import UsageError

_TIMES = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2})[,.](\d{3}) --> (?:(\d+):)?(\d{1,2}):(\d{2})[,.](\d{3})")


@dataclass(frozen=True)
class Cue:
    """`text` is said from `start_seconds` to `end_seconds`."""

    start_seconds: float
    end_seconds: float
    text: str


def read(path: Path) -> list[Cue]:
    """The cues of an SRT or WebVTT file, in its order.

    Raises:
        UsageError: there is no such file, it is not UTF-8, or no cue is in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the script cannot be read ({type(error).__name__})",
            where=str(path),
            cure="give an SRT or WebVTT in UTF-8",
        ) from error
    blocks = (block.splitlines() for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")))
    cues = [cue for cue in (_cue(lines) for lines in blocks) if cue]
    if not cues:
        raise UsageError("there is no cue in it", where=str(path), cure="give an SRT or WebVTT")
    return cues


def _cue(lines: list[str]) -> Cue | None:
    for index, line in enumerate(lines):
        if told := _TIMES.match(line.strip()):
            numbers = [int(number or 0) for number in told.groups()]
            start, end = (_seconds(*numbers[place : place + 4]) for place in (0, 4))
            return Cue(start, end, " ".join(lines[index + 1 :]).strip())
    return None


def _seconds(hours: int, minutes: int, seconds: int, milliseconds: int) -> float:
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
