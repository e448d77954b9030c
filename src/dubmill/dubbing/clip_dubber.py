"""The interface of whatever dubs one clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

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

    def check(self, line: Line, room_seconds: float) -> str:
        """A warning if `line` is hurried in `room_seconds`, else an empty string.

        Raises:
            UnsupportedTextError: the model cannot say the words, or not in that time.
        """
        ...
