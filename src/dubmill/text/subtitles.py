"""Reads and writes scripts as cues (text with start and end time) in SubRip (SRT) and WebVTT.

The parser is our own: known libraries skip what they cannot parse, and a dub must not lose a line silently.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path

from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.rows import Line
from dubmill.errors import UsageError
from dubmill.text import timing

logger = logging.getLogger(__name__)

MAX_LINE_CHARACTERS = 42  # of a caption's line; two lines a caption, as broadcasters have it
MAX_CHARACTERS_PER_SECOND = 20.0  # reading speed for adults; chosen after the same guides, UNVERIFIED
_ROLL_SECONDS = 0.05  # between two cues of rolling captions, and the length of those that only scroll
GAP_SECONDS = 0.08  # between two captions, so that a change is seen

_CLOCK = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?$")
_MARKUP = re.compile(r"</?[A-Za-z0-9][^<>]*>|\{\\[^{}]*\}")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_EXAMPLE = "write the times as 00:00:01,000 --> 00:00:02,500"


@dataclass(frozen=True)
class Cue:
    """A line of a script: `text` is said from `start_seconds` to `end_seconds`, by `speaker`; empty: nobody is named."""

    start_seconds: float
    end_seconds: float
    text: str
    speaker: str = ""

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end_seconds - self.start_seconds


def read_cues(path: Path) -> list[Cue]:
    """Returns the cues of an SRT or WebVTT file in order of time, without overlaps; corrections are logged.

    Raises:
        UsageError: there is no such file, a line is malformed, or it has no cues.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the script cannot be read ({error.strerror})", where=str(path), cure="give an SRT or WebVTT file"
        ) from error
    return parse(_decoded(data, str(path)), str(path))


def parse(text: str, where: str) -> list[Cue]:
    """Returns the cues in `text`, as `read_cues` does; `where` names the source in errors."""
    cues = [
        Cue(start, end, " ".join(lines), speaker)
        for start, end, lines, speaker in _without_rolled_lines(_cues(text, where))
        if lines
    ]
    if not cues:
        raise UsageError("there is no cue in it", where=where, cure="give an SRT or WebVTT file")
    return _with_length(_in_order(cues, where), where)


_TimedLines = tuple[float, float, list[str], str]
"""Start, end, the lines of a cue without those that are empty, and who speaks, where WebVTT says so."""


def _without_rolled_lines(cues: Iterator[_TimedLines]) -> list[_TimedLines]:
    """Returns rolling captions without repeated lines: each cue also shows the last line of the one before.

    A cue that shows nothing else prolongs the one before.
    """
    kept: list[_TimedLines] = []
    shown: list[str] = []
    for start, end, lines, speaker in cues:
        touches = bool(kept) and start - kept[-1][1] <= _ROLL_SECONDS
        num_old = next((num for num in range(min(len(shown), len(lines)), 0, -1) if shown[-num:] == lines[:num]), 0)
        is_rolling = touches and num_old > 0 and (len(lines) > num_old or end - start <= _ROLL_SECONDS)
        if is_rolling and len(lines) == num_old:
            kept[-1] = (kept[-1][0], end, *kept[-1][2:])
        else:
            kept.append((start, end, lines[num_old:] if is_rolling else lines, speaker))
        shown = lines
    return kept


def _with_length(cues: list[Cue], where: str) -> list[Cue]:
    """Returns the cues; those without length are prolonged by their reading time, at most to the next cue."""
    limits = [cue.start_seconds for cue in cues[1:]] + [float("inf")]
    long = []
    for cue, limit in zip(cues, limits, strict=True):
        if cue.seconds <= 0:
            logger.warning("%s: the cue at %s has no length: it was prolonged", where, timestamp(cue.start_seconds))
            needed = cue.start_seconds + len(cue.text) / MAX_CHARACTERS_PER_SECOND
            cue = replace(cue, end_seconds=min(needed, limit))
        long.append(cue)
    return long


