"""Writes a film: its picture in pieces that are encoded on their own, then these joined with the dubbed sound and what else the source holds.

A piece begins with a keyframe and refers to no other, so an unchanged piece is encoded once and copied into every later film.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dubmill.errors import UsageError
from dubmill.media.carrying import CarriedStreams
from dubmill.media.coding import Coding, sound_options
from dubmill.media.layout import Colour, Layout
from dubmill.media.process import ALLOWED, BITEXACT, anonymous_file, fill, url
from dubmill.media.writing import feed, metadata_options

EncodedPiece = tuple[Path, int]
"""A file that `write_piece` wrote, and its number of frames."""


def write_piece(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    coding: Coding,
    colour: Colour,
    frame_rate: Fraction,
    pixel_aspect: Fraction = Fraction(1),
) -> None:
    """Encode flat frames in `coding.layout` that come one by one as a piece of a film's picture.

    Raises:
        UsageError: no frames.
        DiskFullError: the disk is full.
        UnreadableMediaError: FFmpeg failed.
    """

    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise UsageError("a film without frames cannot be a video")
    picture = _picture_input(coding.padded_layout, frame_rate, colour, pixel_aspect)
    exact = {"threads": 1, "fflags": BITEXACT, "flags:v": BITEXACT, "map_metadata": -1}
    out = picture.output(f"file:{path.absolute()}", format=coding.piece_muxer, **coding.video_options, **exact)
    feed(out.overwrite_output(), _padded(chain([first], remaining), coding), fds=[])


def write_film(
    path: Path,
    pieces: Sequence[EncodedPiece],
    *,
    coding: Coding,
    frame_rate: Fraction,
    wav: Path,
    sound_codec: str,
    sample_rate_hz: int,
    channels: int,
    metadata: Mapping[str, str],
    language: str = "",
    source: Path | None = None,
    carried: CarriedStreams | None = None,
) -> None:
    """Write a film from the encoded pieces of its picture, which are copied, and the sound in `wav`.

    `language` is an ISO 639-2 tag for the sound. Streams in `carried`, and chapters, are taken from `source`.

    Raises:
        UsageError: a metadata key that is not carried.
        DiskFullError: the disk is full.
        UnreadableMediaError: FFmpeg failed.
    """
    import ffmpeg

    options = {**coding.container_options, **sound_options(coding.container, sound_codec, sample_rate_hz, channels)}
    options |= metadata_options(metadata, language)
    exact = {"threads": 1, "fflags": BITEXACT, "flags:v": BITEXACT, "flags:a": BITEXACT, "map_metadata": -1}
    with anonymous_file() as script:
        fill(script, np.frombuffer(_concat_script(pieces, frame_rate).encode(), np.uint8))
        picture = ffmpeg.input(url(script), format="concat", safe=0, protocol_whitelist="file")["v:0"]
        streams = [picture, ffmpeg.input(f"file:{wav.absolute()}")["a:0"]]
        if source is not None and carried is not None:
            original = ffmpeg.input(f"file:{source.absolute()}", **ALLOWED)
            streams += carried.streams(original)
            options |= carried.options(coding.container.muxer)
        graph = ffmpeg.output(*streams, f"file:{path.absolute()}", vcodec="copy", **options, **exact)
        feed(graph.overwrite_output(), (), fds=[script.fileno()])


def _concat_script(pieces: Sequence[EncodedPiece], frame_rate: Fraction) -> str:
    """The script of FFmpeg's concat demuxer, which counts in microseconds.

    Each duration is a difference of rounded absolute times: no frame is off by more than half a microsecond at any length.
    """
    ends = accumulate((count for _, count in pieces), initial=0)
    edges = pairwise(round(end / frame_rate * 1_000_000) for end in ends)
    lines = ["ffconcat version 1.0"]
    for (path, _), (start, stop) in zip(pieces, edges, strict=True):
        name = str(path.absolute()).replace("'", "'\\''")
        lines += [f"file '{name}'", f"duration {stop - start}us"]
    return "\n".join(lines) + "\n"


def _picture_input(layout: Layout, frame_rate: Fraction, colour: Colour, pixel_aspect: Fraction) -> Any:
    import ffmpeg

    size = f"{layout.width}x{layout.height}"
    picture = ffmpeg.input("pipe:", format="rawvideo", pix_fmt=layout.pixel_format, s=size, r=str(frame_rate))
    if colour.tags:
        picture = picture.filter("setparams", **colour.tags)
    return picture.filter("setsar", f"{pixel_aspect.numerator}/{pixel_aspect.denominator}")


def _padded(frames: Iterable[np.ndarray], coding: Coding) -> Iterator[np.ndarray]:
    is_padded = coding.padded_layout != coding.layout
    for frame in frames:
        yield coding.layout.with_even_sides(frame) if is_padded else frame
