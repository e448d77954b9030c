"""Facts about a media file, found by decoding all of it, and limits that keep an upload from filling the memory."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from dubmill.errors import MediaTooLargeError, MediaTooLongError, UnreadableMediaError, UsageError
from dubmill.media.header import (
    OtherStream,
    PictureFormat,
    SoundTrack,
    container,
    num_chapters,
    other_streams,
    picture_format,
    picture_line,
    sound_tracks,
    timecode,
)
from dubmill.media.layout import BT709, Colour, Layout, nearest_format
from dubmill.media.process import (
    ALLOWED,
    TOO_MANY_PIXELS,
    Source,
    content,
    error_of,
    limit_resources,
    name_of,
    running,
    seekable,
    stream_output,
)

# Rates for files of variable rate of which FFmpeg only knows the clock of the time stamps.
COMMON_RATES = tuple(
    Fraction(*rate)
    for rate in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1), (60000, 1001), (60, 1))
)
_MAX_RATE = 120
_HD_LINES = 720
_HEADER_CPU_SECONDS = 30
_TRANSFERS = {"smpte2084": "PQ", "arib-std-b67": "HLG"}


@dataclass(frozen=True)
class Limits:
    """The largest clip that is read: a longer or larger one is refused before it fills the memory."""

    max_seconds: float = 60.0
    max_side: int = 4096  # pixels
    max_decoded_bytes: int = 2 * 1024**3  # of the frames once they are resampled

    @property
    def max_cpu_seconds(self) -> int:
        """Processor time to decode a file of the greatest length: 20 s for each second of it."""
        return round(30 + 20 * self.max_seconds)


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds, as shown: sides after rotation with square pixels, `num_frames` at the constant `frame_rate`.

    Attributes:
        track: index in `tracks` of the sound that is read.
        matrix: the colour matrix that is assumed where the file states none; empty: as stated, or FFmpeg's own guess.
        sound_seconds: length of the sound that is read.
        picture: how the picture is coded.
        others: streams that are neither picture nor sound.
        num_chapters: how many chapters there are.
        timecode: of the first frame, empty where there is none.
        container: FFmpeg's names of the container, with commas.
    """

    width: int
    height: int
    frame_rate: Fraction
    num_frames: int
    has_audio: bool
    sample_rate_hz: int  # 0 without audio
    channels: int  # 0 without audio
    hdr: str = ""  # PQ or HLG; empty: standard range
    tracks: tuple[SoundTrack, ...] = field(default=(), compare=False)
    track: int = field(default=0, compare=False)
    matrix: str = field(default="", compare=False)
    sound_seconds: float = field(default=0.0, compare=False)
    picture: PictureFormat = field(default=PictureFormat(), compare=False)
    others: tuple[OtherStream, ...] = field(default=(), compare=False)
    num_chapters: int = field(default=0, compare=False)
    timecode: str = field(default="", compare=False)
    container: str = field(default="", compare=False)

    @property
    def can_seek(self) -> bool:
        """Whether the container has an index, and one clock whatever is read of it."""
        return not {"mp4", "matroska"}.isdisjoint(self.container.split(","))

    @property
    def seconds(self) -> float:
        """Length of the picture track."""
        return float(self.num_frames / self.frame_rate)

    def colour(self, *, is_tone_mapped: bool) -> Colour:
        """The colour tags of its frames as they are read in its own layout; RGB is read as BT.709."""
        picture = self.picture
        if is_tone_mapped or self.matrix == "bt709" or not re.match(r"yuv|nv|p0|p2", picture.pixel_format):
            return replace(BT709, range=picture.range or "tv") if self.matrix else BT709
        full = "pc" if picture.pixel_format.startswith("yuvj") else picture.range
        return Colour(picture.matrix, picture.primaries, picture.transfer, full)

    @property
    def layout(self) -> Layout:
        """The planar layout in which its frames are read without conversion, or nearly so."""
        return Layout(nearest_format(self.picture.pixel_format), self.picture.height, self.picture.width)


