"""How a film is encoded: container by the ending of its name, everything else after the source as far as that allows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dubmill.errors import UsageError
from dubmill.media.layout import Layout, nearest_format
from dubmill.media.probing import MediaInfo

DEFAULT_QUALITY = 16  # x264's CRF: differences are hard to see even in stills
MAX_QUALITY = 51
# x264's preset superfast with the frames' dependencies counted, as veryfast has it: less time at the same CRF for somewhat more bits
_X264 = {"vcodec": "libx264", "preset": "superfast", "x264-params": "mbtree=1:rc-lookahead=10:subme=2"}
_RATE_CAP = 1.5  # of the source's bit rate: its own noise needs no more
_MIN_BITS_PER_PIXEL = 0.1  # below, the source's bit rate is no bound


@dataclass(frozen=True)
class OutputContainer:
    """What a container may hold, by FFmpeg's codec names; the first is written where the source's own is not among them."""

    muxer: str
    video: tuple[str, ...]
    sound: tuple[str, ...]
    copied_sound: tuple[str, ...]
    subtitles: str  # codec to which text subtitles are converted; empty: none

    def encoder(self, codec: str) -> str:
        """FFmpeg's encoder of a sound codec."""
        return {"opus": "libopus"}.get(codec, codec)


_PCM = ("pcm_s16le", "pcm_s24le")
OUTPUT_CONTAINERS: dict[str, OutputContainer] = {
    ".mp4": OutputContainer("mp4", ("h264", "hevc", "av1", "mpeg4"), ("aac",), ("aac", "ac3", "eac3", "mp3", "opus", "alac", "flac"), "mov_text"),
    ".m4v": OutputContainer("mp4", ("h264", "hevc"), ("aac",), ("aac", "ac3", "alac"), "mov_text"),
    ".mov": OutputContainer("mov", ("h264", "hevc", "prores", "mpeg4"), ("aac", *_PCM), ("aac", "ac3", "alac", *_PCM), "mov_text"),
    ".mkv": OutputContainer(
        "matroska",
        ("h264", "hevc", "vp9", "av1", "prores", "ffv1", "mpeg2video", "mpeg4"),
        ("aac", "flac", "opus", "ac3", *_PCM),
        ("aac", "ac3", "eac3", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "dts", "truehd", *_PCM),
        "copy",
    ),
    ".webm": OutputContainer("webm", ("vp9", "av1"), ("opus",), ("opus", "vorbis"), "webvtt"),
}  # fmt: skip

_FORMATS = {  # what each encoder takes, best match first for what it does not take
    "h264": ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
    "hevc": ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "yuv422p12le", "yuv444p12le"),
    "vp9": ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
    "av1": ("yuv420p", "yuv420p10le"),
    "prores": ("yuv422p10le", "yuv444p10le"),
    "ffv1": ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "yuv422p12le", "yuv444p12le"),
    "mpeg2video": ("yuv420p", "yuv422p"),
    "mpeg4": ("yuv420p",),
}  # fmt: skip
_NEEDS_EVEN = ("h264", "hevc", "av1", "mpeg2video", "mpeg4")
_PRORES = {"Proxy": 0, "LT": 1, "Standard": 2, "HQ": 3, "4444": 4, "4444 XQ": 5, "XQ": 5}


@dataclass(frozen=True)
class Coding:
    """How a film's picture and dubbed sound are encoded.

    Attributes:
        container: the container.
        codec: of the picture, FFmpeg's name.
        layout: of the frames that are given to the encoder, before odd sides are made even.
        video_options, container_options: FFmpeg's options of the picture's encoder, and of the container.
        notes: a sentence for each difference from the source.
    """

    container: OutputContainer
    codec: str
    layout: Layout
    video_options: Mapping[str, Any]
    container_options: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def padded_layout(self) -> Layout:
        """The layout of the frames as they are encoded."""
        return self.layout.even() if self.codec in _NEEDS_EVEN else self.layout

    @property
    def piece_muxer(self) -> str:
        """The container of a piece of the picture: exact time stamps at any rate, and every codec."""
        return "mp4" if self.codec in ("vp9", "av1") else "mov"


def check_quality(quality: int | None) -> None:
    """Refuse a quality that is no CRF.

    Raises:
        UsageError: it is none.
    """
    if quality is not None and not 0 <= quality <= MAX_QUALITY:
        raise UsageError(
            f"quality {quality} is no CRF", where="--quality", cure=f"give 0 (lossless or nearly so) to {MAX_QUALITY}"
        )


