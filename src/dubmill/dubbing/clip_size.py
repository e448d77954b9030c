"""The fixed clip size that an adapter dubs, and reading a video at that size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dubmill import media
from dubmill.artifacts.store import Release
from dubmill.errors import InvalidArtifactError, MediaTooLongError, UnreadableMediaError
from dubmill.media.clips import Clip

SLACK_SECONDS = 0.25  # a clip this much too long is cut, this much too short is padded, with a note
TONE_MAP_NOTE = "the picture was converted from HDR ({hdr}) to standard range"
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


def read_clip(
    video: bytes, size: ClipSize, limits: media.Limits, *, tone_map: bool, track: int | None = None
) -> tuple[Clip, tuple[str, ...]]:
    """The video as a clip of exactly `size`, and a sentence for each change that was needed.

    Raises:
        UnreadableMediaError: it cannot be read, or its length differs by more than `SLACK_SECONDS`.
    """
    try:
        info = media.probe(video, limits=limits, track=track)
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
        tone_map=tone_map,
        limits=limits,
        track=track,
    )
    notes = (*_conversion_notes(info, size), *_length_notes(clip, size), *_left_out_notes(info))
    return clip.lasting(size.num_frames), notes


def _left_out_notes(info: media.MediaInfo) -> list[str]:
    """A sentence for each part of the source that its dub does not have."""
    notes = []
    if len(info.tracks) > 1:
        tags = [f"{number} ({track.language or 'no language'})" for number, track in enumerate(info.tracks, start=1)]
        dubbed = tags.pop(info.track)
        notes.append(f"sound track {dubbed} is dubbed; left out: {', '.join(tags)}; choose with --track")
    if info.extras:
        notes.append(f"not carried over: {', '.join(info.extras)}")
    surplus_seconds = info.sound_seconds - info.seconds
    if surplus_seconds > SLACK_SECONDS:
        notes.append(f"the last {surplus_seconds:.1f} s of sound, after the end of the picture, were cut")
    return notes


def _conversion_notes(info: media.MediaInfo, size: ClipSize) -> list[str]:
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
    if info.hdr:
        notes.append(TONE_MAP_NOTE.format(hdr=info.hdr))
    return notes


def _length_notes(clip: Clip, size: ClipSize) -> list[str]:
    surplus = clip.num_frames - size.num_frames
    if not surplus:
        return []
    count = f"{abs(surplus)} frame(s), {float(abs(surplus) / size.frame_rate):.2f} s,"
    return [f"{count} were cut from the end" if surplus > 0 else f"{count} were added by holding the last frame"]
