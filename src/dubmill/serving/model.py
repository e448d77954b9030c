"""The KServe model of the API: V1 and V2 submit a job, wait for it, and send its result; the worker owns the weights."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from kserve import InferRequest, InferResponse, Model
from prometheus_client import Counter, Gauge, Histogram

from dubmill.artifacts.store import Release
from dubmill.dubbing.clip_size import FILM_HINT
from dubmill.dubbing.model_source import ModelSource
from dubmill.errors import DubmillError, ServiceUnavailableError, UnreadableMediaError, UsageError
from dubmill.serving import wire
from dubmill.serving.adapters import RELEASE
from dubmill.serving.database import AWAY, WATCH_SECONDS, DatabaseUnavailableError
from dubmill.serving.fields import DubFields
from dubmill.serving.job import FILE_TASKS, Job
from dubmill.serving.jobs import ENDING, JobStore, job_id_of
from dubmill.serving.outbound import Outbound
from dubmill.serving.problems import NotReadyError, raise_problem
from dubmill.serving.projects import Projects
from dubmill.serving.wire import DubResult, Submission
from dubmill.text.languages import LANGUAGES

log = logging.getLogger("dubmill.serving")

SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
DUBS = Counter("dubs", "number of dubs, by outcome", ["model", "language", "outcome"])
DUB_SECONDS = Histogram(
    "dub_seconds",
    "seconds a job had its place at the model, also while others were dubbed there",
    ["model"],
    buckets=SECONDS,
)
STAGE_SECONDS = Histogram("dub_stage_seconds", "seconds of each stage of a job", ["model", "stage"], buckets=SECONDS)
QUEUE_DEPTH = Gauge("dub_queue_depth", "jobs queued or running", ["model"])
QUEUE_AGE = Gauge("dub_queue_age_seconds", "age of the oldest job queued or running", ["model"])
DUBBED_SECONDS = Counter(
    "dub_media_seconds",
    "seconds of video dubbed, as quotas count them; of no caller, since anybody reads this",
    ["model"],
)
LOADING, STOPPING = "it is still loading", "it is stopping"
POLL_SECONDS = 1.0  # of a job whose worker says nothing: another replica has it
ENDING_SECONDS = 0.05  # of a job whose outcome is being written
DISCARD_SECONDS = 3600.0  # for which a job that nobody waits for is tried to be deleted while the database is away
CALLER: ContextVar[str] = ContextVar("caller", default="anonymous")  # of the request under way


class DubModel(Model):
    """Serves one release by way of the worker's events; ready once the worker's self-test has passed."""

    def __init__(
        self,
        name: str,
        release: Release,
        source: ModelSource,
        jobs: JobStore,
        *,
        projects: Projects,
        backbone: Path,
        fetching: Outbound,
        calling: Outbound,
    ) -> None:
        """`fetching` says which hosts videos are fetched from, and `calling` which ones webhooks go to."""
        super().__init__(name)
        self.projects, self.backbone = projects, backbone
        self.fetching, self.calling = fetching, calling
        self.jobs = jobs
        self.release = release  # the default one
        self.sources = {RELEASE: source}  # of the adapters that the worker has loaded, by name
        self.refused: dict[str, str] = {}  # why an adapter is not served, or not its present folder, by name
        self.batch_size: int | None = None  # how many clips of the default one fit in a batch, once it is loaded
        self.unready_reason = LOADING
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._discards: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive
        self._create_metrics()

    @property
    def source(self) -> ModelSource:
        """The model of the default release."""
        return self.sources[RELEASE]

    def _create_metrics(self) -> None:
        """Create the series that a healthy server has, so that a rate can be computed from its first dub on."""
        DUB_SECONDS.labels(self.name)
        DUBBED_SECONDS.labels(self.name)
        for stage in ("decode", "wait", "dub"):
            STAGE_SECONDS.labels(self.name, stage)
        for language in (*self.source.languages, "other"):
            for outcome in ("done", "failed"):
                DUBS.labels(self.name, language, outcome)
        QUEUE_DEPTH.labels(self.name).set_function(self.jobs.num_open)
        QUEUE_AGE.labels(self.name).set_function(self.jobs.oldest_age_seconds)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the worker; called in the thread that watches it."""
        kind = event["event"]
        if kind == "ready":
            self.jobs.open_jobs.mean_seconds = float(event["seconds"])
            self.ready, self.unready_reason = True, ""
        elif kind in ("unready", "stopped"):
            self.ready, self.unready_reason = False, str(event["reason"])
        elif kind in ("adapter", "adapter_removed"):
            self._on_adapter(event)
        elif kind == "stages":
            self._observe(event["seconds"], event["num_together"])
        elif kind == "finished":
            DUBBED_SECONDS.labels(self.name).inc(event["dubbed_seconds"])
            if event["task"] in FILE_TASKS:
                language = event["language"] if event["language"] in LANGUAGES else "other"  # bounds the labels
                DUBS.labels(self.name, language, event["outcome"]).inc()
        if "job" in event and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake, event["job"])

    def _on_adapter(self, event: Mapping[str, Any]) -> None:
        """Take in that the worker has loaded, refused or unloaded an adapter."""
        name, sources, refused = event["adapter"], dict(self.sources), dict(self.refused)
        refused.pop(name, None)
        if event["event"] == "adapter_removed":
            sources.pop(name, None)
        elif "problem" in event:
            refused[name] = event["problem"]
        else:
            release = Release.open(Path(event["path"]))
            sources[name] = ModelSource.of_release(release)
            if name == RELEASE:
                self.release, self.batch_size = release, event["batch_size"]
        self.sources, self.refused = sources, refused  # new mappings: readers may be iterating over the old ones

    def _observe(self, seconds: Mapping[str, float], num_together: int) -> None:
        """Take in the stages of a job that shared the model with others: `num_together` jobs were at it."""
        for stage, value in seconds.items():
            STAGE_SECONDS.labels(self.name, stage).observe(value)
        DUB_SECONDS.labels(self.name).observe(seconds["dub"])
        open_jobs = self.jobs.open_jobs
        open_jobs.mean_seconds += 0.3 * (seconds["dub"] / max(1, num_together) - open_jobs.mean_seconds)

    def _wake(self, job_id: str) -> None:
        for change in self._waiting.get(job_id, ()):
            change.set()

    def stop_accepting(self) -> None:
        """Report unready from now on: the server is about to stop."""
        self.ready, self.unready_reason = False, STOPPING
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: [self._wake(job_id) for job_id in list(self._waiting)])

    async def healthy(self) -> bool:
        """Whether the worker's self-test passed, and the database of jobs answers.

        Raises:
            NotReadyError: it did not, with the reason, which a plain False would lose, and KServe's error log as a fault.
            DatabaseUnavailableError: it does not.
        """
        if self.jobs.watch.is_away:
            raise DatabaseUnavailableError
        if not self.ready:
            raise NotReadyError(f"{self.name} is not ready, because {self.unready_reason}")
        return True

    async def submit(self, submission: Submission, *, key: str = "", kind: str = "dub", job_id: str = "") -> Job:
        """A job for the submission, stored; what can be refused without decoding is refused.

        `kind` as in `job.TASKS`: of a clip, a script is refused, and later a video that is longer than one clip of the model.

        Raises:
            DubmillError: the fields are not in order, or the caller has too many projects or no seconds left; `QueueFullError` if too many wait.
        """
        fields, video = submission.fields, submission.video
        fields.check(self.sources)
        if kind == "clip" and fields.script:
            raise UsageError("a script belongs to a film", where="script", cure=f"give the clip's text, or {FILM_HINT}")
        if kind == "open" and not fields.script:
            raise UsageError("a project needs a script", where="script", cure="send SRT or WebVTT of the words to say")
        if bool(video) == bool(fields.video_url):
            trouble = "both a clip and a video_url" if video else "no clip"
            raise UnreadableMediaError(f"the request holds {trouble}", cure="send the bytes of a video, or a URL")
        if fields.video_url:
            self.fetching.check(fields.video_url)
        if fields.webhook_url:
            self.calling.check(fields.webhook_url)
        if kind == "open" and not (
            key and await asyncio.to_thread(self.jobs.find, job_id_of(CALLER.get(), key), CALLER.get())
        ):
            await asyncio.to_thread(self.projects.check_room, CALLER.get())
        return await self._store(fields, video, {"kind": kind}, key, job_id)

    async def submit_task(self, project_id: str, task: Mapping[str, Any], language: str, *, key: str = "") -> Job:
        """A job on one language of the caller's project, or without one its first, stored.

        Raises:
            DubmillError: there is no such project, or its consent has ended; `QueueFullError` if too many wait.
        """
        served = await asyncio.to_thread(self.projects.get, project_id, CALLER.get())
        language = await asyncio.to_thread(served.language_of, language)
        fields = served.fields.model_copy(update={"language": language})
        fields.check(self.sources)
        if "segment" in task:
            await asyncio.to_thread(served.check_segment, task["segment"])
        await asyncio.to_thread(served.touch)  # it does not expire while the job waits
        return await self._store(fields, b"", {**task, "project": project_id}, key)

    async def _store(self, fields: DubFields, video: bytes, task: Mapping[str, Any], key: str, job_id: str = "") -> Job:
        document = {"fields": fields.model_dump(mode="json"), "task": dict(task)}
        return await asyncio.to_thread(self.jobs.submit, document, video, owner=CALLER.get(), key=key, job_id=job_id)

    async def changed(self, job: Job) -> None:
        """Return when something of the job may have changed."""
        self._loop, change, job_id = asyncio.get_running_loop(), asyncio.Event(), job.id
        seconds = ENDING_SECONDS if job.attributes.get("stage") == ENDING else POLL_SECONDS
        self._waiting[job_id].add(change)
        try:
            await asyncio.wait_for(change.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            self._waiting[job_id].discard(change)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def dub(self, submission: Submission) -> DubResult:
        """One dub, after those before it in the queue; a caller that leaves cancels it, and nothing of it is kept.

        While the database is away both wait for it: the answer, and the end of a job whose caller has left.

        Raises:
            DubmillError: the job's problem; `QueueFullError` if too many wait.
        """
        await self.healthy()
        owner, job_id = CALLER.get(), uuid.uuid4().hex
        storing = asyncio.create_task(self.submit(submission, kind="clip", job_id=job_id))
        try:
            job = await asyncio.shield(storing)  # a caller that leaves now would not end the thread that stores
            while not job.is_over:
                await self.changed(job)
                with suppress(*AWAY):  # the dub goes on
                    job = await asyncio.to_thread(self.jobs.get, job_id, owner)
                if job.state == "queued" and self.unready_reason == STOPPING:
                    raise ServiceUnavailableError("the server is stopping", cure="send the request again")
            return await asyncio.to_thread(self._result, job)
        finally:
            discard = asyncio.create_task(self._discard(storing, job_id, owner))
            self._discards.add(discard)
            discard.add_done_callback(self._discards.discard)
            await asyncio.wait({discard}, timeout=WATCH_SECONDS)  # the answer does not wait for a database that is away

    async def _discard(self, storing: asyncio.Task[Job], job_id: str, owner: str) -> None:
        """Discard a job that nobody waits for any more, once it is stored and as soon as the database answers."""
        with suppress(*AWAY):  # it may be stored all the same
            try:
                await storing
            except DubmillError:
                return  # it was refused
        deadline = time.monotonic() + DISCARD_SECONDS
        while time.monotonic() < deadline:
            try:
                await asyncio.to_thread(self.jobs.discard, job_id, owner)
                return
            except AWAY:
                await asyncio.sleep(WATCH_SECONDS)
        log.error(
            "job %s could not be deleted, since the database is away; it is kept until its result expires", job_id
        )

    def _result(self, job: Job) -> DubResult:
        raise_problem(job)
        result = job.result
        return DubResult(
            mp4=self.jobs.result_path(job.id).read_bytes(),
            seconds=result["seconds"],
            seed=result["seed"],
            model_version=result["model_version"],
            notes=tuple(result["notes"]),
        )

    async def predict(
        self, payload: Any, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Answer a V1 or V2 request."""
        if isinstance(payload, InferRequest):
            return wire.to_v2(await self.dub(wire.from_v2(payload)), payload)
        return wire.to_v1([await self.dub(submission) for submission in wire.from_v1(payload)])

    def get_input_types(self) -> list[dict[str, Any]]:
        """The V2 inputs."""
        return [tensor.to_dict() for tensor in wire.INPUTS]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The V2 outputs."""
        return [tensor.to_dict() for tensor in wire.OUTPUTS]
