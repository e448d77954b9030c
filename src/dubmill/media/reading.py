"""Reads clips from media files, whole or frame by frame; a source is a path or a file's bytes.

Axes: F frames, H height, W width, C channels (frames: RGB), N samples.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from dubmill.errors import UnreadableMediaError
from dubmill.media.clips import Clip, cut_or_pad
from dubmill.media.layout import Colour, Layout
from dubmill.media.probing import Limits, MediaInfo, check_decoded_size, probe
from dubmill.media.process import (
    ALLOWED,
    FAST_SCALING,
    SCALING,
    Source,
    anonymous_file,
    content,
    name_of,
    read_output,
    seekable,
    stream_blocks,
    stream_output,
    url,
)

SILENCE, SOUND_BLOCK_SAMPLES = 1e-4, 1 << 15  # peak below which, at -80 dBFS, there is no voice; length of a block
_SEEK_MARGIN_SECONDS = 2.0  # deinterlacing and frames that are stored out of order need what comes before
_ABSOLUTE_TIME = ("-copyts", "-start_at_zero")  # after a seek, time is counted as if there had been none
_TONE_MAPPED = (
    ("zscale", {"t": "linear", "npl": 100}),
    ("format", {"pix_fmts": "gbrpf32le"}),
    ("zscale", {"p": "bt709"}),
    ("tonemap", {"tonemap": "hable", "desat": 0}),
    ("zscale", {"t": "bt709", "m": "bt709", "r": "tv"}),
    ("format", {"pix_fmts": "yuv444p"}),
)


def read(
    source: Source,
    *,
    frame_rate: Fraction | None,
    sample_rate_hz: int,
    height: int | None = None,
    width: int | None = None,
    channels: int = 1,
    needs_sound: bool = True,
    tone_map: bool = False,
    limits: Limits | None = None,
    track: int | None = None,
) -> Clip:
    """`source` as a clip, rotated as its file says and resampled, with sound cut or padded to the picture's length.

    `frame_rate` None keeps the file's own. With both sides given the picture is scaled to cover them and cropped at its
    centre; with one, the other follows; pixels become square. Without `needs_sound`, a file without sound
    gets silence.
    `track` as in `probe`. `tone_map` converts HDR to standard range; colours change.

    Raises:
        UnreadableMediaError: as `probe`; HDR without `tone_map`; or no sound, or only silence, where sound is needed.
    """
    limits = limits or Limits()
    name, info = name_of(source), probe(source, limits=limits, track=track)
    if needs_sound and not info.has_audio:
        raise UnreadableMediaError("there is no sound in it", where=name, cure="give a clip in which somebody speaks")
    rate = frame_rate or info.frame_rate
    check_decoded_size(limits, info, rate, height, width, name)
    sides = _sides(info, height, width)
    with seekable(source) as (place, fds), anonymous_file() as samples_file:
        picture = _picture_graph(place, info, rate, sides, tone_map, name)
        graph = _clip_graph(place, samples_file, info, picture, (sample_rate_hz, channels))
        pictures = bytearray()
        for data in stream_output(graph, name=name, fds=[*fds, samples_file.fileno()]):
            pictures += data
        samples = np.frombuffer(content(samples_file), dtype="<f4").reshape(-1, channels).T
    if needs_sound and np.abs(samples).max(initial=0.0) < SILENCE:
        raise UnreadableMediaError("its sound is silent", where=name, cure="give a clip in which somebody speaks")
    frames_FHWC = np.frombuffer(pictures, dtype=np.uint8).reshape(-1, *sides, 3)
    num_samples = round(len(frames_FHWC) / rate * sample_rate_hz)
    audio_CN = np.clip(cut_or_pad(samples.astype(np.float32), num_samples), -1.0, 1.0)
    return Clip(frames_FHWC, rate, np.ascontiguousarray(audio_CN), sample_rate_hz)


def read_lossless(
    path: Path, *, sides: tuple[int, int], frame_rate: Fraction, sample_rate_hz: int, channels: int
) -> Clip:
    """The clip that `lossless_bytes` wrote to a file, given its properties, so that it is decoded once.

    Raises:
        UnreadableMediaError: it cannot be decoded, or its frames have other sides, as after `lossless_bytes` with odd ones.
    """
    import ffmpeg

    with seekable(path) as (place, fds), anonymous_file() as samples_file:
        stored, options = ffmpeg.input(place, **ALLOWED), {"format": "f32le", "ac": channels, "ar": sample_rate_hz}
        graph = ffmpeg.merge_outputs(_raw(stored["V:0"]), stored["a:0"].output(url(samples_file), **options))
        graph = graph.global_args("-xerror").overwrite_output()
        pictures = read_output(graph, name=name_of(path), fds=[*fds, samples_file.fileno()])
        samples_NC = np.frombuffer(content(samples_file), dtype="<f4").reshape(-1, channels)
    if len(pictures) % (sides[0] * sides[1] * 3):
        raise UnreadableMediaError(
            f"its frames are not {sides[1]}x{sides[0]}", where=name_of(path), cure="remove the file: it is made again"
        )
    pictures_FHWC = np.frombuffer(pictures, dtype=np.uint8).reshape(-1, *sides, 3)
    return Clip(pictures_FHWC, frame_rate, np.ascontiguousarray(samples_NC.T), sample_rate_hz)


def frames(
    source: Source, info: MediaInfo, *, frame_rate: Fraction, height: int, width: int, tone_map: bool = False
) -> Iterator[np.ndarray]:
    """Yields the frames (H, W, 3) of `source`, resampled as `read` does; one frame is in memory at a time.

    Raises:
        UnreadableMediaError: it cannot be decoded, or is HDR without `tone_map`.
    """
    with seekable(source) as (place, fds):
        picture = _picture_graph(place, info, frame_rate, (height, width), tone_map, name_of(source))
        raw = _with_clock(_raw(picture), place, info)
        for block_N in stream_blocks(raw, height * width * 3, name=name_of(source), fds=fds):
            yield block_N.reshape(height, width, 3)


def stored_frames(
    source: Source, info: MediaInfo, *, frame_rate: Fraction, tone_map: bool = False
) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) of `source` in its stored pixels, which need not be square.

    Raises:
        UnreadableMediaError: as `frames`.
    """
    height, width = info.picture.height, info.picture.width
    with seekable(source) as (place, fds):
        picture = _source_picture(place, info, frame_rate, tone_map, name_of(source))
        picture = picture.filter("scale", flags=FAST_SCALING, **_input_matrix(info))
        for data in stream_blocks(
            _with_clock(_raw(picture), place, info), height * width * 3, name=name_of(source), fds=fds
        ):
            yield np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)


