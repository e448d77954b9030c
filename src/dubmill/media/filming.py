"""Writes a film: its picture frame by frame, the dubbed sound, and what else the source holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dubmill.errors import UsageError
from dubmill.media.carrying import CarriedStreams
from dubmill.media.coding import Coding, sound_options
from dubmill.media.layout import Colour, Layout
from dubmill.media.process import ALLOWED, BITEXACT
from dubmill.media.writing import feed, metadata_options


def write_film(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    coding: Coding,
    colour: Colour,
    frame_rate: Fraction,
    pixel_aspect: Fraction = Fraction(1),
    wav: Path,
    sound_codec: str,
    sample_rate_hz: int,
    channels: int,
    metadata: Mapping[str, str],
    language: str = "",
    source: Path | None = None,
    carried: CarriedStreams | None = None,
) -> None:
    """Write a film from flat frames in `coding.layout` that come one by one, and the sound in `wav`.

    `language` is an ISO 639-2 tag for the sound. Streams in `carried`, and chapters, are taken from `source`.

    Raises:
        UsageError: no frames, or a metadata key that is not carried.
        DiskFullError: the disk is full.
        UnreadableMediaError: FFmpeg failed.
    """
    import ffmpeg

    picture = _picture_input(coding.padded_layout, frame_rate, colour, pixel_aspect)
    options = {**coding.options, **sound_options(coding.container, sound_codec, sample_rate_hz, channels)}
    options |= metadata_options(metadata, language)
    exact = {"threads": 1, "fflags": BITEXACT, "flags:v": BITEXACT, "flags:a": BITEXACT, "map_metadata": -1}
    streams = [picture, ffmpeg.input(f"file:{wav.absolute()}")["a:0"]]
    if source is not None and carried is not None:
        original = ffmpeg.input(f"file:{source.absolute()}", **ALLOWED)
        streams += carried.streams(original)
        options |= carried.options(coding.container.muxer)
    graph = ffmpeg.output(*streams, f"file:{path.absolute()}", **options, **exact).overwrite_output()
    feed(graph, _padded(frames, coding), fds=[])


def _picture_input(layout: Layout, frame_rate: Fraction, colour: Colour, pixel_aspect: Fraction) -> Any:
    import ffmpeg

    size = f"{layout.width}x{layout.height}"
    picture = ffmpeg.input("pipe:", format="rawvideo", pix_fmt=layout.pixel_format, s=size, r=str(frame_rate))
    if colour.tags:
        picture = picture.filter("setparams", **colour.tags)
    return picture.filter("setsar", f"{pixel_aspect.numerator}/{pixel_aspect.denominator}")


def _padded(frames: Iterable[np.ndarray], coding: Coding) -> Iterator[np.ndarray]:
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise UsageError("a film without frames cannot be a video")
    is_padded = coding.padded_layout != coding.layout
    for frame in chain([first], remaining):
        yield coding.layout.with_even_sides(frame) if is_padded else frame
