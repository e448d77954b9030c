"""Film projects over HTTP: `/v1/projects`. What takes the model is a job, which `/v1/dubs/{id}` shows, cancels and hands over."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from dubmill import media
from dubmill.config.params import Seed
from dubmill.serving.model import CALLER, DubModel
from dubmill.serving.openapi import DUB_BODY, ERRORS, FILM_FILE, JobView, ProjectPage, ProjectView, SegmentView
from dubmill.serving.problems import job_error, problem
from dubmill.serving.projects import FILM, SegmentChanges, ServedProject, UnknownProjectError
from dubmill.serving.routes import JobId, iso, read_submission, view
from dubmill.text.languages import base_tag

IdempotencyKey = Annotated[str, Header(max_length=128, description="a repeated request with it makes no second job")]
SegmentId = Annotated[str, Path(max_length=80)]
Language = Annotated[str, Query(max_length=35, description="one of the project's languages; empty: its first")]


class Redo(BaseModel):
    """How a segment is dubbed again."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: Seed | None = None


class Script(BaseModel):
    """The words of a film in one language."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    script: str = Field(max_length=1_000_000, description="SRT or WebVTT; each cue belongs to the segment it overlaps")


def project_routes(model: DubModel) -> APIRouter:
    """The routes of film projects."""
    router = APIRouter(tags=["projects"], prefix="/v1/projects", responses=ERRORS)

    @router.post("", status_code=202, response_model=ProjectView, openapi_extra=DUB_BODY)
    async def create(request: Request, response: Response, idempotency_key: IdempotencyKey = "") -> dict[str, Any]:
        """Make a project of a film and a script; the fields are those of a dub."""
        await model.healthy()
        job = await model.submit(await read_submission(request), key=idempotency_key, kind="open")
        response.headers["Location"] = f"/v1/projects/{job.id}"
        return await asyncio.to_thread(project_view, model, job.id)

    @router.get("", response_model=ProjectPage)
    def list_projects(
        limit: int = Query(20, ge=1, le=100), offset: int = Query(0, ge=0, le=1_000_000)
    ) -> dict[str, Any]:
        """The caller's projects that are open, the last used one first."""
        found = model.projects.list(CALLER.get(), limit=limit + 1, offset=offset)
        following = offset + limit if len(found) > limit else None
        entries = [entry for served in found[:limit] if (entry := _entry(model, served)) is not None]
        return {"projects": entries, "next_offset": following}

    @router.get("/{project_id}", response_model=ProjectView)
    def read(project_id: JobId, language: Language = "") -> dict[str, Any]:
        """The project with its segments, in one of its languages."""
        return project_view(model, project_id, language)

    @router.get("/{project_id}/film", response_class=FileResponse, responses=FILM_FILE)
    def film(project_id: JobId) -> FileResponse:
        """The film as it was uploaded, with the media type of its container; ranges are answered."""
        place = model.projects.get(project_id, CALLER.get()).folder / FILM
        headers = {"Cache-Control": "private", "X-Content-Type-Options": "nosniff"}
        return FileResponse(place, media_type=media.media_type_of(place), headers=headers)

    @router.delete("/{project_id}", status_code=204, response_class=Response)
    def delete(project_id: JobId) -> None:
        """Delete the project with its film; results of its jobs stay until they expire."""
        model.projects.delete(project_id, CALLER.get())

    router.include_router(_editing_routes(model))
    return router


