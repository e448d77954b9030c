"""A recorded voice, on the film's clock, that is the dub's sound and that the lips follow.

Axes: N samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.dubbing.longform.chunks import Chunk
from dubmill.dubbing.longform.film import Film, SlidingWindow
from dubmill.errors import UnreadableMediaError
from dubmill.media.clips import cut_or_pad


@dataclass(frozen=True)
class ChunkVoice:
    """A chunk's part of a recording: (C, N) at the model's sample rate, and a WAV at the film's."""

    audio_CN: np.ndarray
    wav: bytes


def check_recording(path: Path) -> None:
    """Refuses a recording that cannot be read or is silent, by decoding it.

    Raises:
        UnreadableMediaError: with the reason.
    """
    blocks = media.sound(path, sample_rate_hz=16000, channels=1)
    if not any(np.abs(block).max(initial=0.0) > media.SILENCE for block in blocks):
        raise UnreadableMediaError("the recording is silent", where=str(path), cure="give one in which somebody speaks")


def chunk_voices(film: Film, path: Path, chunks: Sequence[Chunk]) -> Iterator[ChunkVoice]:
    """Yields each chunk's part of the recording at `path`; silence after its end."""
    rates = film.size.sample_rate_hz, film.info.sample_rate_hz
    windows = [SlidingWindow(media.sound(path, sample_rate_hz=rate, channels=film.channels)) for rate in rates]
    for chunk in chunks:
        model_CN, film_CN = (_part(film, window, chunk, rate) for window, rate in zip(windows, rates, strict=True))
        yield ChunkVoice(model_CN, media.wav_bytes(film_CN, film.info.sample_rate_hz))


def _part(film: Film, window: SlidingWindow, chunk: Chunk, sample_rate_hz: int) -> np.ndarray:
    start, stop = (film.sample_at(frame, sample_rate_hz) for frame in (chunk.first, chunk.last))
    return cut_or_pad(window.window(start, stop).reshape(-1, film.channels).T, stop - start)
