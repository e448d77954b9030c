"""Loudness by EBU R 128, measured by FFmpeg."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from dubmill.media.writing import feed

SILENCE_LUFS = -70.0  # absolute gate of R 128: quieter sound does not count


def loudness(blocks: Iterable[np.ndarray], *, sample_rate_hz: int, channels: int) -> float:
    """Integrated loudness in LUFS of sound that comes in blocks (N, C); `SILENCE_LUFS` for silence or under 0.4 s.

    Source: EBU R 128 and ITU-R BS.1770, by FFmpeg's ebur128; a quiet block counts only if it is within 10 LU of the
    rest, so pauses do not make speech quieter.
    """
    import ffmpeg

    graph = ffmpeg.input("pipe:", format="f32le", ar=sample_rate_hz, ac=channels)
    graph = graph.filter("ebur128", framelog="quiet").output("pipe:", format="null", v="info")
    messages = feed(graph, (block.astype("<f4") for block in blocks), fds=[])
    found = re.search(r"I: +(-?[\d.]+|-?inf|nan) LUFS", messages)
    lufs = float(found[1]) if found else SILENCE_LUFS
    return max(lufs, SILENCE_LUFS) if np.isfinite(lufs) else SILENCE_LUFS