def _editing_routes(model: DubModel) -> APIRouter:
    """The routes that change a project and dub it."""
    router = APIRouter()

    @router.put("/{project_id}/languages/{language}", response_model=ProjectView)
    def put_language(body: Script, project_id: JobId, language: Annotated[str, Path(max_length=35)]) -> dict[str, Any]:
        """Add a language with its words, or replace the words of one; nothing is dubbed."""
        served, tag = model.projects.get(project_id, CALLER.get()), base_tag(language)
        served.fields.model_copy(update={"language": tag}).check(model.sources)
        served.put_script(tag, body.script, model.backbone)
        return project_view(model, project_id, tag)

    @router.patch("/{project_id}/segments/{segment}", response_model=SegmentView)
    def edit(changes: SegmentChanges, project_id: JobId, segment: SegmentId, language: Language = "") -> dict[str, Any]:
        """Change a segment; nothing is dubbed. Text is that of one language, all else that of all."""
        served = model.projects.get(project_id, CALLER.get())
        tag = served.language_of(language)
        served.edit(segment, changes, tag, model.backbone)
        return next(one for one in _segments(model, served, tag)["segments"] if one["id"] == segment)

    @router.post("/{project_id}/segments/{segment}/redo", status_code=202, response_model=JobView)
    async def redo(
        how: Redo,
        project_id: JobId,
        segment: SegmentId,
        language: Language = "",
        idempotency_key: IdempotencyKey = "",
    ) -> dict[str, Any]:
        """Dub a segment again, with another seed: one more than its last where none is given.

        The seed is that of all languages; the others are dubbed with it at their next render.
        """
        task = {"kind": "redo", "segment": segment, "seed": how.seed}
        return await _submit(project_id, task, language, idempotency_key)

    @router.post("/{project_id}/render", status_code=202, response_model=JobView)
    async def render(
        project_id: JobId, language: Language = "", idempotency_key: IdempotencyKey = ""
    ) -> dict[str, Any]:
        """Dub what is missing in one language and join the film, which is the result of this job."""
        return await _submit(project_id, {"kind": "render"}, language, idempotency_key)

    async def _submit(project_id: str, task: dict[str, Any], language: str, key: str) -> dict[str, Any]:
        await model.healthy()
        job = await model.submit_task(project_id, task, language, key=key)
        return await asyncio.to_thread(view, model, job)

    return router


def _entry(model: DubModel, served: ServedProject) -> dict[str, Any] | None:
    """A project as the list shows it; None where it cannot be opened, or has been deleted meanwhile."""
    project_id, used = served.folder.name, served.used
    try:
        languages = served.open().settings.languages
    except UnknownProjectError:
        return None
    if not used:
        return None
    return {
        "id": project_id,
        "languages": languages,
        "reference": served.fields.reference,
        "used": iso(used),
        "expires": iso(used + 3600.0 * model.projects.hours),
        "links": {"self": f"/v1/projects/{project_id}"},
    }


def project_view(model: DubModel, project_id: str, language: str = "") -> dict[str, Any]:
    """A project as the API shows it, in one of its languages or the first.

    Raises:
        UnknownProjectError: the caller has none of that id.
    """
    owner, links = CALLER.get(), {"self": f"/v1/projects/{project_id}"}
    served, job = model.projects.find(project_id, owner), model.jobs.find(project_id, owner)
    if job is not None:
        links["job"] = f"/v1/dubs/{project_id}"
    if served is not None:
        tag = served.language_of(language)
        links["film"] = f"/v1/projects/{project_id}/film"
        fields = {"state": "ready", "language": tag, "reference": served.fields.reference}
        return {"id": project_id, "links": links, **fields, **_segments(model, served, tag)}
    if job is None or job.task["kind"] != "open" or job.state == "done":
        raise UnknownProjectError("there is no such project", where=project_id, cure="make one with POST /v1/projects")
    fields = {"language": job.fields["language"], "reference": job.fields["reference"]}
    if job.state == "failed":
        fields["problem"] = problem(job_error(job))
    state = "failed" if job.is_over else "opening"
    return {"id": project_id, "state": state, "links": links, **fields}


def _segments(model: DubModel, served: ServedProject, language: str) -> dict[str, Any]:
    """The segments with their states, which are found without the model's weights, and what is left to do."""
    work = served.work_without_weights(model.sources, model.backbone, language)
    state = work.state()
    segments = [
        {
            "id": row.id,
            "start_seconds": row.start_seconds,
            "end_seconds": row.segment(language).end_seconds,
            "speaker": row.speaker,
            "face": row.face,
            "seed": row.seed,
            "text": row.targets[language].text,
            "state": segment.state,
            "note": segment.note,
        }
        for row, segment in zip(work.project.rows, state.segments, strict=True)
    ]
    return {
        "languages": work.project.settings.languages,
        "film_seconds": work.film.info.seconds,
        "num_to_dub": state.num_to_dub,
        "seconds_left": state.seconds_left,
        "segments": segments,
    }
