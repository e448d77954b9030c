"""Makes a film's background, its music and effects without speech, with a separator, window by window.

Axes: N samples, C channels.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.artifacts.files import digest_of
from dubmill.dubbing.longform.film import Film, Progress, SlidingWindow, no_progress
from dubmill.media.clips import cut_or_pad
from dubmill.providers import SEPARATION_RATE_HZ, Separator

_WINDOW_SECONDS = 30  # of sound that is separated at once
_CONTEXT_SECONDS = 2  # of sound that the model hears before and after it


def separated_background(film: Film, separator: Separator, folder: Path, progress: Progress = no_progress) -> Path:
    """The recording of the film's sound less the speech in it, made in `folder` on first use.

    Only the speech is resampled: all that the separator does not take for speech stays to the sample.

    Raises:
        DiskFullError: the disk is full.
    """
    path = folder / f"background-{digest_of([film.sha256, film.info.track, separator.digest])[:16]}.wav"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    speech, partial = (path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial") for _ in range(2))
    rate, channels = film.info.sample_rate_hz, film.channels
    try:
        blocks = _speech_blocks(film, separator, progress)
        media.write_sound(speech, blocks, sample_rate_hz=SEPARATION_RATE_HZ, channels=channels)
        rest = replace(film, background=speech).speech(rate, channels)  # all but that recording
        media.write_sound(partial, rest, sample_rate_hz=rate, channels=channels)
        partial.replace(path)
    finally:
        for file in (speech, partial):
            file.unlink(missing_ok=True)
    return path


def _speech_blocks(film: Film, separator: Separator, progress: Progress) -> Iterator[np.ndarray]:
    """The speech in the film in blocks (N, C) at the separator's rate."""
    step, context = (seconds * SEPARATION_RATE_HZ for seconds in (_WINDOW_SECONDS, _CONTEXT_SECONDS))
    window, start = SlidingWindow(film.sound(SEPARATION_RATE_HZ, film.channels)), 0
    while True:
        low = max(0, start - context)
        sound_NC = window.window(low, start + step + context).reshape(-1, film.channels)
        if low + len(sound_NC) <= start:
            return
        stereo_CN = sound_NC.T if film.channels == 2 else np.repeat(sound_NC.T, 2, axis=0)
        speech_CN = cut_or_pad(separator.speech(stereo_CN), len(sound_NC))
        speech_CN = speech_CN if film.channels == 2 else speech_CN.mean(axis=0, keepdims=True)
        yield speech_CN[:, start - low :][:, :step].T
        start += step
        progress(min(1.0, start / SEPARATION_RATE_HZ / film.info.seconds))
