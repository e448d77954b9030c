"""Film projects that are served: a folder for each, with the film, what was sent, and in `dub` the project of `dubmill film`."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dubmill.artifacts.files import write_atomically
from dubmill.dubbing.longform import Film
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.open import film_service, line_fitter
from dubmill.dubbing.project import FilmProject, ProjectSettings, Row, Target
from dubmill.dubbing.project.fitting import fit_rows
from dubmill.dubbing.project.project import SETTINGS, BusyProjectError, locked
from dubmill.dubbing.project.table import rows_of
from dubmill.dubbing.project.work import ProjectWork
from dubmill.dubbing.service import DubbingService
from dubmill.errors import DubmillError, UsageError
from dubmill.serving.adapters import choose
from dubmill.serving.fields import DubFields
from dubmill.text.languages import base_tag
from dubmill.text.subtitles import parse

log = logging.getLogger("dubmill.serving")

REQUEST, FILM, DUB = "request.json", "film", "dub"


class UnknownProjectError(UsageError):
    """There is no such project or segment, or it has expired, or it belongs to another caller."""


class TooManyProjectsError(UsageError):
    """A caller has as many projects as are allowed."""


class SegmentChanges(BaseModel):
    """What is changed in one segment; what is not named stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str | None = Field(None, max_length=20_000, description="the words to say; empty: it is not dubbed")
    speaker: str | None = Field(None, max_length=200, description="who speaks")
    face: str | None = Field(
        None, max_length=20, description="left, right, a number counted from the left, all or none"
    )
    start_seconds: float | None = Field(None, ge=0, le=1_000_000)
    end_seconds: float | None = Field(None, ge=0, le=1_000_000)

    @field_validator("text", "speaker")
    @classmethod
    def _in_one_line(cls, value: str | None) -> str | None:
        return None if value is None else " ".join(value.split())


@dataclass(frozen=True)
class ServedProject:
    """A project in `folder`, and what its caller sent."""

    folder: Path
    fields: DubFields

    def open(self) -> FilmProject:
        """The project of `dubmill film` in it.

        Raises:
            UnknownProjectError: it is damaged, or being deleted; the log says how, with the server's path.
        """
        try:
            return FilmProject.open(self.folder / DUB)
        except (DubmillError, OSError) as error:
            log.error("project %s cannot be opened: %s", self.folder.name, error)
            raise UnknownProjectError(
                "the project cannot be opened", where=self.folder.name, cure="delete it, and make it again"
            ) from error

    def language_of(self, tag: str) -> str:
        """The language that `tag` names, or without one the project's first.

        Raises:
            UnknownProjectError: the project is not dubbed into it.
        """
        known = self.open().settings.languages
        language = base_tag(tag or self.fields.language)
        if language not in known:
            cure = f"use {', '.join(known)}, or PUT the script of another language"
            raise UnknownProjectError("the project has no such language", where=tag[:35], cure=cure)
        return language

    def work(self, service: DubbingService, language: str) -> ProjectWork:
        """What can be done with one of its languages by the model of `service`."""
        project = self.open()
        return ProjectWork(project, project.film(service.source.size), service, (language,))

    def work_without_weights(self, sources: Mapping[str, ModelSource], backbone: Path, language: str) -> ProjectWork:
        """What can be done with one of its languages without dubbing; `sources` as in `choose`.

        Raises:
            DubmillError: no adapter has the language.
        """
        source = sources[choose(sources, self.fields.adapter, language)]
        return self.work(film_service(backbone, source), language)

    def clean(self, sources: Mapping[str, ModelSource], backbone: Path) -> None:
        """Remove the stored dubs that neither the table nor the last render of a language uses.

        Raises:
            DubmillError: no adapter has one of the languages, so that nobody knows which of its dubs are used.
        """
        project = self.open()
        works = [self.work_without_weights(sources, backbone, tag) for tag in project.settings.languages]
        project.store.clean([path for work in works for path in work.used_files()], removes=True)

    def put_script(self, language: str, script: str, backbone: Path) -> None:
        """Give the segments the words of `script` (SRT or WebVTT) in a language, which is added where it is new.

        Raises:
            UsageError: the script cannot be read, or does not suit the segments, or a job has the project.
        """
        with lock_project(self.folder):
            self.open().with_script(parse(script, "script"), language, line_fitter(backbone)).save_with_settings()
            self.touch()

    def edit(self, segment: str, changes: SegmentChanges, language: str, backbone: Path) -> Row:
        """Change a segment in the table, and fit its words anew; returns it as it is then. Nothing is dubbed.

        Text is that of `language`; all else is the same in every language of the project.

        Raises:
            UnknownProjectError: there is no such segment.
            UsageError: the values are not in order, or a job has the project.
        """
        values = changes.model_dump(exclude_none=True)
        if not values:
            raise UsageError("nothing is changed", where="body", cure="send text, speaker, face or a time")
        with lock_project(self.folder):
            project = self.open()
            self.check_segment(segment, project)
            row = project.row(segment)
            if "text" in values:
                words = replace(row.targets[language].without_fitting, text=values.pop("text"))
                row = replace(row, targets={**row.targets, language: words})
            project = project.edited(replace(row, **values), line_fitter(backbone))
            project.save()
            self.touch()
        return project.row(segment)

    def check_segment(self, segment: str, project: FilmProject | None = None) -> None:
        """Refuse a segment that is not there.

        Raises:
            UnknownProjectError: it is not.
        """
        rows = (project or self.open()).rows
        if all(row.id != segment for row in rows):
            raise UnknownProjectError(
                "there is no such segment", where=segment[:80], cure="read the project's segments"
            )

    @property
    def used(self) -> float:
        """When it was last used, in seconds since 1970; 0 where it has been deleted."""
        try:
            return (self.folder / REQUEST).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def touch(self) -> None:
        """Note that it was used: its time until it expires begins again.

        Raises:
            UnknownProjectError: it has been deleted.
        """
        try:
            os.utime(self.folder / REQUEST)
        except FileNotFoundError as error:
            raise _unknown(self.folder.name) from error


