"""What a dub at a server is, without any protocol: read the clip, note the consent, dub, and mark the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from dubmill import __version__, media
from dubmill.artifacts import Release, read_manifest
from dubmill.clips import Clip, fit
from dubmill.errors import BadArtifact, UnreadableMedia
from dubmill.languages import language as language_of
from dubmill.rows import Line
from dubmill.serving.consent import Ledger, check_statement

SLACK_SECONDS = 0.25  # a clip this much too long or short is cut or held, and the answer says so
SELFTEST_SEED = 0


class Dubbing(Protocol):
    """The part of `dubmill.dubber.Dubber` that serving needs; this is all of it."""

    def dub(self, clip: Clip, *, line: Line, seed: int, progress: Callable[[float], None] | None = None) -> Clip: ...


@dataclass(frozen=True)
class DubRequest:
    """One clip (the bytes of its file) to be dubbed, and who agreed."""

    video: bytes
    line: Line
    consent: str
    seed: int


@dataclass(frozen=True)
class Dub:
    """An MP4 marked as machine-made; `notes` tell what had to be changed in the given clip."""

    mp4: bytes
    seconds: float
    seed: int
    model_version: str
    notes: tuple[str, ...]


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
        told = _told(release, "clip")
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


@dataclass(frozen=True)
class Desk:
    """A loaded dubber with the release it came from and the ledger it writes to."""

    name: str
    release: Release
    dubber: Dubbing
    ledger: Ledger
    limits: media.Limits

    @property
    def version(self) -> str:
        """The release's version in the registry, else the head of its digest."""
        return version_of(self.release)

    def selftest(self) -> None:
        """Dub the clip that the release brought along.

        Raises:
            BadArtifact: there is none, or its dub has another length, or is silent.
        """
        clip, line = selftest_of(self.release)
        dubbed = self.dubber.dub(clip, line=line, seed=SELFTEST_SEED)
        sound = np.abs(dubbed.audio_CN).max(initial=0.0)
        if dubbed.frames_FHWC.shape != clip.frames_FHWC.shape or not sound > media.SILENCE:  # `not >`: NaN fails too
            trouble = "is silent" if dubbed.frames_FHWC.shape == clip.frames_FHWC.shape else "has another size"
            raise BadArtifact(f"its self-test dub {trouble}", where=str(self.release.path), cure="promote another")
        media.mp4_bytes(dubbed)

    def dub(self, asked: DubRequest, progress: Callable[[float], None] | None = None) -> Dub:
        """The dub of one request, its consent recorded before work begins.

        Raises:
            DubmillError: consent, language, words, media or ledger are not in order.
        """
        check(asked)
        clip, notes = normalise(asked.video, ClipSize.of(self.release), self.limits)
        self.ledger.record(
            source=asked.video, statement=asked.consent, language=asked.line.language, release=self.release.digest
        )
        dubbed = self.dubber.dub(clip, line=asked.line, seed=asked.seed, progress=progress)
        mp4 = media.mp4_bytes(dubbed, self.marks(asked))
        return Dub(mp4=mp4, seconds=dubbed.seconds, seed=asked.seed, model_version=self.version, notes=notes)

    def marks(self, asked: DubRequest) -> Mapping[str, str]:
        """The metadata that says a machine made it, from what, and with what."""
        model = self.release.info.get("name", self.name)  # as registered; the served name is only a URL
        source = hashlib.sha256(asked.video).hexdigest()
        return {
            "comment": f"machine-generated dub by dubmill {__version__}, model {model} {self.version}, "
            f"release sha256 {self.release.digest}, source sha256 {source}, language {asked.line.language}"
        }


def check(asked: DubRequest) -> None:
    """Refuse what can be refused without reading the clip.

    Raises:
        ConsentMissing: nobody agreed.
        UnsayableText: the language is unknown.
        UnreadableMedia: there is no clip.
    """
    check_statement(asked.consent)
    language_of(asked.line.language)
    if not asked.video:
        raise UnreadableMedia("the request holds no clip", cure="send the bytes of a video")


def normalise(video: bytes, size: ClipSize, limits: media.Limits) -> tuple[Clip, tuple[str, ...]]:
    """The clip at exactly `size`, and a sentence for each change that took.

    Raises:
        UnreadableMedia: it cannot be read, or its length is off by more than `SLACK_SECONDS`.
    """
    info = media.probe(video, limits=limits)
    if abs(info.seconds - size.seconds) > SLACK_SECONDS:
        raise UnreadableMedia(
            f"the clip lasts {info.seconds:.2f} s, and this model dubs clips of {size.seconds:.2f} s "
            f"({size.num_frames} frames at {float(size.frame_rate):g} a second)",
            cure="cut it to that length",
        )
    clip = media.read(
        video,
        frame_rate=size.frame_rate,
        sample_rate_hz=size.sample_rate_hz,
        height=size.height,
        width=size.width,
        channels=min(info.channels, 2) or 1,  # none: `read` says so
        limits=limits,
    )
    return _fitted(clip, size.num_frames), (*_changes(info, size), *_length_changes(clip, size))


def _changes(info: media.MediaInfo, size: ClipSize) -> list[str]:
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


def _length_changes(clip: Clip, size: ClipSize) -> list[str]:
    surplus = clip.num_frames - size.num_frames
    if not surplus:
        return []
    count = f"{abs(surplus)} frame(s), {float(abs(surplus) / size.frame_rate):.2f} s,"
    return [f"{count} were cut from the end" if surplus > 0 else f"{count} were added by holding the last frame"]


def _fitted(clip: Clip, num_frames: int) -> Clip:
    short = num_frames - clip.num_frames
    if short <= 0:
        return clip.cut(0, num_frames)
    held = np.repeat(clip.frames_FHWC[-1:], short, axis=0)
    num_samples = round(num_frames / clip.frame_rate * clip.sample_rate_hz)
    frames = np.concatenate([clip.frames_FHWC, held])
    return replace(clip, frames_FHWC=frames, audio_CN=fit(clip.audio_CN, num_samples))


def version_of(release: Release) -> str:
    """The release's version in the registry, else the head of its digest."""
    return str(release.info.get("version") or release.digest[:12])


def languages_of(release: Release) -> list[str]:
    """The tags of the languages that the release's adapter was trained on."""
    return list(read_manifest(release.path / "adapter").info["languages"])


def selftest_of(release: Release) -> tuple[Clip, Line]:
    """The clip and line that a release proves itself with.

    Raises:
        BadArtifact: it brings none.
    """
    path, told = release.path / "selftest.clip", _told(release, "selftest")
    if not path.is_file():
        raise BadArtifact("the release brings no selftest.clip", where=str(release.path), cure="promote again")
    return Clip.from_bytes(path.read_bytes()), Line(language=told["language"], text=told["text"])


def _told(release: Release, name: str) -> Mapping[str, Any]:
    if name not in release.info:
        raise BadArtifact(f"the release does not tell its {name!r}", where=str(release.path), cure="promote again")
    return release.info[name]
