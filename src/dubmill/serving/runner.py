"""Dubs one job: decodes before it takes a place at the model, reports stage and progress, and stops when it is cancelled."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

from sqlalchemy.exc import SQLAlchemyError

from dubmill import media
from dubmill.artifacts.files import hash_file
from dubmill.dubbing.clip_size import FILM_HINT, SLACK_SECONDS
from dubmill.dubbing.consent import ConsentLedger, DubRecord
from dubmill.dubbing.credentials import ContentCredentials
from dubmill.dubbing.longform import Film
from dubmill.dubbing.open import clip_as_film
from dubmill.dubbing.project.project import BusyProjectError
from dubmill.dubbing.requests import FileDubRequest
from dubmill.dubbing.service import DubbingService
from dubmill.dubbing.watermark import Watermark, put_watermark
from dubmill.errors import DubmillError, MediaTooLongError
from dubmill.serving.adapters import LoadedReleases
from dubmill.serving.fields import DubFields
from dubmill.serving.job import FILE_TASKS
from dubmill.serving.jobs import ENDING, RESULT, problem_of
from dubmill.serving.projects import Projects, ServedProject, lock_project
from dubmill.text.languages import base_tag

log = logging.getLogger("dubmill.serving")

WRITE_SECONDS = 0.25  # between two writes of a job's progress
LOCK_SECONDS = 0.2  # between two tries to lock a project
Report = Callable[[Mapping[str, Any]], None]
Reserve = Callable[[float], float]  # seconds of video that a job is about to dub; returns what it is counted as


class JobTable(Protocol):
    """What a runner needs of the queue's database."""

    def set_attributes(self, job_id: str, attributes: Mapping[str, Any]) -> None:
        """Merge `attributes` into the job's."""
        ...

    def is_cancelled(self, job_id: str) -> bool:
        """Whether the caller cancelled the job."""
        ...

    def put_back(self, job_id: str) -> None:
        """Put a running job back into the queue."""
        ...

    def reserve(self, job_id: str, owner: str, seconds: float, limit_seconds: float) -> float:
        """Reserve a job's seconds of its caller's month; returns what it will be counted as. See `Usage`."""
        ...

    def count(self, job_id: str, owner: str, seconds: float) -> None:
        """Enter the seconds of a job that is done in its caller's month, once."""
        ...


class CancelledJobError(Exception):
    """The caller cancelled the job that is running; never shown to anybody."""


class StoppingError(Exception):
    """The worker is about to end, and the job has no place at the model yet; never shown to anybody."""


