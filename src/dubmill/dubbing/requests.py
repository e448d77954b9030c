"""A request to dub a file and its result, with the checks that need no decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dubmill import media
from dubmill.dubbing.consent import Consent
from dubmill.dubbing.longform import Film, FilmStore, check_recording
from dubmill.errors import UsageError
from dubmill.faces import FACE, check_face_choice, check_picture_choice
from dubmill.text.languages import language as language_of
from dubmill.text.subtitles import Cue

MAX_DUCK_DB = 60.0


@dataclass(frozen=True)
class FileDubRequest:
    """A video file of any length to be dubbed, and who agreed; `face` as in `faces.check_face_choice`.

    `speaker` describes who speaks (`a woman`), for the caption; empty: anybody. `words` are cues, or one text for a clip or to be distributed over the speech of a film.
    `picture` as in `faces.check_picture_choice`, `quality` as in `media.coding_like`,
    `has_label` as in `longform.dub_film`.
    `voice` as in `longform.FilmJob`, `store` and `duck_db` as in `longform.dub_film`, `background` as in `longform.Film`; `film` is the opened file, where the caller has it.
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
    has_label: bool = False
    voice: Path | None = None
    background: Path | None = None
    duck_db: float = 0.0
    store: FilmStore | None = None
    film: Film | None = None


@dataclass(frozen=True)
class FileDubResult:
    """Sentences for the user on the dub of a file, and the cues that it says now."""

    notes: tuple[str, ...]
    cues: Sequence[Cue]


def check_file_request(request: FileDubRequest) -> None:
    """Refuse what can be refused without decoding the video.

    Raises:
        MissingConsentError: the statement names nobody.
        UsageError: the choice of face, picture or quality is none, or the background cannot be lowered so.
        UnreadableMediaError: the recorded voice cannot be read, or is silent.
        UnsupportedTextError: the language is unknown.
    """
    Consent.of(request.consent).check()
    language_of(request.language)
    check_face_choice(request.face)
    check_picture_choice(request.picture)
    media.check_quality(request.quality)
    if not 0.0 <= request.duck_db <= MAX_DUCK_DB:
        cure = f"give 0 to {MAX_DUCK_DB:g}"
        raise UsageError(f"the background cannot be lowered by {request.duck_db:g} dB", where="--duck", cure=cure)
    if request.voice is not None:
        check_recording(request.voice)