def coding_like(info: MediaInfo, suffix: str, *, quality: int | None = None, tone_map: bool = False) -> Coding:
    """The coding of a film like `info` in a container by its file ending.

    Without `quality` (a CRF) the bit rate stays below 1.5 times the source's.
    """
    container, source = OUTPUT_CONTAINERS[suffix.lower()], info.picture
    notes: list[str] = []
    codec = source.codec if source.codec in container.video else container.video[0]
    if codec != source.codec:
        notes.append(f"the picture is coded as {codec}: {source.codec} cannot be written into a {suffix.lower()} file")
    pixel_format = _pixel_format(codec, "yuv420p" if info.hdr and tone_map else source.pixel_format)
    if pixel_format != source.pixel_format.replace("yuvj", "yuv") and not (info.hdr and tone_map):
        notes.append(f"pixel format {source.pixel_format} was converted to {pixel_format}")
    coding = Coding(container, codec, replace(info.layout, pixel_format=pixel_format), {}, {}, ())
    if coding.padded_layout != coding.layout:
        even = coding.padded_layout
        notes.append(
            f"odd sides: {source.width}x{source.height} became {even.width}x{even.height} by repeating the last row or "
            f"column, since {pixel_format} in {codec} needs even ones"
        )
    return replace(
        coding,
        video_options=_video_options(codec, info, quality),
        container_options=_container_options(container, codec),
        notes=tuple(notes),
    )


def sound_options(container: OutputContainer, source_codec: str, sample_rate_hz: int, channels: int) -> dict[str, Any]:
    """FFmpeg's options for the dubbed sound: lossless where the source was lossless, else in its codec."""
    codec = source_codec if source_codec in container.sound else container.sound[0]
    encoder = container.encoder(codec)
    if codec in _PCM or codec == "flac":
        return {"acodec": encoder}
    rate_hz = min(sample_rate_hz, 48_000)
    return {"acodec": encoder, "b:a": min(6 * rate_hz, 128_000) * channels}


def _pixel_format(codec: str, source: str) -> str:
    """The format nearest to the source's that the encoder takes: the same sampling first, then the same depth."""
    wanted, known = Layout(nearest_format(source), 2, 2), _FORMATS[codec]
    if wanted.pixel_format in known:
        return wanted.pixel_format
    layouts = [Layout(name, 2, 2) for name in known]
    best = min(layouts, key=lambda one: (one.num_bytes < wanted.num_bytes, one.steps != wanted.steps, one.num_bytes))
    return best.pixel_format


def _video_options(codec: str, info: MediaInfo, quality: int | None) -> dict[str, Any]:
    crf = DEFAULT_QUALITY if quality is None else quality
    pixels = info.picture.width * info.picture.height * float(info.frame_rate)
    cap = int(_RATE_CAP * max(info.picture.bit_rate, _MIN_BITS_PER_PIXEL * pixels))
    bound = {"maxrate": cap, "bufsize": 2 * cap} if quality is None and info.picture.bit_rate else {}
    encoders: dict[str, dict[str, Any]] = {
        "h264": {**_X264, "crf": crf, **bound},
        "hevc": {"vcodec": "libx265", "preset": "veryfast", "crf": crf, "x265-params": "pools=1:frame-threads=1:log-level=none", **bound},
        "vp9": {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 6, "crf": crf + 8 if crf else 0, "b:v": bound.get("maxrate", 0)},
        "av1": {"vcodec": "libsvtav1", "preset": 10, "crf": max(1, min(63, crf + 8)), "svtav1-params": "lp=1"},
        "prores": {"vcodec": "prores_ks", "profile:v": _PRORES.get(info.picture.profile, 3)},
        "ffv1": {"vcodec": "ffv1", "level": 3},
        "mpeg2video": {"vcodec": "mpeg2video", "q:v": 2, **bound},
        "mpeg4": {"vcodec": "mpeg4", "q:v": 2},
    }  # fmt: skip
    return encoders[codec]


def _container_options(container: OutputContainer, codec: str) -> dict[str, Any]:
    options: dict[str, Any] = {"format": container.muxer}
    if container.muxer in ("mp4", "mov"):
        options["movflags"] = "+faststart"
        if codec == "hevc":
            options["tag:v"] = "hvc1"  # Apple's players open no other
    return options


def is_text_subtitle(codec: str) -> bool:
    """Whether subtitles of this codec are text, which can be converted, and not pictures."""
    return re.fullmatch(r"subrip|srt|ass|ssa|webvtt|mov_text|text", codec) is not None