def probe(source: Source, *, limits: Limits | None = None, track: int | None = None) -> MediaInfo:
    """Facts about `source`, by decoding all of it in constant memory: counts are exact, headers are not trusted.

    `track` is the number of a sound track, from 1; without it, the one that the file marks as default, else the first.

    Raises:
        UnreadableMediaError: it is not there, not media, truncated, or without picture or frames.
        UsageError: it has no such track.
        MediaTooLargeError: it is over a limit.
    """
    limits = limits or Limits()
    name = name_of(source)
    with seekable(source) as (url, fds):
        header = _header(url, fds, limits, name)
        picture, tracks = picture_line(header), sound_tracks(header)
        chosen = _chosen_track(tracks, track, name)
        graph = _count_graph(url, limits, _replacement_rate(picture), chosen)
        output = stream_output(graph, name=name, fds=fds, max_cpu_seconds=limits.max_cpu_seconds)
        info = _parse_counts(_lines(output), name, _hdr(picture))
    info = replace(info, tracks=tracks, track=chosen, picture=picture_format(header), others=other_streams(header))
    info = replace(info, num_chapters=num_chapters(header), timecode=timecode(header), matrix=_assumed_matrix(info))
    info = replace(info, container=container(header))
    _check_limits(limits, info, name)
    return info


