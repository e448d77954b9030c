"""The one size of clip that a model dubs, and what may stand for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Release
from dubmill.errors import BadArtifact
from dubmill.media.clips import Clip


class Dubbing(Protocol):
    """The part of `dubmill.dubbing.dubber.Dubber` that serving and long films need; this is all of it."""

    def dub(self, clip: Clip, *, line: Line, seed: int, progress: Callable[[float], None] | None = None) -> Clip: ...

    def check(self, line: Line, room_seconds: float) -> str: ...


@dataclass(frozen=True)
class ClipSize:
    """The one size of clip that a release dubs."""

    num_frames: int
    height: int
    width: int
    frame_rate: Fraction
    sample_rate_hz: int

    @classmethod
    def of(cls, release: Release) -> ClipSize:
        """The size that `release` was trained on.

        Raises:
            BadArtifact: it does not say.
        """
        told = told_of(release, "clip")
        try:
            whole = {name: int(told[name]) for name in ("num_frames", "height", "width", "sample_rate_hz")}
            rate = Fraction(str(told["frame_rate"])).limit_denominator(1001)
            return cls(frame_rate=rate, **whole)
        except (KeyError, ValueError) as error:
            raise BadArtifact(
                f"its clip size cannot be read ({error})", where=str(release.path), cure="promote again"
            ) from error

    @property
    def seconds(self) -> float:
        """Length of such a clip."""
        return float(self.num_frames / self.frame_rate)


def told_of(release: Release, name: str) -> Mapping[str, Any]:
    """What the release tells under `name`.

    Raises:
        BadArtifact: nothing.
    """
    if name not in release.info:
        raise BadArtifact(f"the release does not tell its {name!r}", where=str(release.path), cure="promote again")
    return release.info[name]
