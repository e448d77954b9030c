"""Dubs one job: decodes before the model's slot is taken, reports stage and progress, and stops when it is cancelled."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dubmill import media
from dubmill.artifacts.files import hash_file, write_atomically
from dubmill.dubbing.consent import DubRecord
from dubmill.dubbing.credentials import ContentCredentials
from dubmill.dubbing.open import is_film
from dubmill.dubbing.service import DubbingService
from dubmill.errors import DubmillError
from dubmill.serving.fields import DubFields
from dubmill.serving.jobs import ENDING, RESULT, SOURCE, problem_of

log = logging.getLogger("dubmill.serving")

WRITE_SECONDS = 0.25  # between two writes of a job's progress
Report = Callable[[Mapping[str, Any]], None]


class JobTable(Protocol):
    """What a runner needs of the queue's database."""

    def set_attributes(self, job_id: str, attributes: Mapping[str, Any]) -> None:
        """Merge `attributes` into the job's."""
        ...

    def is_cancelled(self, job_id: str) -> bool:
        """Whether the caller cancelled the job."""
        ...


class CancelledJobError(Exception):
    """The caller cancelled the job that is running; never shown to anybody."""


class Runner:
    """Dubs jobs with one model, whose slot only one of them has; `drain` lets that one finish and no other begin."""

    def __init__(
        self,
        service: DubbingService,
        folder: Path,
        table: JobTable,
        report: Report,
        *,
        film_limits: media.Limits,
        fetch: Callable[[str, Path], None],
        credentials: ContentCredentials | None,
    ) -> None:
        """`fetch` writes what is at a URL to a file; without `credentials`, dubs have no C2PA manifest."""
        self._fetch, self._credentials = fetch, credentials
        self.service, self.folder, self.table, self.report = service, folder, table, report
        self._films = dataclasses.replace(service, limits=film_limits)
        self._slot, self._draining = threading.Lock(), threading.Event()
        self._begun: set[str] = set()  # jobs that had the slot and are not over
        self._changed = threading.Condition()

    def dub(self, job_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a job, whose file is written; or the problem, where it cannot be dubbed.

        Raises:
            CancelledJobError: the caller cancelled it.
        """
        try:
            fields = DubFields.model_validate(document["fields"])
            return self._dub(job_id, fields, is_clip=document["is_clip"])
        except DubmillError as error:
            return {"problem": problem_of(error)}
        except BaseException:
            self._leave(job_id)
            raise

    def record(self, job_id: str, document: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """The result with the hash of its entry in the consent ledger; a problem where it cannot be entered."""
        fields = DubFields.model_validate(document["fields"])
        record = DubRecord(
            source_sha256=result["source_sha256"],
            dub_sha256=result["sha256"],
            language=result["language"],
            release=self.service.source.digest,
            job=job_id,
        )
        try:
            return {**result, "consent_entry": self.service.ledger.record(fields.consent_record(), record)}
        except DubmillError as error:
            (self.folder / job_id / RESULT).unlink(missing_ok=True)
            return {"problem": problem_of(error)}

    def tidy(self, job_id: str, outcome: Mapping[str, Any], language: str) -> None:
        """Delete the source of a job that is over, and report it."""
        (self.folder / job_id / SOURCE).unlink(missing_ok=True)
        self.table.set_attributes(job_id, {"stage": ENDING})
        kind = outcome["problem"]["kind"] if "problem" in outcome else "done"
        self.report({"event": "finished", "job": job_id, "outcome": kind, "language": language})
        self._leave(job_id)

    def drain(self, grace_seconds: float) -> bool:
        """Let the dub under way finish, and no other begin; False if it did not in time."""
        self._draining.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._begun, grace_seconds)

    def _leave(self, job_id: str) -> None:
        with self._changed:
            self._begun.discard(job_id)
            self._changed.notify_all()

    def _dub(self, job_id: str, fields: DubFields, *, is_clip: bool) -> dict[str, Any]:
        source, out = self.folder / job_id / SOURCE, self.folder / job_id / RESULT
        fields.check(self.service.source)
        if fields.video_url and not source.exists():
            self._enter(job_id, "fetching", 0.0)
            self._fetch(fields.video_url, source)
        started = time.monotonic()
        self._enter(job_id, "decoding", 0.0)
        request = fields.film_request(source, job_id)
        if not is_clip and is_film(request, self.service.source.size):
            with self._in_slot(job_id, started) as progress:
                film = self._films.dub_film(request, out, progress)
            seconds, notes = media.probe(out, limits=self._films.limits).seconds, film.notes
        else:
            prepared = self.service.prepare(fields.clip_request(source.read_bytes()))
            with self._in_slot(job_id, started) as progress:
                clip = self.service.render(prepared, progress)
            write_atomically(out, clip.mp4)
            seconds, notes = clip.seconds, clip.notes
        facts = {
            "source_sha256": hash_file(source),
            "language": request.language,
            "model_version": self.service.source.version,
            "release": self.service.source.digest,
        }
        if self._credentials is not None:
            self._credentials.sign(out, facts)
        return {
            **facts,
            "credentials": self._credentials.name if self._credentials is not None else "",
            "sha256": hash_file(out),
            "num_bytes": out.stat().st_size,
            "seconds": seconds,
            "seed": fields.seed,
            "notes": list(notes),
        }

    @contextmanager
    def _in_slot(self, job_id: str, started: float) -> Iterator[Callable[[float], None]]:
        """Hold the model's slot; gives the callback that takes the share done."""
        decoded = time.monotonic()
        self._enter(job_id, "waiting", 0.0)
        while not self._slot.acquire(timeout=0.2):
            self._stop_if_cancelled(job_id)
        try:
            while self._draining.is_set():  # the process ends here: this job has not begun, and is queued again
                time.sleep(1.0)
            with self._changed:
                self._begun.add(job_id)
            began = time.monotonic()
            self._enter(job_id, "dubbing", 0.0, dubbing_since=time.time())
            yield self._progress_of(job_id)
            self._enter(job_id, ENDING, 1.0)
        finally:
            self._slot.release()
        seconds = {"decode": decoded - started, "wait": began - decoded, "dub": time.monotonic() - began}
        self.report({"event": "stages", "job": job_id, "seconds": seconds})

    def _progress_of(self, job_id: str) -> Callable[[float], None]:
        last_write = [0.0]

        def progress(share: float) -> None:
            self._stop_if_cancelled(job_id)
            if time.monotonic() - last_write[0] >= WRITE_SECONDS:
                last_write[0] = time.monotonic()
                self._enter(job_id, "dubbing", share)

        return progress

    def _enter(self, job_id: str, stage: str, progress: float, **more: float) -> None:
        self._stop_if_cancelled(job_id)
        self.table.set_attributes(job_id, {"stage": stage, "progress": round(progress, 4), **more})
        self.report({"event": "progress", "job": job_id})

    def _stop_if_cancelled(self, job_id: str) -> None:
        if self.table.is_cancelled(job_id):
            raise CancelledJobError(job_id)