def film_frames(
    source: Source,
    info: MediaInfo,
    layout: Layout,
    *,
    tone_map: bool = False,
    span: tuple[int, int] | None = None,
    seeks: bool = False,
) -> Iterator[np.ndarray]:
    """The frames of `source` as flat arrays at its own rate, in the pixel format of `layout`.

    Where that is the file's own, the values are those of the decoder, bit by bit. `span` chooses frames by number, first
    and after the last. With `seeks` nothing far before it is decoded: only for `info.can_seek`, and a damaged index can
    still give other frames, which the caller must detect.

    Raises:
        UnreadableMediaError: as `frames`.
    """
    with seekable(source) as (place, fds):
        seek_seconds = max(0.0, float(span[0] / info.frame_rate) - _SEEK_MARGIN_SECONDS) if span and seeks else None
        picture = _source_picture(
            place, info, info.frame_rate, tone_map, name_of(source), span=span, seek_seconds=seek_seconds
        )
        if layout.pixel_format != info.picture.pixel_format.replace("yuvj", "yuv"):
            colour = info.colour(is_tone_mapped=bool(info.hdr)).conversion
            picture = picture.filter("scale", flags=SCALING, **_input_matrix(info), **colour)
        raw = _planar(picture, layout, info.colour(is_tone_mapped=bool(info.hdr)))
        graph = _with_clock(raw, place, info) if seek_seconds is None else raw.global_args(*_ABSOLUTE_TIME, "-xerror")
        for block_N in stream_blocks(graph, layout.num_bytes, name=name_of(source), fds=fds):
            yield block_N.view(layout.dtype)


