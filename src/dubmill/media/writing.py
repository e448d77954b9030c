"""Clips and films to files: an MP4 that browsers play, whole or frame by frame; a NUT without loss; a WAV.

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
from dubmill.media.process import EXACT, PATIENCE_SECONDS, SCALING, content, fault, fill, scratch, started, url

METADATA_KEYS = ("title", "artist", "comment", "description", "copyright", "date", "genre", "album")
_BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}


def mp4_bytes(clip: Clip, metadata: Mapping[str, str] | None = None, *, language: str = "") -> bytes:
    """`clip` as an MP4 that browsers play: H.264 4:2:0 and AAC, index first; equal input gives equal bytes.

    `language` is an ISO 639-2 tag for the sound. 4:2:0 needs even sides: an odd one gets its last row or column once more.

    Raises:
        UsageError: no frames, or a metadata key that MP4 has no place for.
    """
    return _held(clip, _mp4(clip.sample_rate_hz, len(clip.audio_CN), metadata or {}, language))


def lossless_bytes(clip: Clip) -> bytes:
    """`clip` as a NUT file (H.264 in RGB, PCM) from which `read` gives the same numbers, smaller than they are.

    Raises:
        UsageError: no frames.
    """
    codecs = {"vcodec": "libx264rgb", "preset": "veryfast", "qp": 0, "pix_fmt": "rgb24", "acodec": "pcm_f32le"}
    return _held(clip, {"format": "nut", **codecs})


def write_film(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    frame_rate: Fraction,
    wav: Path,
    sample_rate_hz: int,
    channels: int,
    metadata: Mapping[str, str],
    language: str = "",
) -> None:
    """Write an MP4 as `mp4_bytes` would, from frames (H, W, 3) as they come, one in memory, and the sound in `wav`.

    Raises:
        UsageError: no frames, or a metadata key that MP4 has no place for.
        DiskFullError: the disk is full.
        UnreadableMediaError: FFmpeg failed.
    """
    import ffmpeg

    how = _mp4(sample_rate_hz, channels, metadata, language)
    _write(f"file:{path.absolute()}", frames, frame_rate, ffmpeg.input(f"file:{wav.absolute()}"), how, [])


def write_sound(path: Path, blocks: Iterable[np.ndarray], *, sample_rate_hz: int, channels: int) -> None:
    """Write 16-bit PCM as WAV, with 64-bit sizes where it outgrows 4 GiB, from blocks (N, C) as they come.

    Raises:
        DiskFullError: the disk is full.
        UnreadableMediaError: FFmpeg failed.
    """
    import ffmpeg

    graph = ffmpeg.input("pipe:", format="f32le", ar=sample_rate_hz, ac=channels).output(
        f"file:{path.absolute()}", format="wav", acodec="pcm_s16le", rf64="auto", fflags=EXACT
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
    """Run FFmpeg with `arrays` as its standard input, one at a time; answers what it said.

    Raises:
        DiskFullError: the disk is full.
        UnreadableMediaError: it failed.
    """
    with started(graph, fds=fds, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as (process, told):
        try:
            for array in arrays:
                process.stdin.write(np.ascontiguousarray(array).data)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died, and says below of what
        failed = process.wait(PATIENCE_SECONDS)
        said = content(told).decode("utf-8", "replace")
    if "No space left on device" in said:
        raise DiskFullError("the disk is full", cure="free room and run it again")
    if failed:
        raise fault(said, "FFmpeg's output")
    return said


def _held(clip: Clip, how: Mapping[str, Any]) -> bytes:
    """The file of `clip`, made in memory; its picture is fed, and never there twice."""
    import ffmpeg

    clip = clip.with_audio(clip.audio_CN)
    with scratch() as heard, scratch() as film:
        fill(heard, np.ascontiguousarray(np.clip(clip.audio_CN, -1.0, 1.0).T, dtype="<f4"))
        sounding = ffmpeg.input(url(heard), format="f32le", ar=clip.sample_rate_hz, ac=len(clip.audio_CN))
        fds = [heard.fileno(), film.fileno()]
        _write(url(film), clip.frames_FHWC, clip.frame_rate, sounding, how, fds)
        return content(film)


def _write(
    place: str, frames: Iterable[np.ndarray], rate: Fraction, sounding: Any, how: Mapping[str, Any], fds: Sequence[int]
) -> None:
    import ffmpeg

    coming = iter(frames)
    first = next(coming, None)
    if first is None:
        raise UsageError("a clip without frames cannot be a video")
    height, width, _ = _evened(first).shape
    told = {"format": "rawvideo", "pix_fmt": "rgb24", "s": f"{width}x{height}", "r": str(rate)}
    picture = ffmpeg.input("pipe:", **told)
    if how["format"] == "mp4":
        picture = picture.filter("scale", out_color_matrix="bt709", out_range="tv", flags=SCALING)
    exact = {"threads": 1, "fflags": EXACT, "flags:v": EXACT, "flags:a": EXACT, "map_metadata": -1}
    graph = ffmpeg.output(picture, sounding, place, **how, **exact).overwrite_output()
    feed(graph, (_evened(frame) for frame in chain([first], coming)), fds=fds)


def _mp4(sample_rate_hz: int, channels: int, metadata: Mapping[str, str], language: str) -> dict[str, Any]:
    """FFmpeg's output options for an MP4 that browsers play."""
    strangers = [key for key in metadata if key not in METADATA_KEYS]
    if strangers:
        raise UsageError(f"MP4 has no place for {strangers[0]!r}", cure=f"use one of {', '.join(METADATA_KEYS)}")
    video = {"vcodec": "libx264", "pix_fmt": "yuv420p", "preset": "veryfast", "crf": 16, **_BT709}
    audio = {"acodec": "aac", "b:a": min(6 * sample_rate_hz, 128_000) * channels}
    # ffmpeg-python takes an option once; FFmpeg reads no further than the g (global) of this specifier
    said = {f"metadata:g:{index}": f"{key}={metadata[key]}" for index, key in enumerate(sorted(metadata))}
    if language:
        said["metadata:s:a:0"] = f"language={language}"
    return {"format": "mp4", "movflags": "+faststart", **video, **audio, **said}


def _evened(frame_HWC: np.ndarray) -> np.ndarray:
    height, width, _ = frame_HWC.shape
    if height % 2 == width % 2 == 0:
        return frame_HWC
    return np.pad(frame_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
