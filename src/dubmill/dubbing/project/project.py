"""The folder of a film's dub: settings, the table of segments, a lock, and what was made so far.

project.json    the film, its languages and the model
segments.csv    the table, see `table`
work/           analysis, faces and source clips, and in `takes` the dub of every chunk
renders/        the dubbed films
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from dubmill import media
from dubmill.artifacts.files import hash_file, sha256_of, write_atomically
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.consent import Consent
from dubmill.dubbing.longform import Film, FilmStore, Segment
from dubmill.dubbing.longform.film import Progress, no_progress
from dubmill.dubbing.output import check_writable
from dubmill.dubbing.project.fitting import LineFitter, fit_rows
from dubmill.dubbing.project.table import Row, Target, check_row, check_rows, read_table, without_fitting, write_table
from dubmill.errors import ChangedArtifactError, InvalidArtifactError, UsageError
from dubmill.text.subtitles import Cue

SETTINGS, TABLE, LOCK, FACTS, WORK = "project.json", "segments.csv", ".lock", "film.json", "work"


class BusyProjectError(UsageError):
    """Another process works on the project."""


class ProjectSettings(BaseModel):
    """What `film new` was given: the film, the languages, who agreed, and the model.

    `adapter` empty: the release. `audio`: the recorded voice of a language, where it has one. `label`: the visible label is burned in. `background` as in `longform.Film`, in full or from the project's folder; `duck_db` as in `longform.dub_film`. Other values as in `requests.FileDubRequest`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    film: Path
    source_language: str
    languages: tuple[str, ...]
    consent: str | Consent
    release: Path
    adapter: Path | None
    params: Path
    overlay: tuple[str, ...]
    backbone: Path
    seed: int
    tone_map: bool
    track: int | None
    face: str
    picture: str
    quality: int | None
    container: str
    audio: dict[str, Path] = {}  # a default: older projects have none
    label: bool = False  # a default: older projects have none
    background: Path | None = None  # a default: older projects have none
    duck_db: float = 0.0  # a default: older projects have none

    @property
    def overlay_files(self) -> list[Path]:
        """The overlays as `params.load` takes them: files, and names of presets."""
        return [Path(name) for name in self.overlay]


@dataclass(frozen=True)
class KnownFile:
    """The digest of a file as it was when it was read."""

    size_bytes: int
    changed_ns: int
    inode: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> KnownFile:
        """The file now, read to its end where this process has not read it."""
        state = path.stat()
        return cls(state.st_size, state.st_mtime_ns, state.st_ino, sha256_of(path))

    def is_still(self, state: os.stat_result) -> bool:
        """Whether a file is this one."""
        return (self.size_bytes, self.changed_ns, self.inode) == (state.st_size, state.st_mtime_ns, state.st_ino)


@dataclass(frozen=True)
class FilmFacts:
    """What is known of a film's file, and of its background, while their sizes and times of change stay the same."""

    size_bytes: int
    changed_ns: int
    sha256: str
    info: media.MediaInfo
    background: KnownFile | None = None  # a default: older projects have none


