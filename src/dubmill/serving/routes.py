"""The job API: `/v1/dubs` and what a client must know to use it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile

from dubmill.dubbing.credentials import read_credentials
from dubmill.dubbing.model_source import ModelSource
from dubmill.errors import UsageError
from dubmill.serving.adapters import RELEASE
from dubmill.serving.database import AWAY
from dubmill.serving.fields import DubFields, FormFields, parse_fields
from dubmill.serving.job import FILE_TASKS, Job
from dubmill.serving.jobs import JobConflictError
from dubmill.serving.model import CALLER, DubModel
from dubmill.serving.openapi import DUB_BODY, ERRORS, EVENTS, RESULT, CredentialsView, JobPage, JobView, UsageView
from dubmill.serving.problems import UnsupportedBodyError, job_error, problem, raise_problem
from dubmill.serving.wire import Submission, result_fields
from dubmill.text.languages import LANGUAGES

CURE = "send a form with video, language, text and consent; /openapi.json has all fields"
KEEP_ALIVE_SECONDS = 15.0
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


def job_routes(model: DubModel) -> APIRouter:
    """The routes of jobs."""
    router, jobs = APIRouter(tags=["dubs"]), model.jobs

    @router.post("/v1/dubs", status_code=202, response_model=JobView, responses=ERRORS, openapi_extra=DUB_BODY)
    async def submit(
        request: Request,
        response: Response,
        idempotency_key: str = Header("", max_length=128, description="a repeated request with it makes no second job"),
    ) -> dict[str, Any]:
        """Submit a video to be dubbed."""
        await model.healthy()
        job = await model.submit(await read_submission(request), key=idempotency_key)
        response.headers["Location"] = f"/v1/dubs/{job.id}"
        return await asyncio.to_thread(view, model, job)

    @router.get("/v1/dubs", response_model=JobPage, responses=ERRORS)
    def list_jobs(limit: int = Query(20, ge=1, le=100), offset: int = Query(0, ge=0, le=1_000_000)) -> dict[str, Any]:
        """The caller's jobs, newest first."""
        found = jobs.list(CALLER.get(), limit=limit + 1, offset=offset)
        following = offset + limit if len(found) > limit else None
        return {"dubs": [view(model, job) for job in found[:limit]], "next_offset": following}

    @router.get("/v1/dubs/{job_id}", response_model=JobView, responses=ERRORS)
    def status(job_id: JobId) -> dict[str, Any]:
        """State, stage, progress and the time left."""
        return view(model, jobs.get(job_id, CALLER.get()))

    @router.delete("/v1/dubs/{job_id}", response_model=JobView, responses=ERRORS)
    def cancel(job_id: JobId) -> dict[str, Any]:
        """Cancel a job that is queued or running."""
        return view(model, jobs.cancel(job_id, CALLER.get()))

    @router.get("/v1/dubs/{job_id}/events", response_class=StreamingResponse, responses=ERRORS | EVENTS)
    async def events(job_id: JobId) -> StreamingResponse:
        """The job's status as server-sent events, at each change, until it is over."""
        job = await asyncio.to_thread(jobs.get, job_id, CALLER.get())
        return StreamingResponse(_events(model, job), media_type="text/event-stream")

    @router.get("/v1/dubs/{job_id}/result", response_class=FileResponse, responses=ERRORS | RESULT)
    def result(job_id: JobId) -> FileResponse:
        """The dubbed MP4; ranges are answered."""
        return result_file(model, jobs.get(job_id, CALLER.get()))

    @router.get("/v1/dubs/{job_id}/credentials", response_model=CredentialsView, responses=ERRORS)
    def credentials(job_id: JobId) -> dict[str, Any]:
        """Who signed the dub's C2PA manifest, what it says, and whether the file is as it was signed."""
        job = jobs.get(job_id, CALLER.get())
        check_has_file(job)
        return read_credentials(jobs.result_path(job.id))

    return router


def check_has_file(job: Job) -> None:
    """Do nothing for a job that is done and made a file.

    Raises:
        DubmillError: the job's problem, or it is not done, or makes no file.
    """
    raise_problem(job)
    if job.task["kind"] not in FILE_TASKS:
        raise JobConflictError("this job makes no file", where=job.id, cure="render its project")


def result_file(model: DubModel, job: Job) -> FileResponse:
    """The dubbed MP4 of a job.

    Raises:
        DubmillError: see `check_has_file`.
    """
    check_has_file(job)
    headers = {"Expires": _http_date(_expiry(model, job)), "Cache-Control": "private"}
    return FileResponse(model.jobs.result_path(job.id), media_type="video/mp4", filename="dub.mp4", headers=headers)


