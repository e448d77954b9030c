"""Clips from media files and back: the only user of FFmpeg, by way of ffmpeg-python.

The executable is the `ffmpeg` on PATH, else the one in the imageio-ffmpeg wheel. Nothing is written to disk: what FFmpeg
must seek in lives in anonymous memory, so a killed process leaves nothing behind. A source is a path or a file's bytes.

Axes: F frames, H height, W width, C channels (frames: RGB), N samples.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from dubmill.clips import Clip, fit
from dubmill.errors import ServiceUnavailable, UnreadableMedia, UsageError

Source = Path | str | bytes

# Real containers only: playlists, concat scripts and image patterns could make FFmpeg read other files of the machine.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,nut,wav,mp3,aac,flac"
METADATA_KEYS = ("title", "artist", "comment", "description", "copyright", "date", "genre", "album")
SILENCE = 1e-4  # peak below -80 dBFS: no voice to take over
_EXACT = "+bitexact"
_SCALING = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
_BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
_PATIENCE_SECONDS = 600.0


class OversizedMedia(UnreadableMedia):
    """It is longer, larger or heavier than the caller's limits allow."""


@dataclass(frozen=True)
class Limits:
    """What is still taken on: a longer, larger or heavier clip is refused before it fills the memory."""

    max_seconds: float = 60.0
    max_side: int = 4096  # pixels
    max_decoded_bytes: int = 2 * 1024**3  # of the frames once they are resampled


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds, as decoded: `width` and `height` after rotation, `num_frames` at the constant `frame_rate`."""

    width: int
    height: int
    frame_rate: Fraction
    num_frames: int
    has_audio: bool
    sample_rate_hz: int  # 0 without audio
    channels: int  # 0 without audio

    @property
    def seconds(self) -> float:
        """Length of the picture track."""
        return float(self.num_frames / self.frame_rate)


def probe(source: Source, *, limits: Limits | None = None) -> MediaInfo:
    """What `source` holds, by decoding all of it: counts are exact, a header is not trusted.

    Raises:
        UnreadableMedia: it is not there, not media, truncated, or without picture or frames.
        OversizedMedia: it is over a limit.
    """
    limits = limits or Limits()
    name = name_of(source)
    with _readable(source) as (url, fds):
        told = _run(_census(url, limits), name=name, fds=fds)
    info = _parse_census(told.decode("utf-8", "replace"), name)
    _hold_against(limits, info, name)
    return info


def read(
    source: Source,
    *,
    frame_rate: Fraction | None,
    sample_rate_hz: int,
    height: int | None = None,
    width: int | None = None,
    channels: int = 1,
    needs_sound: bool = True,
    limits: Limits | None = None,
) -> Clip:
    """`source` as a clip, rotated as its file says, resampled, its sound cut or padded to the picture's length.

    `frame_rate` None keeps the file's own. With both sides given the picture is scaled to cover them and cropped at its
    centre; with one, the other follows; pixels become square. Without `needs_sound`, silence stands in for no sound.

    Raises:
        UnreadableMedia: as `probe`, or there is no sound, or only silence, and sound is needed.
    """
    limits = limits or Limits()
    name, info = name_of(source), probe(source, limits=limits)
    if needs_sound and not info.has_audio:
        raise UnreadableMedia("there is no sound in it", where=name, cure="give a clip in which somebody speaks")
    rate = frame_rate or info.frame_rate
    _hold_weight(limits, info, rate, height, width, name)
    with _readable(source) as (url, fds), _scratch() as sound:
        graph = _decoding(url, sound, info, rate, (height, width), (sample_rate_hz, channels))
        pictures = _run(graph, name=name, fds=[*fds, sound.fileno()])
        samples = np.frombuffer(_content(sound), dtype="<f4").reshape(-1, channels).T
    if needs_sound and np.abs(samples).max(initial=0.0) < SILENCE:
        raise UnreadableMedia("its sound is silent", where=name, cure="give a clip in which somebody speaks")
    frames_FHWC = _frames(pictures, name)
    num_samples = round(len(frames_FHWC) / rate * sample_rate_hz)
    audio_CN = np.clip(fit(samples.astype(np.float32), num_samples), -1.0, 1.0)
    return Clip(frames_FHWC, rate, np.ascontiguousarray(audio_CN), sample_rate_hz)


def mp4_bytes(clip: Clip, metadata: Mapping[str, str] | None = None) -> bytes:
    """`clip` as an MP4 that browsers play: H.264 4:2:0 and AAC, index first; equal input gives equal bytes.

    4:2:0 needs even sides: an odd one gets its last row or column once more.

    Raises:
        UsageError: no frames, or a metadata key that MP4 has no place for.
    """
    metadata = metadata or {}
    strangers = [key for key in metadata if key not in METADATA_KEYS]
    if strangers:
        raise UsageError(f"MP4 has no place for {strangers[0]!r}", cure=f"use one of {', '.join(METADATA_KEYS)}")
    if not clip.num_frames:
        raise UsageError("a clip without frames cannot be an MP4")
    clip = _evened(clip).with_audio(clip.audio_CN)
    with _scratch() as picture, _scratch() as sound, _scratch() as film:
        _fill(picture, np.ascontiguousarray(clip.frames_FHWC))
        _fill(sound, np.ascontiguousarray(np.clip(clip.audio_CN, -1.0, 1.0).T, dtype="<f4"))
        graph = _encoding(clip, picture, sound, film, metadata)
        _run(graph, name="MP4", fds=[one.fileno() for one in (picture, sound, film)])
        return _content(film)


def wav_bytes(audio_CN: np.ndarray, sample_rate_hz: int) -> bytes:
    """Sound (C, N) in [-1, 1] as a 16-bit PCM WAV file."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(audio_CN.shape[0])
        out.setsampwidth(2)
        out.setframerate(sample_rate_hz)
        out.writeframes(np.round(np.clip(audio_CN.T, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return stream.getvalue()


def metadata(source: Source) -> dict[str, str]:
    """The container's metadata, such as title and comment.

    Raises:
        UnreadableMedia: it is not there or not media.
    """
    import ffmpeg

    with _readable(source) as (url, fds):
        told = _run(ffmpeg.input(url, **_TRUSTED).output("pipe:", format="ffmetadata"), name=name_of(source), fds=fds)
    lines = (line for line in re.split(r"(?<!\\)\n", told.decode("utf-8", "replace")) if "=" in line)
    pairs = (re.split(r"(?<!\\)=", line, maxsplit=1) for line in lines if line[0] not in ";#")
    return {key: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in pairs}


def name_of(source: Source) -> str:
    """What to call `source` when speaking of it."""
    return "the given clip" if isinstance(source, bytes) else str(source)


_TRUSTED = {"format_whitelist": CONTAINERS}


def _census(url: str, limits: Limits) -> Any:
    """Decode everything to one line per frame; `xerror` makes a torn file an error and not a shorter clip."""
    import ffmpeg

    source = ffmpeg.input(url, t=limits.max_seconds + 1.0, **_TRUSTED)
    streams = source["V:0?"], source["a:0?"]
    return ffmpeg.output(*streams, "pipe:", format="framecrc", fps_mode="cfr", acodec="pcm_s16le").global_args(
        "-xerror"
    )


def _decoding(
    url: str,
    sound: IO[bytes],
    info: MediaInfo,
    rate: Fraction,
    sides: tuple[int | None, int | None],
    listening: tuple[int, int],
) -> Any:
    import ffmpeg

    source = ffmpeg.input(url, **_TRUSTED)
    # start_time and first_pts: a track that begins late is filled from the clip's start, not moved to it
    picture = source["V:0"].filter("fps", fps=str(rate), start_time=0)
    outs = [_scaled(picture, sides).output("pipe:", format="image2pipe", vcodec="ppm", pix_fmt="rgb24")]
    if info.has_audio:
        sample_rate_hz, channels = listening
        heard = source["a:0"].filter("aresample", sample_rate_hz, **{"async": 1, "first_pts": 0})
        outs.append(heard.output(_url(sound), format="f32le", ac=channels, ar=sample_rate_hz))
    return ffmpeg.merge_outputs(*outs).overwrite_output()


def _scaled(picture: Any, sides: tuple[int | None, int | None]) -> Any:
    height, width = sides
    picture = picture.filter("scale", w="iw*sar", h="ih", flags=_SCALING).filter("setsar", 1)
    if height and width:
        cover = {"force_original_aspect_ratio": "increase", "flags": _SCALING}
        return picture.filter("scale", w=width, h=height, **cover).filter("crop", width, height, exact=1)
    if height or width:
        return picture.filter("scale", w=width or -1, h=height or -1, flags=_SCALING)
    return picture


def _encoding(clip: Clip, picture: IO[bytes], sound: IO[bytes], film: IO[bytes], metadata: Mapping[str, str]) -> Any:
    import ffmpeg

    _, height, width, _ = clip.frames_FHWC.shape
    rates = {"ar": clip.sample_rate_hz, "ac": len(clip.audio_CN)}
    frames = ffmpeg.input(
        _url(picture), format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=str(clip.frame_rate)
    ).filter("scale", out_color_matrix="bt709", out_range="tv", flags=_SCALING)
    heard = ffmpeg.input(_url(sound), format="f32le", **rates)
    video = {"vcodec": "libx264", "pix_fmt": "yuv420p", "preset": "veryfast", "crf": 16, **_BT709}
    audio = {"acodec": "aac", "b:a": min(6 * clip.sample_rate_hz, 128_000) * len(clip.audio_CN)}
    exact = {"threads": 1, "fflags": _EXACT, "flags:v": _EXACT, "flags:a": _EXACT, "map_metadata": -1}
    # ffmpeg-python takes an option once; FFmpeg reads no further than the g (global) of this specifier
    said = {f"metadata:g:{index}": f"{key}={metadata[key]}" for index, key in enumerate(sorted(metadata))}
    out = ffmpeg.output(
        frames, heard, _url(film), format="mp4", movflags="+faststart", **video, **audio, **exact, **said
    )
    return out.overwrite_output()


@cache
def executable() -> str:
    """The ffmpeg to run: on PATH, else bundled.

    Raises:
        ServiceUnavailable: there is neither.
    """
    on_path = shutil.which("ffmpeg")
    if on_path:
        return on_path
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ServiceUnavailable(
            "there is no ffmpeg on this machine", cure="install ffmpeg, or pip install imageio-ffmpeg"
        ) from error


def _run(graph: Any, *, name: str, fds: Sequence[int]) -> bytes:
    """What FFmpeg writes to its standard output.

    Raises:
        UnreadableMedia: it failed, or took far too long.
    """
    command = graph.global_args("-v", "error", "-nostdin", "-hide_banner").compile(cmd=executable())
    try:
        done = subprocess.run(  # noqa: S603 (no shell; paths are prefixed with their protocol)
            command, capture_output=True, pass_fds=tuple(fds), timeout=_PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnreadableMedia("FFmpeg did not finish", where=name, cure="give a shorter clip") from error
    if done.returncode:
        raise _fault(done.stderr.decode("utf-8", "replace"), name)
    return done.stdout


def _fault(told: str, name: str) -> UnreadableMedia:
    """One sentence for what FFmpeg complained about."""
    begun = ("moov atom not found", "error reading header")  # the container was known before it failed
    if "does not contain any stream" in told:
        return UnreadableMedia(
            "neither picture nor sound is in it, or it is truncated", where=name, cure="give a video"
        )
    unopened = re.search(r"Error opening input|^file:.*: Invalid data", told, flags=re.MULTILINE)  # FFmpeg 7 | 5, 6
    if unopened and not any(sign in told for sign in begun):
        return UnreadableMedia("this is not a media file", where=name, cure="give an MP4, MOV, MKV or WebM")
    if "Invalid data found" in told:
        return UnreadableMedia("the file is truncated or damaged", where=name, cure="copy or export it again")
    last = re.sub(r"\[[^]]*\] ?", "", told.strip().splitlines()[-1]) if told.strip() else "no reason given"
    return UnreadableMedia(f"FFmpeg cannot read it ({last})", where=name, cure="export it as MP4 (H.264, AAC)")


@contextmanager
def _readable(source: Source) -> Iterator[tuple[str, list[int]]]:
    """A URL that FFmpeg can seek in, and the descriptors it must inherit."""
    if isinstance(source, bytes):
        if not source:
            raise UnreadableMedia("the file is empty", where=name_of(source), cure="copy or export it again")
        with _scratch() as held:
            _fill(held, np.frombuffer(source, dtype=np.uint8))
            yield _url(held), [held.fileno()]
        return
    path = Path(source).absolute()
    if not path.is_file():
        trouble = "this is a directory" if path.is_dir() else "there is no such file"
        raise UnreadableMedia(trouble, where=str(source), cure="give the path of a video")
    if not path.stat().st_size:
        raise UnreadableMedia("the file is empty", where=str(source), cure="copy or export it again")
    yield f"file:{path}", []


def _scratch() -> IO[bytes]:
    """A file without a name: in memory where the kernel can, else unlinked on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("clip"), "w+b")
    return tempfile.TemporaryFile()


def _url(stream: IO[bytes]) -> str:
    return f"file:/dev/fd/{stream.fileno()}"


def _fill(stream: IO[bytes], values: np.ndarray) -> None:
    stream.write(memoryview(values).cast("B") if values.size else b"")
    stream.flush()
    stream.seek(0)


def _content(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read()


def _parse_census(told: str, name: str) -> MediaInfo:
    """The facts in framecrc's lines: `#key stream: value`, then `stream, dts, pts, duration, bytes, checksum`."""
    facts = {(key, index): value for key, index, value in re.findall(r"^#(\w+) (\d+): (.+)$", told, flags=re.MULTILINE)}
    kinds = {value: index for (key, index), value in facts.items() if key == "media_type"}
    lines = [line.split(",") for line in told.splitlines() if line and not line.startswith("#")]
    if "video" not in kinds:
        raise UnreadableMedia("there is no picture in it", where=name, cure="give a video, not a sound file")
    pictures = [line for line in lines if line[0].strip() == kinds["video"]]
    if not pictures:
        raise UnreadableMedia("its picture track has no frames", where=name, cure="export it again")
    width, height = (int(side) for side in facts["dimensions", kinds["video"]].split("x"))
    heard = [line for line in lines if line[0].strip() == kinds.get("audio")]
    return MediaInfo(
        width=width,
        height=height,
        frame_rate=1 / Fraction(facts["tb", kinds["video"]]),
        num_frames=len(pictures),
        has_audio=bool(heard),
        sample_rate_hz=int(facts["sample_rate", kinds["audio"]]) if heard else 0,
        channels=int(heard[0][4]) // (2 * int(heard[0][3])) if heard else 0,  # bytes per 16-bit sample
    )


def _frames(pictures: bytes, name: str) -> np.ndarray:
    """(F, H, W, 3) from PPM images of equal size in a row."""
    header = re.match(rb"P6\n(\d+) (\d+)\n255\n", pictures)
    if not header:
        raise UnreadableMedia("its picture track has no frames", where=name, cure="export it again")
    width, height = int(header[1]), int(header[2])
    images = np.frombuffer(pictures, dtype=np.uint8).reshape(-1, header.end() + height * width * 3)
    return np.ascontiguousarray(images[:, header.end() :]).reshape(-1, height, width, 3)


def _evened(clip: Clip) -> Clip:
    _, height, width, _ = clip.frames_FHWC.shape
    frames = np.pad(clip.frames_FHWC, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return replace(clip, frames_FHWC=frames)


def _hold_against(limits: Limits, info: MediaInfo, name: str) -> None:
    if info.seconds > limits.max_seconds:
        raise OversizedMedia(f"it is longer than {limits.max_seconds:g} s", where=name, cure="cut it first")
    if max(info.width, info.height) > limits.max_side:
        raise OversizedMedia(
            f"{info.width}x{info.height} is larger than {limits.max_side} pixels a side", where=name, cure="scale it"
        )


def _hold_weight(
    limits: Limits, info: MediaInfo, rate: Fraction, height: int | None, width: int | None, name: str
) -> None:
    tall, wide = height or info.height, width or info.width
    weight = round(info.seconds * rate) * tall * wide * 3
    if weight > limits.max_decoded_bytes:
        cap = limits.max_decoded_bytes / 1024**3
        raise OversizedMedia(
            f"its frames would fill {weight / 1024**3:.1f} GiB, over {cap:.1f}", where=name, cure="cut or scale it"
        )