@dataclass(frozen=True)
class FilmProject:
    """An opened project: its settings and its segments in order of time."""

    folder: Path
    settings: ProjectSettings
    rows: tuple[Row, ...]

    @classmethod
    def create(
        cls, folder: Path, settings: ProjectSettings, rows: Sequence[Row], film: Film, progress: Progress = no_progress
    ) -> FilmProject:
        """A new project in `folder`, which is complete when its settings are written, last.

        Raises:
            UsageError: there is one already, or the folder holds something else.
        """
        check_new(folder)
        project = cls(folder, settings, tuple(rows))
        project.store.folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            check_rows([check_row(row, str(settings.film)) for row in rows], str(settings.film))
            project.store.analysis(film, progress)
            state, background = film.path.stat(), KnownFile.of(film.background) if film.background else None
            facts = FilmFacts(state.st_size, state.st_mtime_ns, film.sha256, film.info, background)
            _write_facts(project.store.folder / FACTS, facts)
            project.save_with_settings()
        return project

    @classmethod
    def open(cls, folder: Path) -> FilmProject:
        """The project in `folder`.

        Raises:
            UsageError: there is none, or its table cannot be used.
            InvalidArtifactError: its settings cannot be read.
        """
        path = folder / SETTINGS
        if not path.is_file():
            raise UsageError("there is no project", where=str(folder), cure="make one with `dubmill film new`")
        try:
            settings = ProjectSettings.model_validate_json(path.read_text())
        except (ValidationError, UnicodeDecodeError) as error:
            detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise InvalidArtifactError(
                f"the settings cannot be read ({detail})", where=str(path), cure="put back the values of `film new`"
            ) from error
        return cls(folder, settings, tuple(read_table(folder / TABLE, settings.languages)))

    @property
    def background(self) -> Path | None:
        """The recording of the film's music and effects, where the project has one."""
        return self.settings.background and self.folder / self.settings.background

    @property
    def store(self) -> FilmStore:
        """What was read from the film, and the dubs made so far."""
        return FilmStore(self.folder / WORK, keeps_source=True)

    def save(self) -> None:
        """Write the table."""
        write_table(self.folder / TABLE, self.rows, self.settings.languages)

    def save_with_settings(self) -> None:
        """Write the table, and then the settings: columns of a language that they do not name yet are not read."""
        self.save()
        write_atomically(self.folder / SETTINGS, self.settings.model_dump_json(indent=1).encode() + b"\n")

    def with_script(self, cues: Sequence[Cue], language: str, fit: LineFitter) -> FilmProject:
        """The project with the words of a translated script in `language`, which is added where it is new; not saved yet.

        Segments keep their recordings.

        Raises:
            UsageError: the cues do not suit the segments, or a segment with a recording has no words.
        """
        words = match_targets(self.rows, cues, language, "script")
        texts = {row.id: " ".join(words.get(row.id, "").split()) for row in self.rows}
        kept = {row.id: row.targets.get(language, Target()).without_fitting for row in self.rows}
        rows = [
            replace(row, targets={**row.targets, language: replace(kept[row.id], text=texts[row.id])})
            for row in self.rows
        ]
        languages = tuple(dict.fromkeys([*self.settings.languages, language]))
        settings = self.settings.model_copy(update={"languages": languages})
        return replace(self, settings=settings).with_rows(fit_rows(rows, language, self.film_seconds, fit))

    def segments(self, language: str) -> list[Segment]:
        """The segments that have words in `language`."""
        return [row.segment(language) for row in self.rows if row.targets[language].text]

    def film(self, size: ClipSize) -> Film:
        """The film, without decoding it where its file is unchanged.

        Raises:
            UsageError: it is not there.
            ChangedArtifactError: it is another film now.
        """
        path, settings = self.settings.film, self.settings
        try:
            state = path.stat()
            background = self.background and self.background.stat()
        except OSError as error:
            what = f"the project's {'film' if str(error.filename) == str(path) else 'background'} is not there ({error.strerror})"
            raise UsageError(what, where=str(error.filename), cure=f"put it back, or correct {SETTINGS}") from error
        facts = _read_facts(self.store.folder / FACTS)
        is_unchanged = (state.st_size, state.st_mtime_ns) == (facts.size_bytes, facts.changed_ns)
        if not is_unchanged and hash_file(path) != facts.sha256:
            raise ChangedArtifactError(
                "the film is another one than the project was made for", where=str(path), cure="make a new project"
            )
        known = facts.background if facts.background and background and facts.background.is_still(background) else None
        film = Film(path, facts.info, size, settings.tone_map, facts.sha256, self.background)
        return replace(film, known_background_sha256=known.sha256) if known else film

    def remember_background(self) -> None:
        """Keep the digest of a background that is not the one of before; the caller holds the project's lock alone."""
        path, background = self.store.folder / FACTS, self.background
        facts = _read_facts(path)
        if background and not (facts.background and facts.background.is_still(background.stat())):
            _write_facts(path, replace(facts, background=KnownFile.of(background)))

    @property
    def film_seconds(self) -> float:
        """Length of the film's picture."""
        return _read_facts(self.store.folder / FACTS).info.seconds

    def edited(self, row: Row, fit: LineFitter) -> FilmProject:
        """The project with `row` in place of the one of its name, and its words, and those that reached into it, fitted anew.

        Raises:
            UsageError: see `with_rows`.
        """
        reaching = [
            other
            for other in self.rows
            if other.start_seconds < row.start_seconds < other.last_end_seconds and other.id != row.id
        ]
        project = self.with_rows([without_fitting(other) for other in (*reaching, row)])
        rows: Sequence[Row] = project.rows
        for language in self.settings.languages:
            rows = fit_rows(rows, language, self.film_seconds, fit)
        changed = {row.id, *(other.id for other in reaching)}
        return project.with_rows([other for other in rows if other.id in changed])

    def row(self, name: str) -> Row:
        """The segment called `name`.

        Raises:
            UsageError: there is none.
        """
        found = next((row for row in self.rows if row.id == name), None)
        if found is None:
            known = ", ".join(row.id for row in self.rows[:8])
            raise UsageError(f"there is no segment {name!r}", where=str(self.folder), cure=f"they are {known} …")
        return found

    def with_rows(self, changed: Sequence[Row]) -> FilmProject:
        """The project with the given segments in place of those of the same names, checked and not saved yet.

        Raises:
            UsageError: a segment is not in order, or overlaps another.
        """
        by_id = {row.id: check_row(row, str(self.folder)) for row in changed}
        rows = sorted((by_id.get(row.id, row) for row in self.rows), key=lambda row: row.start_seconds)
        check_rows(rows, str(self.folder))
        return replace(self, rows=tuple(rows))


