"""What a dub at a server is, without any protocol: read the clip, note the consent, dub, and mark the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dubmill import __version__, media
from dubmill.artifacts.files import sha256_of
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Release, read_manifest
from dubmill.dubbing.consent import Ledger, check_statement
from dubmill.dubbing.longform import Chunk, ClipSize, Dubbing, Film, Job, dub_film, told_of
from dubmill.errors import BadArtifact, UnreadableMedia
from dubmill.faces import Watch, check_choice, told
from dubmill.media.clips import Clip
from dubmill.text.languages import language as language_of
from dubmill.text.subtitles import Cue

SLACK_SECONDS = 0.25  # a clip this much too long or short is cut or held, and the answer says so
SELFTEST_SEED = 0
AS_A_FILM = "dub it as a film, `dubmill dub FILM --script`, which no server does"


@dataclass(frozen=True)
class DubRequest:
    """One clip (the bytes of its file) to be dubbed, and who agreed; `face` as in `faces.check_choice`."""

    video: bytes
    line: Line
    consent: str
    seed: int
    face: str


@dataclass(frozen=True)
class Dub:
    """An MP4 marked as machine-made; `notes` tell what had to be changed in the given clip, and what was left in it."""

    mp4: bytes
    seconds: float
    seed: int
    model_version: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FilmRequest:
    """A video of any length to be dubbed, and who agreed; `face` as in `faces.check_choice`.

    `words` are cues, or a text to be shared out over its speech.
    """

    path: Path
    words: Sequence[Cue] | str
    language: str
    consent: str
    seed: int
    tone_map: bool
    face: str


@dataclass(frozen=True)
class FilmDub:
    """What was done to a film, for a person, and the cues that it says now."""

    notes: tuple[str, ...]
    cues: Sequence[Cue]


@dataclass(frozen=True)
class Desk:
    """A loaded dubber with the release it came from, who looks for faces, and the ledger it writes to."""

    name: str
    release: Release
    dubber: Dubbing
    watch: Watch
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
            DubmillError: consent, language, words, media, faces or ledger are not in order.
        """
        check(asked)
        clip, notes = normalise(asked.video, ClipSize.of(self.release), self.limits)
        keep = self.watch.keep(clip, asked.face, start_seconds=0.0)
        marks = self._recorded(hashlib.sha256(asked.video).hexdigest(), asked.consent, asked.line.language)
        dubbed = self.dubber.dub(clip, line=asked.line, seed=asked.seed, progress=progress)
        mp4, notes = media.mp4_bytes(keep.laid(clip, dubbed), marks), (*notes, *told(keep.facts))
        return Dub(mp4=mp4, seconds=dubbed.seconds, seed=asked.seed, model_version=self.version, notes=notes)

    def dub_film(self, asked: FilmRequest, out: Path, progress: Callable[[float], None]) -> FilmDub:
        """Write the dub of a video of any length to `out`, its consent recorded before work begins.

        Raises:
            DubmillError: consent, language, words, media, faces or ledger are not in order.
        """
        check_statement(asked.consent)
        language_of(asked.language)
        check_choice(asked.face)
        film = Film.open(asked.path, ClipSize.of(self.release), limits=self.limits, tone_map=asked.tone_map)
        marks = self._recorded(sha256_of(asked.path), asked.consent, asked.language)
        words = Line(language=asked.language, text=asked.words) if isinstance(asked.words, str) else asked.words
        job = Job(self.dubber, asked.language, asked.seed, self.release.digest, self.watch, asked.face)
        made = dub_film(film, words, job, out, marks=marks, progress=progress)
        return FilmDub((*_film_notes(film, made.chunks), *made.notes), made.cues)

    def _recorded(self, source_sha256: str, consent: str, language: str) -> Mapping[str, str]:
        """Note the consent; the metadata that says a machine made it, from what, and with what."""
        release = self.release.digest
        self.ledger.record(source_sha256=source_sha256, statement=consent, language=language, release=release)
        model = self.release.info.get("name", self.name)  # as registered; the served name is only a URL
        return {
            "comment": f"machine-generated dub by dubmill {__version__}, model {model} {self.version}, "
            f"release sha256 {release}, source sha256 {source_sha256}, language {language}"
        }


def check(asked: DubRequest) -> None:
    """Refuse what can be refused without reading the clip.

    Raises:
        ConsentMissing: nobody agreed.
        UsageError: the choice of a face makes no sense.
        UnsayableText: the language is unknown.
        UnreadableMedia: there is no clip.
    """
    check_statement(asked.consent)
    language_of(asked.line.language)
    check_choice(asked.face)
    if not asked.video:
        raise UnreadableMedia("the request holds no clip", cure="send the bytes of a video")


def normalise(video: bytes, size: ClipSize, limits: media.Limits) -> tuple[Clip, tuple[str, ...]]:
    """The clip at exactly `size`, and a sentence for each change that took.

    Raises:
        UnreadableMedia: it cannot be read, or its length is off by more than `SLACK_SECONDS`.
    """
    try:
        info = media.probe(video, limits=limits)
    except media.TooLong as error:
        raise media.TooLong(error.what, where=error.where, cure=f"cut it first, or {AS_A_FILM}") from error
    surplus = info.seconds - size.seconds
    if abs(surplus) > SLACK_SECONDS:
        raise UnreadableMedia(
            f"the clip lasts {info.seconds:.2f} s, and this model dubs clips of {size.seconds:.2f} s "
            f"({size.num_frames} frames at {float(size.frame_rate):g} a second)",
            cure=f"cut it to that length, or {AS_A_FILM}" if surplus > 0 else "give one of that length",
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
    return clip.lasting(size.num_frames), (*_changes(info, size), *_length_changes(clip, size))


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


def _film_notes(film: Film, chunks: Sequence[Chunk]) -> tuple[str, ...]:
    size, told = film.size, film.info
    dubbed = sum(chunk.fall[1] - chunk.rise[0] for chunk in chunks) / size.frame_rate
    notes = [
        f"{len(chunks)} chunk(s), {float(dubbed):.1f} of {told.seconds:.1f} s, are dubbed; the rest is as it was",
        f"the dubbed picture was made at {size.width}x{size.height} and {float(size.frame_rate):g} frames a second, and "
        f"scaled to {told.width}x{told.height} and {float(told.frame_rate):g}",
    ]
    if told.channels > film.channels:
        notes.append(f"{told.channels} channels of sound were mixed down to {film.channels}")
    if told.hdr:
        notes.append(f"the picture was brought from HDR ({told.hdr}) to standard range")
    return tuple(notes)


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
    path, told = release.path / "selftest.clip", told_of(release, "selftest")
    if not path.is_file():
        raise BadArtifact("the release brings no selftest.clip", where=str(release.path), cure="promote again")
    return Clip.from_bytes(path.read_bytes()), Line(language=told["language"], text=told["text"])
