"""The dubs as `/v1/videos`, the API of OpenAI that vLLM-Omni and SGLang serve too, for clients that know only that.

`prompt` holds the words, `input_reference` the video (a file, or in JSON its URL), `model` the name of the server's model or of an
adapter; `language`, `consent` and the other fields of `/v1/dubs` are sent beside them (`extra_body` in OpenAI's clients).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import dropwhile, islice
from typing import Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel

from dubmill.errors import UsageError
from dubmill.serving.job import Job
from dubmill.serving.jobs import JobStore, UnknownJobError
from dubmill.serving.model import CALLER, DubModel
from dubmill.serving.openapi import ERRORS, RESULT, VideoError, form_schema
from dubmill.serving.problems import VIDEOS
from dubmill.serving.routes import JobId, read_submission, result_file, view

RENAMED = {"prompt": "text", "model": "adapter"}
VIDEO_TASKS = ("clip", "dub")  # the other jobs belong to projects
PAGE_JOBS = 100  # that are read from the database at once
FIXED = ("size", "seconds")  # of the input, always
STATUS = {"queued": "queued", "running": "in_progress", "done": "completed"}
OF_FORM = {**RENAMED, "input_reference": "video"}
VIDEO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": form_schema("VideoForm", OF_FORM, required=["prompt"])}},
    }
}


class Video(BaseModel):
    """A job in OpenAI's form: times are seconds since 1970, `progress` is in percent, `size` and `seconds` known at the end."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    size: str
    seconds: str
    error: VideoError | None


class VideoPage(BaseModel):
    """A page of the caller's videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


def video_routes(model: DubModel) -> APIRouter:
    """The routes of `/v1/videos`."""
    router, jobs = APIRouter(tags=["videos"], prefix=VIDEOS, responses=ERRORS), model.jobs

    def find(video_id: str) -> Job:
        job = jobs.get(video_id, CALLER.get())
        if job.task["kind"] not in VIDEO_TASKS:
            raise UnknownJobError("there is no such video", where=video_id, cure="/v1/dubs has the jobs of projects")
        return job

    @router.post("", response_model=Video, openapi_extra=VIDEO_BODY)
    async def create(request: Request) -> dict[str, Any]:
        """Submit a video to be dubbed."""
        await model.healthy()
        submission = await read_submission(request, lambda fields: _own_fields(fields, model.name))
        job = await model.submit(submission)
        return await asyncio.to_thread(video_view, model, job)

    @router.get("", response_model=VideoPage)
    def list_videos(
        limit: int = Query(20, ge=1, le=100),
        after: str = Query("", pattern="^([0-9a-f]{32})?$", description="the last id of the page before"),
        order: Literal["asc", "desc"] = Query("desc", description="by time of submission"),
    ) -> dict[str, Any]:
        """The caller's videos, newest first unless `order` is asc."""
        videos = _all_videos(jobs, CALLER.get(), newest_first=order == "desc")
        if after:
            find(after)
            videos = islice(dropwhile(lambda job: job.id != after, videos), 1, None)
        found = list(islice(videos, limit + 1))
        data = [video_view(model, job) for job in found[:limit]]
        ends = [video["id"] for video in (*data[:1], *data[-1:])] or [None, None]
        return {"data": data, "first_id": ends[0], "last_id": ends[-1], "has_more": len(found) > limit}

    @router.get("/{video_id}", response_model=Video)
    def status(video_id: JobId) -> dict[str, Any]:
        """Status and progress."""
        return video_view(model, find(video_id))

    @router.get("/{video_id}/content", response_class=FileResponse, responses=RESULT)
    def content(video_id: JobId) -> FileResponse:
        """The dubbed MP4; ranges are answered."""
        return result_file(model, find(video_id))

    @router.delete("/{video_id}", response_model=DeletedVideo)
    def delete(video_id: JobId) -> dict[str, Any]:
        """Cancel the video where it is not done, and delete it."""
        job = find(video_id)
        jobs.discard(job.id, job.owner)
        return {"id": job.id}

    return router


def _all_videos(jobs: JobStore, owner: str, *, newest_first: bool) -> Iterator[Job]:
    """A caller's jobs that are videos, read in pages."""
    offset = 0
    while page := jobs.list(owner, limit=PAGE_JOBS, offset=offset, newest_first=newest_first):
        yield from (job for job in page if job.task["kind"] in VIDEO_TASKS)
        offset += len(page)


def video_view(model: DubModel, job: Job) -> dict[str, Any]:
    """A job in OpenAI's form."""
    shown = view(model, job)
    result, problem = shown.get("result", {}), shown.get("problem")
    if job.state == "cancelled":
        problem = {"code": "cancelled", "detail": "the job was cancelled"}
    return {
        "id": job.id,
        "model": job.fields.get("adapter") or model.name,
        "status": STATUS.get(job.state, "failed"),
        "progress": int(100 * job.progress),
        "created_at": int(job.created),
        "completed_at": int(job.finished) if job.finished and job.state == "done" else None,
        "expires_at": int(datetime.fromisoformat(result["expires"]).timestamp()) if result else None,
        "prompt": job.fields.get("text", ""),
        "size": result.get("size", ""),
        "seconds": f"{result['seconds']:g}" if result else "",
        "error": {"code": problem["code"], "message": problem["detail"]} if problem else None,
    }


def _own_fields(fields: Mapping[str, Any], model_name: str) -> dict[str, Any]:
    """The fields of `/v1/dubs` for those of a request in OpenAI's form.

    Raises:
        UsageError: one is sent under both names, or asks for another size or length than the input's.
    """
    own = {name: value for name, value in fields.items() if not (name == "model" and value in ("", model_name))}
    for name in FIXED:
        if own.pop(name, ""):
            raise UsageError("a dub has the size and length of its input", where=name, cure=f"leave out {name}")
    reference = {"input_reference": "video_url" if isinstance(own.get("input_reference"), str) else "video"}
    for name, own_name in {**RENAMED, **reference}.items():
        if name in own and own_name in own:
            raise UsageError(f"it is sent as {own_name} too", where=name, cure=f"send {name} alone")
    return {{**RENAMED, **reference}.get(name, name): value for name, value in own.items()}