class Runner:
    """Dubs jobs with one model, as many at once as there are places; `drain` lets those finish, and puts the others back into the queue."""

    def __init__(
        self,
        releases: LoadedReleases,
        ledger: ConsentLedger,
        folder: Path,
        projects: Projects,
        table: JobTable,
        report: Report,
        *,
        places: threading.Semaphore,
        film_limits: media.Limits,
        fetch: Callable[[str, Path], None],
        credentials: ContentCredentials | None,
        watermark: Watermark | None = None,
    ) -> None:
        """A job has one of `places` from its first dub until its film is joined; `fetch` writes what is at a URL to a file; without `credentials`, dubs have no C2PA manifest."""
        self._fetch, self._credentials, self._watermark = fetch, credentials, watermark
        self.releases, self.ledger = releases, ledger
        self.folder, self.projects, self.table, self.report = folder, projects, table, report
        self._film_limits = film_limits
        self._places, self._draining = places, threading.Event()
        self._begun: set[str] = set()  # jobs that had a place and are not over
        self._changed = threading.Condition()

    def dub(self, job_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a job, whose file is written; or the problem, where it cannot be dubbed.

        Raises:
            CancelledJobError: the caller cancelled it.
        """
        try:
            return self._dub(job_id, document)
        except DubmillError as error:
            return {"problem": problem_of(error)}
        except StoppingError:  # its project, adapter and place at the model are free again
            self._put_back(job_id)

    def _put_back(self, job_id: str) -> NoReturn:
        """Put a job back into the queue, and never return: a step that ends has an outcome."""
        try:
            self.table.put_back(job_id)
        except SQLAlchemyError as error:  # the worker tries again when it ends
            log.error("the job %s could not be put back into the queue (%s)", job_id, error)
        while True:
            threading.Event().wait()

    def record(self, job_id: str, document: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """The result with the hash of its entry in the consent ledger; a problem where it cannot be entered."""
        fields = DubFields.model_validate(document["fields"])
        record = DubRecord(
            source_sha256=result["source_sha256"],
            dub_sha256=result["sha256"],
            language=result["language"],
            release=result["release"],
            job=job_id,
        )
        try:
            return {**result, "consent_entry": self.ledger.record(fields.consent_record(), record)}
        except DubmillError as error:
            (self.folder / job_id / RESULT).unlink(missing_ok=True)
            return {"problem": problem_of(error)}

    def tidy(self, job_id: str, document: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        """Count the seconds of a job that is over, delete its upload, and report it."""
        seconds = outcome.get("dubbed_seconds", 0.0)
        if seconds:
            self.table.count(job_id, document["owner"], seconds)
        (self.folder / job_id / document["upload"]).unlink(missing_ok=True)
        self.table.set_attributes(job_id, {"stage": ENDING})
        kind = outcome["problem"]["kind"] if "problem" in outcome else "done"
        facts = {"task": document["task"]["kind"], "language": document["fields"]["language"]}
        self.report({"event": "finished", "job": job_id, "outcome": kind, "dubbed_seconds": seconds, **facts})

    @contextmanager
    def under_way(self, job_id: str) -> Iterator[None]:
        """Within it `drain` waits for the job, from when it has a place; however the job ends, `drain` does not wait after it."""
        try:
            yield
        finally:
            with self._changed:
                self._begun.discard(job_id)
                self._changed.notify_all()

    def drain(self, grace_seconds: float) -> bool:
        """Let the jobs that have a place finish, also those that wait there for the model; False if they did not in time.

        The others go back to the queue, each by its own thread, at its next step: none is dubbed here and by another worker at once.
        """
        with self._changed:
            self._draining.set()
            return self._changed.wait_for(lambda: not self._begun, grace_seconds)

    def _dub(self, job_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
        fields, task = DubFields.model_validate(document["fields"]), document["task"]
        fields.check(self.releases.sources)
        self.ledger.check_writable()
        upload = self.folder / job_id / document["upload"]
        if fields.video_url and not upload.exists():
            self._enter(job_id, "fetching", 0.0)
            self._fetch(fields.video_url, upload)
        with self.releases.lease(fields.adapter, base_tag(fields.language)) as service:
            reserve = partial(self._reserve, job_id, document)
            if task["kind"] in ("redo", "render"):
                tag = base_tag(fields.language)
                result = self._work_on_project(service, job_id, document["owner"], {**task, "language": tag}, reserve)
            elif task["kind"] == "open":
                result = self._open_project(service, job_id, document["owner"], fields, upload)
            else:
                result = self._render(
                    service, job_id, fields.file_request(upload), reserve, is_clip=task["kind"] == "clip"
                )
            facts = {
                "language": base_tag(fields.language),
                "model_version": service.source.version,
                "release": service.source.digest,
            }
        if task["kind"] in FILE_TASKS:
            facts |= self._sealed(self.folder / job_id / RESULT, {**facts, "source_sha256": result["source_sha256"]})
        return {"seed": fields.seed, **facts, **result}

    def _open_project(
        self, service: DubbingService, job_id: str, owner: str, fields: DubFields, upload: Path
    ) -> dict[str, Any]:
        self._enter(job_id, "decoding", 0.0)
        film = dataclasses.replace(service, limits=self._film_limits).open_film(fields.file_request(upload))
        model = {"backbone": self.releases.backbone, "release": service.source.adapter.parent}
        self.projects.create(job_id, owner, fields, upload, film, model=model)
        return {**_facts_of(film), "notes": []}

    def _work_on_project(
        self, service: DubbingService, job_id: str, owner: str, task: Mapping[str, Any], reserve: Reserve
    ) -> dict[str, Any]:
        """Dub a segment of a project again, or join its film; returns its length, notes and seed."""
        with self._locked_project(job_id, task["project"], owner) as served, ExitStack() as place:
            started, work = time.monotonic(), served.work(service, task["language"])
            segment = task["segment"] if task["kind"] == "redo" else ""
            result = {**_facts_of(work.film), "dubbed_seconds": reserve(work.seconds_to_dub(segment))}
            progress = place.enter_context(self._in_place(job_id, started))
            out = self.folder / job_id / RESULT
            if task["kind"] == "redo":
                _, seed, count = work.redo(task["segment"], task["seed"], progress)
                result |= {"seed": seed, "notes": [f"{count} chunk(s) were dubbed"]}
            else:
                work.project.store.sweep()
                request = work.request(task["language"])
                dubbed = service.render_film(work.film, request, out, progress, before_handover=lambda _: None)
                with suppress(DubmillError):  # the adapter of another language is gone: its dubs stay
                    served.clean(self.releases.sources, self.releases.backbone)
                result |= {"notes": list(dubbed.notes)}
        return result

    @contextmanager
    def _locked_project(self, job_id: str, project_id: str, owner: str) -> Iterator[ServedProject]:
        """The project, locked, once no other job or edit has it; no place at the model is held while this waits."""
        self._enter(job_id, "waiting", 0.0)
        with ExitStack() as held:
            while True:
                served = self.projects.get(project_id, owner)
                try:
                    held.enter_context(lock_project(served.folder))
                    break
                except BusyProjectError:
                    self._stop_if_over(job_id)
                    time.sleep(LOCK_SECONDS)
            self.projects.get(project_id, owner).touch()  # it may have been deleted meanwhile
            yield served
            served.touch()

    def _render(
        self, service: DubbingService, job_id: str, request: FileDubRequest, reserve: Reserve, *, is_clip: bool
    ) -> dict[str, Any]:
        """Write the dub of a video at its own size and rate, as `dubmill dub` does; returns its length and notes.

        Raises:
            MediaTooLongError: it is too long for a film, or with `is_clip` for one clip of the model.
            QuotaExceededError: its caller has too few seconds left.
        """
        started, out = time.monotonic(), self.folder / job_id / RESULT
        self._enter(job_id, "decoding", 0.0)
        longest_seconds = service.source.size.seconds + SLACK_SECONDS
        limits = media.Limits(max_seconds=longest_seconds) if is_clip else self._film_limits
        try:
            film = dataclasses.replace(service, limits=limits).open_film(request)
        except MediaTooLongError as error:
            cure = f"cut it to that length, or {FILM_HINT}" if is_clip else error.cure
            raise MediaTooLongError(error.what, where=error.where, cure=cure) from error
        if isinstance(request.words, str) and film.info.seconds <= longest_seconds:
            request = clip_as_film(request, film.info.seconds)
        seconds = reserve(film.info.seconds)
        with self._in_place(job_id, started) as progress:
            dubbed = service.render_film(film, request, out, progress, before_handover=lambda _: None)  # see `record`
        return {**_facts_of(film), "dubbed_seconds": seconds, "notes": list(dubbed.notes)}

    def _reserve(self, job_id: str, document: Mapping[str, Any], seconds: float) -> float:
        return self.table.reserve(job_id, document["owner"], seconds, document.get("quota_seconds", math.inf))

    def _sealed(self, out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Watermark the file where there is a plug, and sign it where there is a key; returns what identifies it.

        Raises:
            DubmillError: that failed, and the file is deleted.
        """
        try:
            if self._watermark is not None:
                put_watermark(self._watermark, out, facts)
            if self._credentials is not None:
                self._credentials.sign(out, facts)
        except BaseException:
            out.unlink(missing_ok=True)
            raise
        name = self._credentials.name if self._credentials is not None else ""
        return {"credentials": name, "sha256": hash_file(out), "num_bytes": out.stat().st_size}

    @contextmanager
    def _in_place(self, job_id: str, started: float) -> Iterator[Callable[[float], None]]:
        """Hold a place at the model; gives the callback that takes the share done."""
        decoded = time.monotonic()
        self._enter(job_id, "waiting", 0.0)
        while not self._places.acquire(timeout=0.2):
            self._stop_if_over(job_id)
        try:
            with self._changed:  # `drain` waits for the job, or it goes back
                self._stop_if_draining(job_id)
                self._begun.add(job_id)
            began = time.monotonic()
            self._enter(job_id, "dubbing", 0.0, dubbing_since=time.time())
            yield self._progress_of(job_id)
            self._enter(job_id, ENDING, 1.0)
        finally:
            self._places.release()
        seconds = {"decode": decoded - started, "wait": began - decoded, "dub": time.monotonic() - began}
        self.report({"event": "stages", "job": job_id, "seconds": seconds, "num_together": len(self._begun)})

    def _progress_of(self, job_id: str) -> Callable[[float], None]:
        last_write = [0.0]

        def progress(share: float) -> None:
            self._stop_if_cancelled(job_id)
            if time.monotonic() - last_write[0] >= WRITE_SECONDS:
                last_write[0] = time.monotonic()
                self._enter(job_id, "dubbing", share)

        return progress

    def _enter(self, job_id: str, stage: str, progress: float, **more: float) -> None:
        self._stop_if_over(job_id)
        self.table.set_attributes(job_id, {"stage": stage, "progress": round(progress, 4), **more})
        self.report({"event": "progress", "job": job_id})

    def _stop_if_over(self, job_id: str) -> None:
        """Leave the job where it was cancelled, or where the worker is about to end before it has a place."""
        self._stop_if_cancelled(job_id)
        self._stop_if_draining(job_id)

    def _stop_if_draining(self, job_id: str) -> None:
        if self._draining.is_set() and job_id not in self._begun:
            raise StoppingError(job_id)

    def _stop_if_cancelled(self, job_id: str) -> None:
        if self.table.is_cancelled(job_id):
            raise CancelledJobError(job_id)


def _facts_of(film: Film) -> dict[str, Any]:
    info = film.info
    return {"seconds": info.seconds, "size": f"{info.width}x{info.height}", "source_sha256": film.sha256}