def _decoded(data: bytes, where: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if data[:400].count(0) > len(data[:400]) // 4:  # no mark, but every other byte of Latin text is zero
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        logger.warning("%s is not UTF-8: read as Western European (Windows-1252); look at its accents", where)
        return data.decode("cp1252", "replace")


def _cues(text: str, where: str) -> Iterator[_TimedLines]:
    for number, block in _blocks(text):
        starts = [index for index, line in enumerate(block) if "-->" in line]
        if not starts and not _is_remark(number, block):
            raise UsageError(f"line {number} belongs to no cue ({block[0].strip()[:40]!r})", where=where, cure=_EXAMPLE)
        for index, stop in pairwise([*starts, len(block)]) if starts else ():
            start, end = _times(block[index], number + index, where)
            is_next_numbered = stop < len(block) and stop - 1 > index and block[stop - 1].strip().isdigit()
            raw = _joined_tags(block[index + 1 : stop - is_next_numbered])
            lines = (_bare(line) for line in raw)
            yield start, end, [line for line in lines if line], _speaker("\n".join(raw))


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines between empty ones, each with the number of its first line.

    In WebVTT a line of blanks is not empty: it belongs to its cue. In SRT files it often stands for an empty one.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    is_vtt = lines[0].startswith("WEBVTT")
    block: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip() or (is_vtt and line and block):
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _is_remark(number: int, block: Sequence[str]) -> bool:
    """Returns whether a block without times is WebVTT's head, a note, a style or a region."""
    head = block[0].strip()
    return (number == 1 and head.startswith("WEBVTT")) or head.split()[0] in ("NOTE", "STYLE", "REGION")


def _times(line: str, number: int, where: str) -> tuple[float, float]:
    times = _TIMES.match(line)
    if not times:
        raise UsageError(
            f"the times in line {number} cannot be read ({line.strip()[:60]!r})", where=where, cure=_EXAMPLE
        )
    parts = times.groups()
    start, end = (_seconds(parts[place : place + 4], number, where) for place in (0, 4))
    if end < start:
        raise UsageError(f"the cue of line {number} ends before it starts", where=where, cure=_EXAMPLE)
    return start, end


def _seconds(parts: Sequence[str | None], number: int, where: str) -> float:
    hours, minutes, seconds = (int(part or 0) for part in parts[:3])
    if max(minutes, seconds) > 59:
        raise UsageError(f"line {number} has more than 59 minutes or seconds", where=where, cure=_EXAMPLE)
    return 3600 * hours + 60 * minutes + seconds + float(f"0.{parts[3]}")


def _joined_tags(lines: Sequence[str]) -> list[str]:
    """Returns the lines, with tags that span several lines joined on one."""
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].rfind("<") > joined[-1].rfind(">"):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
    return joined


def _bare(line: str) -> str:
    """Returns a line of text without tags, entities and positions."""
    return " ".join(html.unescape(_MARKUP.sub("", line)).split())


def _speaker(text: str) -> str:
    """Returns the name in a cue's voice tag, as in `<v Ana>`; empty without one, or where several people speak."""
    names = {_bare(name) for name in _VOICE.findall(text)}
    return names.pop() if len(names) == 1 else ""


def _in_order(cues: Sequence[Cue], where: str) -> list[Cue]:
    ordered = sorted(cues, key=lambda cue: cue.start_seconds)
    if ordered != list(cues):
        logger.warning("%s: its cues are not in the order of time: they were sorted", where)
    kept = ordered[:1]
    for cue in ordered[1:]:
        last = kept.pop()
        if cue.start_seconds < last.end_seconds:
            logger.warning(
                "%s: two cues overlap at %s: the first was cut or both were joined", where, timestamp(cue.start_seconds)
            )
        if cue.start_seconds == last.start_seconds:
            end = max(last.end_seconds, cue.end_seconds)
            kept.append(Cue(last.start_seconds, end, f"{last.text} {cue.text}"))
        else:
            kept += [replace(last, end_seconds=min(last.end_seconds, cue.start_seconds)), cue]
    return kept


def timestamp(seconds: float, mark: str = ".") -> str:
    """Returns a time such as `01:02:03.456`, with `mark` before the fraction."""
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{mark}{whole % 1000:03}"


def srt(cues: Sequence[Cue]) -> str:
    """Returns the cues as SubRip; line breaks in a text are kept."""
    blocks = (
        f"{number}\n{timestamp(cue.start_seconds, ',')} --> {timestamp(cue.end_seconds, ',')}\n{cue.text}\n"
        for number, cue in enumerate(cues, start=1)
    )
    return "\n".join(blocks)


