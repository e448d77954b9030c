"""The interface of whatever dubs one clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.media.clips import Clip


class ClipDubber(Protocol):
    """Dubs one clip of the release's size; `dubmill.dubbing.dubber.Dubber` is the implementation."""

    def dub(
        self,
        clip: Clip,
        *,
        line: Line,
        seed: int,
        progress: Callable[[float], None] | None = None,
        speaker: str = "",
    ) -> Clip:
        """`clip` with the same person saying `line`; `progress` is called with the share done, 0 to 1.

        `speaker` describes who speaks, such as `a woman`; empty: anybody.
        """
        ...

    def quick_dub(self, clip: Clip, *, line: Line, seed: int) -> tuple[Clip, float]:
        """A rough dub of few sampling steps, which uses all of the model, and the seconds that a whole one is estimated to take."""
        ...

    def follow_voice(
        self,
        clip: Clip,
        voice_CN: np.ndarray,
        *,
        line: Line,
        seed: int,
        progress: Callable[[float], None] | None = None,
        speaker: str = "",
    ) -> Clip:
        """`clip` with lips that follow a recording of `line`, (C, N) at the clip's sample rate, under that recording."""
        ...

    def detach(self) -> None:
        """Remove the adapter from a transformer that other dubbers share; this one cannot dub any more."""
        ...

    def check(self, line: Line, room_seconds: float) -> str:
        """A warning if `line` is hurried in `room_seconds`, else an empty string.

        Raises:
            UnsupportedTextError: the model cannot say the words, or not in that time.
        """
        ...


class BatchDubber(ClipDubber, Protocol):
    """A `ClipDubber` with the model in memory, which dubs several clips at once."""

    def dub_batch(
        self,
        clips: Sequence[Clip],
        lines: Sequence[Line],
        seeds: Sequence[int],
        progress: Callable[[float], None] | None = None,
        *,
        speakers: Sequence[str] = (),
    ) -> list[Clip]:
        """Dubs of clips of one size in one sampler call, each as `dub` alone makes it.

        Raises:
            GpuMemoryError: the GPU has too little memory for so many.
        """
        ...