def check_new(folder: Path) -> None:
    """Refuse a folder in which no project can be made.

    Raises:
        UsageError: there is one already, or the folder holds something else.
    """
    if (folder / SETTINGS).exists():
        raise UsageError("there is a project already", where=str(folder), cure="give another --project")
    left_behind = {TABLE, LOCK, WORK}  # by a killed `film new`
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - left_behind):
        raise UsageError("this is no empty folder", where=str(folder), cure="give another --project")
    check_writable(folder / SETTINGS)


@contextmanager
def locked(folder: Path, *, is_shared: bool = False) -> Iterator[None]:
    """Holds the project's lock; processes that only make dubs share it. The kernel frees it when a process is killed.

    Raises:
        BusyProjectError: another process holds it.
    """
    try:
        stream = (folder / LOCK).open("ab")
    except OSError as error:
        raise UsageError(
            f"the project cannot be used ({error.strerror})", where=str(folder), cure="give a project's folder"
        ) from error
    with stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyProjectError(
                "another process works on this project", where=str(folder), cure="wait until it has ended"
            ) from error
        yield


def match_targets(rows: Sequence[Row], cues: Sequence[Cue], language: str, where: str) -> dict[str, str]:
    """The words of a translated script by segment: each cue belongs to the segment that it overlaps most.

    Raises:
        UsageError: a cue overlaps no segment, or two belong to one.
    """
    words: dict[str, str] = {}
    for cue in cues:
        overlaps = {
            row.id: min(row.end_seconds, cue.end_seconds) - max(row.start_seconds, cue.start_seconds) for row in rows
        }
        best = max(overlaps, key=overlaps.__getitem__)
        if overlaps[best] <= 0 or best in words:
            is_apart = overlaps[best] <= 0
            trouble = "is where the first script has no words" if is_apart else "shares its segment with another"
            cure = f"give {language} a script with the times of the first one"
            raise UsageError(f"the cue at {cue.start_seconds:.2f} s {trouble}", where=where, cure=cure)
        words[best] = cue.text
    return words


def _write_facts(path: Path, facts: FilmFacts) -> None:
    write_atomically(path, TypeAdapter(FilmFacts).dump_json(facts, indent=1))


def _read_facts(path: Path) -> FilmFacts:
    try:
        return TypeAdapter(FilmFacts).validate_json(path.read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise InvalidArtifactError(
            "what was known of the film is gone", where=str(path), cure="make the project again; keep its segments.csv"
        ) from error