def vtt(cues: Sequence[Cue]) -> str:
    """Returns the cues as WebVTT, with markup characters escaped."""
    blocks = (
        f"{timestamp(cue.start_seconds)} --> {timestamp(cue.end_seconds)}\n{html.escape(cue.text, quote=False)}\n"
        for cue in cues
    )
    return "\n".join(["WEBVTT\n", *blocks])


def write_cues(path: Path, cues: Sequence[Cue]) -> None:
    """Writes the cues as SRT or WebVTT, by the file's suffix.

    Raises:
        UsageError: it is neither .srt nor .vtt.
    """
    forms = {".srt": srt, ".vtt": vtt}
    if path.suffix.lower() not in forms:
        raise UsageError("subtitles are .srt or .vtt", where=str(path), cure="give the file one of these suffixes")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, forms[path.suffix.lower()](cues).encode())


def split_cues(cues: Sequence[Cue], max_seconds: float) -> list[Cue]:
    """Returns the cues with each that lasts longer than `max_seconds` divided into equal times, its words by their length."""
    parts: list[Cue] = []
    for cue in cues:
        count = max(1, ceil(cue.seconds / max_seconds - timing.ROUNDING_SECONDS))
        words, step = cue.text.split(), cue.seconds / count
        ends = list(accumulate(len(word) + 1 for word in words))
        places = [int(count * (end - len(word) / 2) / (ends[-1] + 1)) for word, end in zip(words, ends, strict=True)]
        for number in sorted(set(places)):
            start = cue.start_seconds + number * step
            text = " ".join(word for word, place in zip(words, places, strict=True) if place == number)
            parts.append(replace(cue, start_seconds=start, end_seconds=start + step, text=text))
    return parts


def captions(cues: Sequence[Cue], language: str) -> list[Cue]:
    """Returns cues as captions for readers: at most two lines of `MAX_LINE_CHARACTERS`, on screen long enough to be read.

    A cue too long for one caption is parted where its sentences or phrases end, its time shared by speaking time; one
    that is read slower than it is said stays until the next, where there is room.
    """
    parted = [part for cue in cues for part in _parted(cue, language)]
    limits = [following.start_seconds - GAP_SECONDS for _, following in pairwise(parted)] + [float("inf")]
    return [_unhurried(cue, limit) for cue, limit in zip(parted, limits, strict=True)]


def _parted(cue: Cue, language: str) -> Iterator[Cue]:
    num_parts = ceil(len(cue.text) / (2 * MAX_LINE_CHARACTERS))
    num_words = len(cue.text.split())
    while True:
        spans = [(float(at), at + 1.0) for at in range(num_parts)]
        parts = [part for part in timing.share_out(Line(language=language, text=cue.text), spans) if part]
        broken = [_broken(part) for part in parts]
        if all(broken) or num_parts >= num_words:
            break
        num_parts += 1
    durations = [timing.speaking_seconds(Line(language=language, text=part)) for part in parts]
    start = cue.start_seconds
    for part, lines, seconds in zip(parts, broken, durations, strict=True):
        end = start + cue.seconds * seconds / sum(durations)
        yield Cue(start, end, lines or part)
        start = end


def _broken(text: str) -> str:
    """Returns `text` in one or two lines, broken after a punctuation mark or near the middle; empty if it does not fit."""
    if len(text) <= MAX_LINE_CHARACTERS:
        return text
    breaks = [at for at, sign in enumerate(text) if sign == " " and max(at, len(text) - at - 1) <= MAX_LINE_CHARACTERS]
    if not breaks:
        return ""
    at = min(breaks, key=lambda at: abs(2 * at - len(text)) - 10 * (text[at - 1] in ".,;:!?…"))
    return f"{text[:at]}\n{text[at + 1 :]}"


def _unhurried(cue: Cue, limit_seconds: float) -> Cue:
    needed = cue.start_seconds + len(cue.text) / MAX_CHARACTERS_PER_SECOND
    return replace(cue, end_seconds=max(cue.end_seconds, min(needed, limit_seconds)))
