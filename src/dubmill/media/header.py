"""FFmpeg's printed description of a file, parsed: picture format, sound tracks, and other contents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class PictureFormat:
    """How a file's picture is coded; a field is empty or 0 where the file does not state it.

    Attributes:
        codec, profile: FFmpeg's names.
        width, height: stored pixels after rotation, before they are made square.
        pixel_aspect: width of a stored pixel by its height.
        matrix, primaries, transfer, range: colour tags; range is tv or pc.
        bit_rate: bits per second.
    """

    codec: str = ""
    profile: str = ""
    pixel_format: str = ""
    width: int = 0
    height: int = 0
    pixel_aspect: Fraction = Fraction(1)
    matrix: str = ""
    primaries: str = ""
    transfer: str = ""
    range: str = ""
    is_interlaced: bool = False
    bit_rate: int = 0


@dataclass(frozen=True)
class SoundTrack:
    """One of a file's sound tracks; `language` is an ISO 639-2 tag, empty where the file has none."""

    language: str
    is_default: bool
    codec: str = ""


@dataclass(frozen=True)
class OtherStream:
    """A stream that is neither picture nor sound: subtitles, data or an attachment."""

    kind: str  # Subtitle, Data or Attachment
    language: str
    codec: str


def picture_line(header: str) -> str:
    """The header's line about the picture; empty where there is none."""
    lines = re.findall(r"^ *Stream #0:\d+.*?: Video: (.*)$", header, flags=re.MULTILINE)
    return next((line for line in lines if "attached pic" not in line), "")


def picture_format(header: str) -> PictureFormat:
    """How the picture is coded."""
    line = picture_line(header)
    found = re.search(r", (\w+)(?:\(([^()]*)\))?, (\d+)x(\d+)", line)
    if not found:
        return PictureFormat()
    name, tags, width, height = found[1], found[2] or "", int(found[3]), int(found[4])
    aspect = re.search(r"SAR (\d+):(\d+)", line)
    pixel_aspect = Fraction(int(aspect[1]), int(aspect[2])) if aspect and int(aspect[1]) else Fraction(1)
    if re.search(r"rotation of -?90", header.partition("Video: ")[2].partition("Stream #")[0]):
        width, height, pixel_aspect = height, width, 1 / pixel_aspect
    profile = re.match(r"\w+ \(([^()]*)\)", line)
    matrix, primaries, transfer = _colour_tags(tags)
    return PictureFormat(
        codec=line.partition(",")[0].partition(" ")[0],
        profile=profile[1] if profile else "",
        pixel_format=name,
        width=width,
        height=height,
        pixel_aspect=pixel_aspect,
        matrix=matrix,
        primaries=primaries,
        transfer=transfer,
        range=next((tag for tag in ("tv", "pc") if tag in tags.split(", ")), ""),
        is_interlaced=bool(re.search(r"\b(top|bottom) (coded )?first", tags)),
        bit_rate=_bit_rate(line, header),
    )


def sound_tracks(header: str) -> tuple[SoundTrack, ...]:
    """The sound tracks in order."""
    pattern = r"^ *Stream #0:\d+(?:\[\w+\])?(?:\((\w+)\))?: Audio: (\w+)(.*)$"
    lines = re.findall(pattern, header, flags=re.MULTILINE)
    return tuple(SoundTrack("" if tag == "und" else tag, "(default)" in rest, codec) for tag, codec, rest in lines)


def other_streams(header: str) -> tuple[OtherStream, ...]:
    """Subtitles, data and attachments, in order."""
    pattern = r"^ *Stream #0:\d+(?:\[\w+\])?(?:\((\w+)\))?: (Subtitle|Data|Attachment): (\w+)"
    lines = re.findall(pattern, header, flags=re.MULTILINE)
    return tuple(OtherStream(kind, "" if tag == "und" else tag, codec) for tag, kind, codec in lines)


def container(header: str) -> str:
    """FFmpeg's names of the container, with commas."""
    found = re.search(r"^Input #0, ([\w,]+), from", header, re.MULTILINE)
    return found[1] if found else ""


def num_chapters(header: str) -> int:
    """How many chapters there are."""
    return len(re.findall(r"^ *Chapter #0:", header, re.MULTILINE))


def timecode(header: str) -> str:
    """The timecode of the first frame, such as 01:00:00:00; empty where there is none."""
    found = re.search(r"^ *timecode *: (\d\d:\d\d:\d\d[:;]\d\d)", header, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else ""


def _colour_tags(tags: str) -> tuple[str, str, str]:
    """Matrix, primaries and transfer; one name stands for all three."""
    for tag in tags.split(", "):
        names = [("" if name == "unknown" else name) for name in tag.split("/")]
        if len(names) == 3:
            return names[0], names[1], names[2]
        if re.fullmatch(r"bt\w+|smpte\w+|fcc|ycgco|gbr|film|iec\w+", tag):
            return tag, tag, tag
    return "", "", ""


def _bit_rate(line: str, header: str) -> int:
    """Of the picture; where only the whole file's is stated, that one."""
    found = (
        re.search(r", (\d+) kb/s", line)
        or re.search(r"^ *BPS *: (\d+)000$", header, re.MULTILINE)
        or re.search(r"bitrate: (\d+) kb/s", header)
    )
    return 1000 * int(found[1]) if found else 0
