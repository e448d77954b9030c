"""Writes clips: an MP4 that browsers play; a lossless NUT; a WAV.

Axes: F frames, H height, W width, C channels (frames: RGB), N samples.
"""

from __future__ import annotations

import io
import subprocess
import wave
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dubmill.errors import DiskFullError, UsageError
from dubmill.media.clips import Clip
from dubmill.media.process import (
    BITEXACT,
    SCALING,
    STALL_SECONDS,
    anonymous_file,
    content,
    error_of,
    fill,
    running,
    url,
)

METADATA_KEYS = ("title", "artist", "comment", "description", "copyright", "date", "genre", "album")
_BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}


def mp4_bytes(clip: Clip, metadata: Mapping[str, str] | None = None, *, language: str = "") -> bytes:
    """`clip` as an MP4 that browsers play: H.264 4:2:0 and AAC, index first; equal input gives equal bytes.

    `language` is an ISO 639-2 tag for the sound. 4:2:0 needs even sides: the last row or column of an odd one is repeated.

    Raises:
        UsageError: no frames, or a metadata key that MP4 does not have.
    """
    return _file_bytes(clip, _mp4(clip.sample_rate_hz, len(clip.audio_CN), metadata or {}, language))


def lossless_bytes(clip: Clip) -> bytes:
    """`clip` as a lossless NUT file (H.264 in RGB, PCM); `read_lossless` gives the same numbers back where its sides are even.

    Raises:
        UsageError: no frames.
    """
    codecs = {"vcodec": "libx264rgb", "preset": "ultrafast", "qp": 0, "pix_fmt": "rgb24", "acodec": "pcm_f32le"}
    return _file_bytes(clip, {"format": "nut", **codecs})


def write_sound(path: Path, blocks: Iterable[np.ndarray], *, sample_rate_hz: int, channels: int) -> None:
    """Write 16-bit PCM as WAV, with 64-bit sizes above 4 GiB, from blocks (N, C) that come one by one.

    Raises:
        DiskFullError: the disk is full.
        UnreadableMediaError: FFmpeg failed.
    """
    import ffmpeg

    graph = ffmpeg.input("pipe:", format="f32le", ar=sample_rate_hz, ac=channels).output(
        f"file:{path.absolute()}", format="wav", acodec="pcm_s16le", rf64="auto", fflags=BITEXACT
    )
    feed(graph.overwrite_output(), (np.clip(block, -1.0, 1.0).astype("<f4") for block in blocks), fds=[])


def wav_bytes(audio_CN: np.ndarray, sample_rate_hz: int) -> bytes:
    """Sound (C, N) in [-1, 1] as a 16-bit PCM WAV file."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(audio_CN.shape[0])
        out.setsampwidth(2)
        out.setframerate(sample_rate_hz)
        out.writeframes(np.round(np.clip(audio_CN.T, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return stream.getvalue()


def feed(graph: Any, arrays: Iterable[np.ndarray], *, fds: Sequence[int]) -> str:
    """Run FFmpeg with `arrays` as its standard input, one at a time; returns its messages.

    Raises:
        DiskFullError: the disk is full.
        UnreadableMediaError: it failed.
    """
    with running(graph, fds=fds, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as (process, log):
        assert process.stdin is not None
        try:
            for array in arrays:
                process.stdin.write(np.ascontiguousarray(array).data)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it ended early; its exit status and messages say why
        has_failed = bool(process.wait(STALL_SECONDS))
        messages = content(log).decode("utf-8", "replace")
    if "No space left on device" in messages:
        raise DiskFullError("the disk is full", cure="free room and run it again")
    if has_failed:
        raise error_of(messages, "FFmpeg's output")
    return messages


def _file_bytes(clip: Clip, options: Mapping[str, Any]) -> bytes:
    """A media file of `clip`, written in memory; the picture is fed to FFmpeg and not copied."""
    import ffmpeg

    clip = clip.with_audio(clip.audio_CN)
    with anonymous_file() as samples, anonymous_file() as film:
        fill(samples, np.ascontiguousarray(np.clip(clip.audio_CN, -1.0, 1.0).T, dtype="<f4"))
        sound = ffmpeg.input(url(samples), format="f32le", ar=clip.sample_rate_hz, ac=len(clip.audio_CN))
        fds = [samples.fileno(), film.fileno()]
        _write(url(film), clip.frames_FHWC, clip.frame_rate, sound, options, fds)
        return content(film)


def _write(
    place: str, frames: Iterable[np.ndarray], rate: Fraction, sound: Any, options: Mapping[str, Any], fds: Sequence[int]
) -> None:
    import ffmpeg

    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise UsageError("a clip without frames cannot be a video")
    height, width, _ = _with_even_sides(first).shape
    size = f"{width}x{height}"
    picture = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, r=str(rate))
    if options["format"] == "mp4":
        picture = picture.filter("scale", out_color_matrix="bt709", out_range="tv", flags=SCALING)
    exact = {"threads": 1, "fflags": BITEXACT, "flags:v": BITEXACT, "flags:a": BITEXACT, "map_metadata": -1}
    graph = ffmpeg.output(picture, sound, place, **options, **exact).overwrite_output()
    feed(graph, (_with_even_sides(frame) for frame in chain([first], remaining)), fds=fds)


def metadata_options(metadata: Mapping[str, str], language: str) -> dict[str, str]:
    """FFmpeg's options for a file's metadata, and for the ISO 639-2 tag of its first sound track.

    Raises:
        UsageError: a key that is not among `METADATA_KEYS`.
    """
    unknown = [key for key in metadata if key not in METADATA_KEYS]
    if unknown:
        raise UsageError(f"MP4 has no metadata key {unknown[0]!r}", cure=f"use one of {', '.join(METADATA_KEYS)}")
    # ffmpeg-python takes an option once; FFmpeg reads no further than the g (global) of this specifier
    tags = {f"metadata:g:{index}": f"{key}={metadata[key]}" for index, key in enumerate(sorted(metadata))}
    return tags | ({"metadata:s:a:0": f"language={language}"} if language else {})


def _mp4(sample_rate_hz: int, channels: int, metadata: Mapping[str, str], language: str) -> dict[str, Any]:
    """FFmpeg's output options for an MP4 that browsers play."""
    video = {"vcodec": "libx264", "pix_fmt": "yuv420p", "preset": "veryfast", "crf": 16, **_BT709}
    audio = {"acodec": "aac", "b:a": min(6 * sample_rate_hz, 128_000) * channels}
    tags = metadata_options(metadata, language)
    return {"format": "mp4", "movflags": "+faststart", **video, **audio, **tags}


def _with_even_sides(frame_HWC: np.ndarray) -> np.ndarray:
    height, width, _ = frame_HWC.shape
    if height % 2 == width % 2 == 0:
        return frame_HWC
    return np.pad(frame_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