def converted_frames(path: Path, layout: Layout, colour: Colour) -> Iterator[np.ndarray]:
    """The frames of an RGB file, scaled and converted to `layout` and `colour`, as flat arrays; every frame as stored.

    Raises:
        UnreadableMediaError: it cannot be decoded.
    """
    import ffmpeg

    with seekable(path) as (place, fds):
        picture = ffmpeg.input(place, **ALLOWED)["V:0"].filter(
            "scale", w=layout.width, h=layout.height, flags=FAST_SCALING, **colour.conversion
        )
        raw = _planar(picture, layout, colour).global_args("-xerror")
        for block_N in stream_blocks(raw, layout.num_bytes, name=name_of(path), fds=fds):
            yield block_N.view(layout.dtype)


def sound(
    source: Source,
    *,
    sample_rate_hz: int,
    channels: int,
    block_samples: int = SOUND_BLOCK_SAMPLES,
    track: int = 0,
    has_picture: bool = False,
) -> Iterator[np.ndarray]:
    """The sound of `source` from its picture's start, in blocks (N, C) of float32; nothing where it has none.

    `track` is an index of sound tracks, as `MediaInfo.track`. With `has_picture`, time counts from the earlier of both.

    Raises:
        UnreadableMediaError: it cannot be decoded.
    """
    import ffmpeg

    size, pending = block_samples * channels * 4, bytearray()
    with seekable(source) as (place, fds):
        audio = _sound_graph(ffmpeg.input(place, **ALLOWED), sample_rate_hz, track)
        graph = audio.output("pipe:", format="f32le", ac=channels, ar=sample_rate_hz)
        if has_picture:
            graph = ffmpeg.merge_outputs(graph, _beside(place, "V:0"))
        for data in stream_output(graph.global_args("-xerror"), name=name_of(source), fds=fds):
            pending += data
            while len(pending) >= size:
                block, pending = pending[:size], pending[size:]
                yield np.frombuffer(block, dtype="<f4").reshape(-1, channels)
    if pending:
        yield np.frombuffer(pending, dtype="<f4").reshape(-1, channels)


def metadata(source: Source) -> dict[str, str]:
    """The container's metadata, such as title and comment; names in lower case, since Matroska has them in capitals.

    Raises:
        UnreadableMediaError: it is not there or not media.
    """
    import ffmpeg

    with seekable(source) as (place, fds):
        text = read_output(
            ffmpeg.input(place, **ALLOWED).output("pipe:", format="ffmetadata"),
            name=name_of(source),
            fds=fds,
        )
    lines = (line for line in re.split(r"(?<!\\)\n", text.decode("utf-8", "replace")) if "=" in line)
    pairs = (re.split(r"(?<!\\)=", line, maxsplit=1) for line in lines if line[0] not in ";#")
    return {key.lower(): re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in pairs}


