"""The fixed clip size that a release dubs, and reading a video at that size."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dubmill import media
from dubmill.artifacts.store import Release
from dubmill.errors import InvalidArtifactError, MediaTooLongError, UnreadableMediaError
from dubmill.media.clips import Clip

SLACK_SECONDS = 0.25  # a clip this much too long is cut, this much too short is padded, with a note
FILM_HINT = "dub it as a film, `dubmill dub FILM --script`, which no server does"


@dataclass(frozen=True)
class ClipSize:
    """The one clip size that a release dubs."""

    num_frames: int
    height: int
    width: int
    frame_rate: Fraction
    sample_rate_hz: int

    @classmethod
    def of(cls, release: Release) -> ClipSize:
        """The clip size that `release` was trained on.

        Raises:
            InvalidArtifactError: the release does not state it.
        """
        clip = release_info(release, "clip")
        try:
            return cls(
                num_frames=int(clip["num_frames"]),
                height=int(clip["height"]),
                width=int(clip["width"]),
                frame_rate=Fraction(str(clip["frame_rate"])).limit_denominator(1001),
                sample_rate_hz=int(clip["sample_rate_hz"]),
            )
        except (KeyError, ValueError) as error:
            raise InvalidArtifactError(
                f"its clip size cannot be read ({error})", where=str(release.path), cure="promote again"
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


def read_clip(video: bytes, size: ClipSize, limits: media.Limits) -> tuple[Clip, tuple[str, ...]]:
    """The video as a clip of exactly `size`, and a sentence for each change that was needed.

    Raises:
        UnreadableMediaError: it cannot be read, or its length differs by more than `SLACK_SECONDS`.
    """
    try:
        info = media.probe(video, limits=limits)
    except MediaTooLongError as error:
        raise MediaTooLongError(error.what, where=error.where, cure=f"cut it first, or {FILM_HINT}") from error
    surplus_seconds = info.seconds - size.seconds
    if abs(surplus_seconds) > SLACK_SECONDS:
        raise UnreadableMediaError(
            f"the clip lasts {info.seconds:.2f} s, and this model dubs clips of {size.seconds:.2f} s "
            f"({size.num_frames} frames at {float(size.frame_rate):g} a second)",
            cure=f"cut it to that length, or {FILM_HINT}" if surplus_seconds > 0 else "give one of that length",
        )
    clip = media.read(
        video,
        frame_rate=size.frame_rate,
        sample_rate_hz=size.sample_rate_hz,
        height=size.height,
        width=size.width,
        channels=min(info.channels, 2) or 1,  # a video without sound is refused by `read`
        limits=limits,
    )
    return clip.lasting(size.num_frames), (*_resampling_notes(info, size), *_length_notes(clip, size))


def _resampling_notes(info: media.MediaInfo, size: ClipSize) -> list[str]:
    notes = []
    if (info.width, info.height) != (size.width, size.height):
        notes.append(
            f"the picture was scaled and cropped from {info.width}x{info.height} to {size.width}x{size.height}"
        )
    if info.frame_rate != size.frame_rate:
        rates = f"{float(info.frame_rate):g} to {float(size.frame_rate):g}"
        notes.append(f"the picture was resampled from {rates} frames a second")
    if info.sample_rate_hz != size.sample_rate_hz:
        notes.append(f"the sound was resampled from {info.sample_rate_hz} to {size.sample_rate_hz} Hz")
    return notes


def _length_notes(clip: Clip, size: ClipSize) -> list[str]:
    surplus = clip.num_frames - size.num_frames
    if not surplus:
        return []
    count = f"{abs(surplus)} frame(s), {float(abs(surplus) / size.frame_rate):.2f} s,"
    return [f"{count} were cut from the end" if surplus > 0 else f"{count} were added by holding the last frame"]
