"""What is asked of the dubbing service and what it answers, with the checks that need no decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dubmill import media
from dubmill.artifacts.rows import Line
from dubmill.dubbing.consent import Consent
from dubmill.dubbing.longform import Film, FilmStore, check_recording
from dubmill.errors import UnreadableMediaError
from dubmill.faces import FACE, check_face_choice, check_picture_choice
from dubmill.text.languages import language as language_of
from dubmill.text.subtitles import Cue


@dataclass(frozen=True)
class DubRequest:
    """A clip (the bytes of its file) to be dubbed, and who agreed; `face` as in `faces.check_face_choice`.

    `speaker` describes who speaks (`a woman`), for the caption; empty: anybody.
    """

    video: bytes
    line: Line
    consent: Consent | str
    seed: int
    face: str
    tone_map: bool = False
    track: int | None = None
    speaker: str = ""


@dataclass(frozen=True)
class DubResult:
    """A dubbed MP4 marked as machine-generated; `notes` say what was changed in the given clip, and what was kept."""

    mp4: bytes
    seconds: float
    seed: int
    model_version: str
    notes: tuple[str, ...]
    source_sha256: str


@dataclass(frozen=True)
class FileDubRequest:
    """A video file of any length to be dubbed, and who agreed; `face` as in `faces.check_face_choice`.

    `speaker` as in `DubRequest`. `words` are cues, or one text for a clip or to be distributed over the speech of a film.
    `picture` as in `faces.check_picture_choice`, `quality` as in `media.coding_like`.
    `voice` as in `longform.FilmJob`, `store` as in `longform.dub_film`; `film` is the opened file, where the caller has it.
    """

    path: Path
    words: Sequence[Cue] | str
    language: str
    consent: Consent | str
    seed: int
    tone_map: bool
    face: str
    track: int | None = None
    speaker: str = ""
    picture: str = FACE
    quality: int | None = None
    voice: Path | None = None
    store: FilmStore | None = None
    film: Film | None = None


@dataclass(frozen=True)
class FileDubResult:
    """Sentences for the user on the dub of a file, and the cues that it says now."""

    notes: tuple[str, ...]
    cues: Sequence[Cue]


def check_request(request: DubRequest) -> None:
    """Refuse what can be refused without decoding the clip.

    Raises:
        MissingConsentError: the statement names nobody.
        UsageError: the face choice is none.
        UnsupportedTextError: the language is unknown.
        UnreadableMediaError: there is no clip.
    """
    Consent.of(request.consent).check()
    language_of(request.line.language)
    check_face_choice(request.face)
    if not request.video:
        raise UnreadableMediaError("the request holds no clip", cure="send the bytes of a video")


def check_file_request(request: FileDubRequest) -> None:
    """Refuse what can be refused without decoding the video.

    Raises:
        MissingConsentError: the statement names nobody.
        UsageError: the choice of face, picture or quality is none.
        UnreadableMediaError: the recorded voice cannot be read, or is silent.
        UnsupportedTextError: the language is unknown.
    """
    Consent.of(request.consent).check()
    language_of(request.language)
    check_face_choice(request.face)
    check_picture_choice(request.picture)
    media.check_quality(request.quality)
    if request.voice is not None:
        check_recording(request.voice)