@dataclass(frozen=True)
class Projects:
    """The served projects in `folder`, at most `max_per_caller` of one caller; one that was not used for `hours` is deleted."""

    folder: Path
    hours: float
    max_per_caller: int

    def find(self, project_id: str, owner: str) -> ServedProject | None:
        """The caller's project of that id, where it is open already; nobody's, where what was sent cannot be read."""
        path = self.folder / project_id / REQUEST
        try:
            stored = json.loads(path.read_text())
            served = ServedProject(path.parent, DubFields(**stored["fields"]))
            return served if stored["owner"] == owner else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError, KeyError) as error:
            log.error("%s cannot be read: %s", path, error)
            return None

    def list(self, owner: str, *, limit: int, offset: int) -> list[ServedProject]:
        """A caller's projects, the last used one first."""
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        found = [project for folder in folders if (project := self.find(folder.name, owner)) is not None]
        found.sort(key=lambda project: project.used, reverse=True)
        return found[offset : offset + limit]

    def get(self, project_id: str, owner: str) -> ServedProject:
        """The caller's project of that id.

        Raises:
            UnknownProjectError: there is none, or it is not open yet.
        """
        if (found := self.find(project_id, owner)) is None:
            raise _unknown(project_id)
        return found

    def create(
        self, project_id: str, owner: str, fields: DubFields, upload: Path, film: Film, *, model: Mapping[str, Path]
    ) -> None:
        """Make a project of an uploaded film; again after a kill it is continued. The request comes last; a failure leaves nothing.

        `model` has the folders of `backbone` and `release`. The film is a hard link to `upload` where the disk has those, else a copy.

        Raises:
            TooManyProjectsError: the caller has as many as are allowed.
            DubmillError: the script does not suit the film, or the disk is full.
        """
        folder = self.folder / project_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / DUB / SETTINGS).is_file():
                self.check_room(owner)
                _link(upload, folder / FILM)
                _create_dub(folder, fields, film, model)
            stored = {"owner": owner, "fields": {**fields.model_dump(mode="json"), "script": "", "video_url": ""}}
            write_atomically(folder / REQUEST, json.dumps(stored).encode())
        except (DubmillError, OSError):
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def check_room(self, owner: str) -> None:
        """Refuse one more project of a caller that has as many as are allowed.

        Raises:
            TooManyProjectsError: with the number.
        """
        num_own = len(self.list(owner, limit=self.max_per_caller, offset=0))
        if num_own >= self.max_per_caller:
            raise TooManyProjectsError(f"you have {num_own} projects, which is the limit", cure="delete one of them")

    def delete(self, project_id: str, owner: str) -> None:
        """Delete a project with its film and dubs.

        Raises:
            UnknownProjectError: there is none.
            UsageError: a job has it.
        """
        folder = self.get(project_id, owner).folder
        with lock_project(folder):
            _remove(folder)

    def delete_expired(self) -> None:
        """Delete what was not used for too long, and what a killed opening left; a project that a job has stays."""
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(FileNotFoundError, BusyProjectError):  # it is being deleted, or used
                if self._has_expired(folder):
                    with lock_project(folder):
                        if self._has_expired(folder):  # still, now that no job can begin
                            _remove(folder)

    def _has_expired(self, folder: Path) -> bool:
        path = folder / REQUEST
        return (path if path.is_file() else folder).stat().st_mtime < time.time() - self.hours * 3600.0


@contextmanager
def lock_project(folder: Path) -> Iterator[None]:
    """Holds the lock of the project of `dubmill film` in `folder`, where there is one.

    Raises:
        BusyProjectError: a job or an edit holds it.
    """
    with ExitStack() as held:
        if (folder / DUB).is_dir():
            try:
                held.enter_context(locked(folder / DUB))
            except BusyProjectError as error:  # without the server's path
                raise BusyProjectError(
                    "a job or an edit has the project", where=folder.name, cure="wait until it has ended"
                ) from error
        yield


def _remove(folder: Path) -> None:
    """Delete a project, its request first: what is half deleted is nobody's, and goes when it has expired."""
    (folder / REQUEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _create_dub(folder: Path, fields: DubFields, film: Film, model: Mapping[str, Path]) -> None:
    """Make the project of `dubmill film` in a served project's folder, which has the film."""
    tag, path = base_tag(fields.language), folder / FILM
    rows = [replace(row, text="", targets={tag: Target(row.text)}) for row in rows_of(parse(fields.script, "script"))]
    rows = fit_rows(rows, tag, film.info.seconds, line_fitter(model["backbone"]))
    settings = ProjectSettings(
        film=path.absolute(), source_language="und", languages=(tag,), params=Path(), overlay=(),
        consent=fields.consent_record(), label=fields.label, adapter=None, seed=fields.seed, tone_map=fields.tone_map,
        track=fields.track, face=fields.face, picture="face", quality=None, container=".mp4", audio={},
        release=model["release"].absolute(), backbone=model["backbone"].absolute(),
    )  # fmt: skip
    FilmProject.create(folder / DUB, settings, rows, replace(film, path=path, known_sha256=film.sha256))


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the disk has no hard links.

    Raises:
        DiskFullError: the disk is full.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as stream:
            write_atomically(target, iter(partial(stream.read, 1 << 20), b""))


def _unknown(project_id: str) -> UnknownProjectError:
    return UnknownProjectError("there is no such project", where=project_id, cure="see whether its job is done")
