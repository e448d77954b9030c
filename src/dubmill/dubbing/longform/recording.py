"""A recorded voice that is the dub's sound and that the lips follow: one on the film's clock, or one for each segment.

Axes: N samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.dubbing.clip_size import SLACK_SECONDS
from dubmill.dubbing.longform.background import LEVEL_RATE_HZ
from dubmill.dubbing.longform.chunks import Chunk
from dubmill.dubbing.longform.film import Film, SlidingWindow
from dubmill.errors import UnreadableMediaError, UsageError
from dubmill.media.clips import cut_or_pad

_QUIET = 10 ** (-50 / 20)  # of full scale: what is softer, such as the room after the words, may go on


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
    next(_speech_ends(path, media.SILENCE))


def check_segment_recordings(chunks: Sequence[Chunk]) -> None:
    """Refuses recordings of segments that cannot be read, are silent, or last longer than their segment, by decoding them.

    Raises:
        UsageError: with the file and the reason.
        UnreadableMediaError: as `check_recording`.
    """
    for chunk in chunks:
        for (start, end), path in zip(chunk.cues, chunk.recordings, strict=bool(chunk.recordings)):
            check_segment_recording(path, end - start)


def check_segment_recording(path: Path, room_seconds: float) -> None:
    """As `check_segment_recordings`, for one recording and the seconds of its segment; silence at its end may be longer.

    Raises:
        UsageError, UnreadableMediaError: with the file and the reason.
    """
    if not path.is_file():
        raise UsageError("the recording is not there", where=str(path), cure="put it back, or name another")
    seconds = max(_speech_ends(path, _QUIET))
    if seconds > room_seconds + SLACK_SECONDS:
        raise UsageError(
            f"somebody speaks in the recording until {seconds:.2f} s, and its segment lasts {room_seconds:.2f} s",
            where=str(path),
            cure="give the segment a later --end, or a shorter recording",
        )


def _speech_ends(path: Path, threshold: float) -> Iterator[float]:
    """Yields, block by block, the second in a recording after which the block's peak stays below `threshold` (of full scale).

    Raises:
        UnreadableMediaError: it cannot be read, or no block is louder.
    """
    num_samples, seconds = 0, 0.0
    for block in media.sound(path, sample_rate_hz=LEVEL_RATE_HZ, channels=1):
        loud = np.flatnonzero(np.abs(block[:, 0]) > threshold)
        if len(loud):
            seconds = float(num_samples + loud[-1] + 1) / LEVEL_RATE_HZ
            yield seconds
        num_samples += len(block)
    if not seconds:
        raise UnreadableMediaError("the recording is silent", where=str(path), cure="give one in which somebody speaks")


def chunk_voices(film: Film, path: Path | None, chunks: Sequence[Chunk]) -> Iterator[ChunkVoice | None]:
    """Yields each chunk's recorded sound: those of its segments, else its part of the recording at `path`, silence after its end.

    None where it has neither.
    """
    rates = film.size.sample_rate_hz, film.info.sample_rate_hz
    windows = [
        SlidingWindow(media.sound(path, sample_rate_hz=rate, channels=film.channels))
        for rate in rates
        if path is not None
    ]
    for chunk in chunks:
        if not chunk.recordings and path is None:
            yield None
        elif chunk.recordings:
            yield _voice(film, *(_placed(film, chunk, rate) for rate in rates))
        else:
            yield _voice(film, *(_part(film, *pair, chunk) for pair in zip(windows, rates, strict=True)))


def _voice(film: Film, model_CN: np.ndarray, film_CN: np.ndarray) -> ChunkVoice:
    return ChunkVoice(model_CN, media.wav_bytes(film_CN, film.info.sample_rate_hz))


def _placed(film: Film, chunk: Chunk, sample_rate_hz: int) -> np.ndarray:
    """The recordings of a chunk's segments (C, N), each where its segment begins."""
    start, stop = (film.sample_at(frame, sample_rate_hz) for frame in (chunk.first, chunk.last))
    voice_CN = np.zeros((film.channels, stop - start), np.float32)
    for (begin, _), path in zip(chunk.cues, chunk.recordings, strict=True):
        first = min(max(0, round(begin * sample_rate_hz) - start), stop - start)
        blocks = media.sound(path, sample_rate_hz=sample_rate_hz, channels=film.channels)
        part_CN = np.concatenate(list(blocks)).T[:, : stop - start - first]
        voice_CN[:, first : first + part_CN.shape[1]] += part_CN
    return voice_CN


def _part(film: Film, window: SlidingWindow, sample_rate_hz: int, chunk: Chunk) -> np.ndarray:
    start, stop = (film.sample_at(frame, sample_rate_hz) for frame in (chunk.first, chunk.last))
    return cut_or_pad(window.window(start, stop).reshape(-1, film.channels).T, stop - start)