def _header(url: str, fds: list[int], limits: Limits, name: str) -> str:
    """FFmpeg's description of the file.

    Raises:
        MediaTooLargeError: its picture, or its first frame, is over a limit; nothing was decoded.
    """
    import ffmpeg

    graph = ffmpeg.input(url, max_pixels=limits.max_side**2, **ALLOWED).output(
        "pipe:", format="null", c="copy", **{"frames": 0, "v": "info"}
    )
    with running(graph, fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as (process, log):
        limit_resources(process, max_cpu_seconds=_HEADER_CPU_SECONDS)
        process.wait()
        header = content(log).decode("utf-8", "replace").partition("Stream mapping:")[0].partition("\nOutput #")[0]
    picture = picture_format(header)
    _check_side(limits, picture.width, picture.height, name)
    if TOO_MANY_PIXELS in header and not picture.width:  # with a width, it is a cover that nobody reads
        raise error_of(header, name)
    return header


def _chosen_track(tracks: tuple[SoundTrack, ...], number: int | None, name: str) -> int:
    """The index of the sound track to read."""
    if number is not None:
        if not 1 <= number <= len(tracks):
            raise UsageError(
                f"there is no sound track {number}, it has {len(tracks)}",
                where=name,
                cure="give --track a number from 1",
            )
        return number - 1
    return next((index for index, track in enumerate(tracks) if track.is_default), 0)


def _assumed_matrix(info: MediaInfo) -> str:
    """BT.709 for HD in YUV whose colours carry no tag, as cameras and players have it; FFmpeg would take BT.601."""
    is_yuv = re.match(r"yuv|nv|p0|p2", info.picture.pixel_format) is not None
    is_hd = max(info.height, info.width * 9 // 16) >= _HD_LINES
    return "bt709" if is_yuv and not info.picture.matrix and is_hd else ""


def _replacement_rate(header: str) -> Fraction | None:
    """The common rate nearest to the mean, for a file of variable rate of which FFmpeg found none; else None."""
    rates = {kind: float(number) * (1000 if kilo else 1) for number, kilo, kind in _RATES.findall(header)}
    is_steady = abs(rates.get("fps", 0.0) - rates.get("tbr", 0.0)) < 0.01 * rates.get(
        "tbr", 0.0
    )  # slow motion: 240 a second
    if rates.get("tbr", 0) <= _MAX_RATE or is_steady:
        return None
    return min(COMMON_RATES, key=lambda rate: abs(rate - rates.get("fps", 0.0)))


_RATES = re.compile(r"([\d.]+)(k?) (fps|tbr)\b")


def _hdr(header: str) -> str:
    return next((name for transfer, name in _TRANSFERS.items() if transfer in header), "")


def _count_graph(url: str, limits: Limits, rate: Fraction | None, track: int) -> Any:
    """Decodes everything to one line per frame; with `xerror` a truncated file is an error and not a shorter clip."""
    import ffmpeg

    source = ffmpeg.input(url, t=limits.max_seconds + 1.0, max_pixels=limits.max_side**2, **ALLOWED)
    streams = source["V:0?"], source[f"a:{track}?"]
    square = {"filter:v": "scale=w=iw*sar:h=ih,setsar=1"} | ({"r": str(rate)} if rate else {})
    return ffmpeg.output(
        *streams, "pipe:", format="framecrc", fps_mode="cfr", acodec="pcm_s16le", **square
    ).global_args("-xerror")


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for data in blocks:
        *whole, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)


def _parse_counts(lines: Iterable[str], name: str, hdr: str) -> MediaInfo:
    """The facts in framecrc's lines: `#key stream: value`, then `stream, dts, pts, duration, bytes, checksum`."""
    facts: dict[tuple[str, str], str] = {}
    counts: dict[str, int] = {}
    first: dict[str, list[str]] = {}
    last: dict[str, list[str]] = {}
    for line in lines:
        if fact := re.match(r"#(\w+) (\d+): (.+)$", line):
            facts[fact[1], fact[2]] = fact[3]
        elif line and not line.startswith("#"):
            index = line.split(",", 1)[0].strip()
            counts[index] = counts.get(index, 0) + 1
            first.setdefault(index, line.split(","))
            last[index] = line.split(",")
    kinds = {value: index for (key, index), value in facts.items() if key == "media_type"}
    if "video" not in kinds:
        raise UnreadableMediaError("there is no picture in it", where=name, cure="give a video, not a sound file")
    if not counts.get(kinds["video"]):
        raise UnreadableMediaError("its picture track has no frames", where=name, cure="export it again")
    width, height = (int(side) for side in facts["dimensions", kinds["video"]].split("x"))
    heard = first.get(kinds.get("audio", ""))
    return MediaInfo(
        width=width,
        height=height,
        frame_rate=1 / Fraction(facts["tb", kinds["video"]]),
        num_frames=counts[kinds["video"]],
        has_audio=bool(heard),
        sample_rate_hz=int(facts["sample_rate", kinds["audio"]]) if heard else 0,
        channels=int(heard[4]) // (2 * int(heard[3])) if heard else 0,  # bytes per 16-bit sample
        hdr=hdr,
        sound_seconds=_end_seconds(facts, kinds["audio"], last) if heard else 0.0,
    )


def _end_seconds(facts: dict[tuple[str, str], str], index: str, last: dict[str, list[str]]) -> float:
    """The end of a stream's last packet."""
    _, _, presentation, duration, *_ = last[index]
    return float((int(presentation) + int(duration)) * Fraction(facts["tb", index]))


def _check_limits(limits: Limits, info: MediaInfo, name: str) -> None:
    if info.seconds > limits.max_seconds:
        raise MediaTooLongError(f"it is longer than {limits.max_seconds:g} s", where=name, cure="cut it first")
    _check_side(limits, info.width, info.height, name)


def _check_side(limits: Limits, width: int, height: int, name: str) -> None:
    if max(width, height) > limits.max_side:
        raise MediaTooLargeError(
            f"{width}x{height} is larger than {limits.max_side} pixels a side", where=name, cure="scale it"
        )


def check_decoded_size(
    limits: Limits, info: MediaInfo, rate: Fraction, height: int | None, width: int | None, name: str
) -> None:
    """Refuse a clip whose decoded frames would fill the memory.

    Raises:
        MediaTooLargeError: they would.
    """
    tall, wide = height or info.height, width or info.width
    weight = round(info.seconds * rate) * tall * wide * 3
    if weight > limits.max_decoded_bytes:
        cap = limits.max_decoded_bytes / 1024**3
        raise MediaTooLargeError(
            f"its frames would fill {weight / 1024**3:.1f} GiB, over {cap:.1f}", where=name, cure="cut or scale it"
        )