def facts_routes(model: DubModel, limits: Mapping[str, Any]) -> APIRouter:
    """The routes that say what this server can do, and the dub of a clip in one request."""
    router = APIRouter(tags=["facts"])

    @router.get("/v1/languages", responses=ERRORS)
    async def languages() -> dict[str, Any]:
        """Languages that the adapters dub into."""
        return {"languages": languages_of(model)}

    @router.get("/v1/adapters", responses=ERRORS)
    async def adapters() -> dict[str, Any]:
        """Adapters that requests can name, and why others cannot be served."""
        served = [adapter_view(model, name, source) for name, source in model.sources.items()]
        return {
            "adapters": served,
            "refused": [{"adapter": name, "reason": why} for name, why in model.refused.items()],
        }

    @router.get("/v1/limits", responses=ERRORS)
    async def served_limits() -> dict[str, Any]:
        """Limits of uploads, of jobs, of batches, and of the time that results are kept."""
        batch_size = model.batch_size or limits["batch_size"]  # until the model is loaded, that of the option
        return {"clip_seconds": model.source.size.seconds, **limits, "batch_size": batch_size}

    @router.get("/v1/usage", response_model=UsageView, responses=ERRORS)
    def usage() -> dict[str, Any]:
        """The caller's seconds of video of this calendar month (UTC): dubbed, being dubbed, and left."""
        owner = CALLER.get()
        month = model.jobs.usage.of(owner, model.jobs.limits.quota_of(owner))
        limit, left = (
            (seconds if seconds < math.inf else None) for seconds in (month.limit_seconds, month.left_seconds)
        )
        return {
            "dubbed_seconds": month.dubbed_seconds,
            "open_seconds": month.open_seconds,
            "limit_seconds": limit,
            "left_seconds": left,
            "begins": iso(month.begins),
            "resets": iso(month.ends),
        }

    @router.post("/v1/dub", response_class=Response, responses=ERRORS | RESULT, openapi_extra=DUB_BODY, tags=["dubs"])
    async def dub(request: Request) -> Response:
        """Dub a clip and wait for it; the answer is the MP4."""
        await model.healthy()
        dubbed = await model.dub(await read_submission(request))
        fields = result_fields(dubbed).items()
        headers = {f"x-dub-{name.replace('_', '-')}": json.dumps(value) for name, value in fields}
        return Response(dubbed.mp4, media_type="video/mp4", headers=headers)

    return router


def adapter_view(model: DubModel, name: str, source: ModelSource) -> dict[str, Any]:
    """An adapter as the API shows it."""
    return {
        "adapter": name,
        "is_default": name == RELEASE,
        "name": source.name,
        "version": source.version,
        "digest": source.digest,
        "languages": list(source.languages),
        "clip_seconds": source.size.seconds,
        "ready": model.ready,
    }


def languages_of(model: DubModel) -> list[dict[str, str]]:
    """Tag and English name of each language of the adapters, the default's first."""
    tags = dict.fromkeys(tag for source in model.sources.values() for tag in source.languages)
    return [{"tag": tag, "name": LANGUAGES[tag].name if tag in LANGUAGES else tag} for tag in tags]


async def read_submission(
    request: Request, own_fields: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
) -> Submission:
    """The submission in a form with a file, or in JSON with a URL; `own_fields` gives the fields other names where needed.

    Raises:
        UnsupportedBodyError: the body is neither.
        UsageError: it cannot be read, or a field is not in order.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        try:
            fields = await request.json()
        except ValueError as error:
            raise UsageError("the body is not JSON", where="body", cure=CURE) from error
        if not isinstance(fields, dict):
            raise UsageError("the body is not an object", where="body", cure=CURE)
        return Submission(parse_fields(own_fields(fields), "body", kind=DubFields, cure=CURE), b"")
    if content_type != "multipart/form-data":
        raise UnsupportedBodyError(f"{content_type[:80] or 'no content type'} is not read here", cure=CURE)
    async with request.form(max_files=1, max_fields=40, max_part_size=2_000_000) as form:
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in fields:
                raise UsageError("this field is sent twice", where=name[:80], cure=CURE)
            fields[name] = value
        fields = {**own_fields(fields)}
        video = fields.pop("video", None)
        if isinstance(video, str) or any(isinstance(value, UploadFile) for value in fields.values()):
            raise UsageError("only `video` is a file", where="form", cure=CURE)
        content = await video.read() if video is not None else b""
        return Submission(parse_fields(fields, "form", kind=FormFields, cure=CURE), content)


def view(model: DubModel, job: Job) -> dict[str, Any]:
    """A job as the API shows it."""
    seconds_left = model.jobs.wait_seconds(job)
    fields = {
        "id": job.id,
        "state": job.state,
        "stage": job.state if job.is_over or job.state == "queued" else job.attributes.get("stage", "decoding"),
        "progress": job.progress,
        "seconds_left": round(seconds_left, 1),
        "created": iso(job.created),
        "started": iso(job.started),
        "finished": iso(job.finished),
        "reference": job.fields.get("reference", ""),
        "language": job.fields.get("language", ""),
        "task": job.task["kind"],
        "links": {"self": f"/v1/dubs/{job.id}", "events": f"/v1/dubs/{job.id}/events"},
    }
    if job.task["kind"] not in ("clip", "dub"):
        fields["links"]["project"] = f"/v1/projects/{job.task.get('project', job.id)}"
    if job.state == "done":
        fields["result"] = {**job.result, "machine_generated": True, "expires": iso(_expiry(model, job))}
        if job.task["kind"] in FILE_TASKS:
            fields["links"] |= {name: f"/v1/dubs/{job.id}/{name}" for name in ("result", "credentials")}
    if job.state == "failed":
        fields["problem"] = problem(job_error(job))
    return fields


async def _events(model: DubModel, job: Job) -> AsyncIterator[str]:
    shown, last = "", time.monotonic()
    while True:
        data = json.dumps(await asyncio.to_thread(view, model, job))
        if data != shown:
            shown, last = data, time.monotonic()
            yield f"event: {'end' if job.is_over else 'status'}\ndata: {data}\n\n"
        elif time.monotonic() - last > KEEP_ALIVE_SECONDS:
            last = time.monotonic()
            yield ": still here\n\n"
        if job.is_over:
            return
        await model.changed(job)
        with suppress(*AWAY):  # what was shown last stays while the database is away
            job = await asyncio.to_thread(model.jobs.get, job.id, job.owner)


def _expiry(model: DubModel, job: Job) -> float:
    return (job.finished or job.created) + 3600.0 * model.jobs.limits.result_hours


def iso(seconds: float | None) -> str | None:
    """A time in seconds since 1970 in ISO 8601, or None."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else None


def _http_date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