def _sides(info: MediaInfo, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width to read at: as given, a missing one in proportion."""
    tall = height or (max(1, round(info.height * width / info.width)) if width else info.height)
    wide = width or (max(1, round(info.width * height / info.height)) if height else info.width)
    return tall, wide


def _picture_graph(
    place: str, info: MediaInfo, rate: Fraction, sides: tuple[int, int], tone_map: bool, name: str
) -> Any:
    height, width = sides
    covering_height = max(height, round(width * info.height / info.width))
    covering_width = max(width, round(height * info.width / info.height))
    picture = _source_picture(place, info, rate, tone_map, name)
    # one filter squares the pixels, scales and converts: with two, FFmpeg would convert to RGB at full size
    picture = picture.filter("scale", w=covering_width, h=covering_height, flags=SCALING, **_input_matrix(info))
    return picture.filter("setsar", 1).filter("crop", width, height, exact=1)


def _source_picture(
    place: str,
    info: MediaInfo,
    rate: Fraction,
    tone_map: bool,
    name: str,
    *,
    span: tuple[int, int] | None = None,
    seek_seconds: float | None = None,
) -> Any:
    """The picture at `rate`, deinterlaced and tone mapped where needed, in stored pixels; `span` in frames at `rate`."""
    import ffmpeg

    if info.hdr and not tone_map:
        raise UnreadableMediaError(
            f"its picture is HDR ({info.hdr})", where=name, cure="convert it to BT.709, or use tone mapping"
        )
    seek = {} if seek_seconds is None else {"ss": f"{seek_seconds:.6f}", "noaccurate_seek": None}
    picture = ffmpeg.input(place, **seek, **ALLOWED)["V:0"]
    if info.picture.is_interlaced:
        picture = picture.filter("bwdif", mode="send_frame")
    # start_time and first_pts: a track that begins late is filled from the clip's start, not moved to it
    picture = picture.filter("fps", fps=str(rate), start_time=0)
    if span is not None:  # after a seek, `fps` fills the time before with the first frame, so numbers stay absolute
        picture = picture.filter("trim", start_frame=span[0], end_frame=span[1])
    for step, options in _TONE_MAPPED if info.hdr else ():
        picture = picture.filter(step, **options)
    return picture


def _input_matrix(info: MediaInfo) -> dict[str, str]:
    return {"in_color_matrix": info.matrix} if info.matrix else {}


def _planar(picture: Any, layout: Layout, colour: Colour) -> Any:
    is_full = colour.range == "pc" and layout.bits == 8  # FFmpeg's old name of full range; else it would convert
    return picture.output(
        "pipe:",
        format="rawvideo",
        fps_mode="passthrough",  # else frames would be repeated before a first one that is not at 0
        pix_fmt=layout.pixel_format.replace("yuv", "yuvj") if is_full else layout.pixel_format,
    )


def _with_clock(output: Any, place: str, info: MediaInfo) -> Any:
    import ffmpeg

    outputs = [output, _beside(place, "a:0")] if info.has_audio else [output]
    return ffmpeg.merge_outputs(*outputs).global_args("-xerror")


def _raw(picture: Any) -> Any:
    return picture.output("pipe:", format="rawvideo", pix_fmt="rgb24")


def _beside(place: str, stream_of: str) -> Any:
    """Returns an output that is discarded; with it FFmpeg counts time from the common start of picture and sound.

    From MPEG transport and program streams it counts from the first of the streams that it is told to read.
    """
    import ffmpeg

    return ffmpeg.input(place, **ALLOWED)[stream_of].output(os.devnull, format="null", c="copy")


def _sound_graph(source: Any, sample_rate_hz: int, track: int) -> Any:
    return source[f"a:{track}"].filter("aresample", sample_rate_hz, **{"async": 1, "first_pts": 0})


def _clip_graph(
    place: str, samples_file: IO[bytes], info: MediaInfo, picture: Any, audio_format: tuple[int, int]
) -> Any:
    import ffmpeg

    outs = [_raw(picture)]
    if info.has_audio:
        sample_rate_hz, channels = audio_format
        sound = _sound_graph(ffmpeg.input(place, **ALLOWED), sample_rate_hz, info.track)
        outs.append(sound.output(url(samples_file), format="f32le", ac=channels, ar=sample_rate_hz))
    return ffmpeg.merge_outputs(*outs).overwrite_output()
