"""The fixed clip size that an adapter dubs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dubmill.artifacts.store import Release
from dubmill.errors import InvalidArtifactError

SLACK_SECONDS = 0.25  # a clip may be this much longer
FILM_HINT = "dub it as a film, `dubmill dub FILM --script`, or as a job of the endpoint, POST /v1/dubs"


@dataclass(frozen=True)
class ClipSize:
    """The one clip size that an adapter dubs."""

    num_frames: int
    height: int
    width: int
    frame_rate: Fraction
    sample_rate_hz: int

    @classmethod
    def from_info(cls, info: Mapping[str, Any], where: str) -> ClipSize:
        """The clip size in the entry `clip` of an adapter's or release's info; `where` names the artifact.

        Raises:
            InvalidArtifactError: it cannot be read.
        """
        try:
            return cls(
                num_frames=int(info["num_frames"]),
                height=int(info["height"]),
                width=int(info["width"]),
                frame_rate=Fraction(str(info["frame_rate"])).limit_denominator(1001),
                sample_rate_hz=int(info["sample_rate_hz"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArtifactError(
                f"its clip size cannot be read ({error})", where=where, cure="make the artifact again"
            ) from error

    @property
    def seconds(self) -> float:
        """Length of such a clip."""
        return float(self.num_frames / self.frame_rate)


def release_info(release: Release, name: str) -> Any:
    """The entry `name` of the release's info.

    Raises:
        InvalidArtifactError: there is no such entry.
    """
    if name not in release.info:
        raise InvalidArtifactError(
            f"the release does not state its {name!r}", where=str(release.path), cure="promote again"
        )
    return release.info[name]
