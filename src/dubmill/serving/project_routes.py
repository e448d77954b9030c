"""Film projects over HTTP: `/v1/projects`. What takes the model is a job, which `/v1/dubs/{id}` shows, cancels and hands over."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict

from dubmill.config.params import Seed
from dubmill.dubbing.open import film_service
from dubmill.serving.adapters import choose
from dubmill.serving.model import CALLER, DubModel
from dubmill.serving.openapi import DUB_BODY, ERRORS, JobView, ProjectView, SegmentView
from dubmill.serving.problems import job_error, problem
from dubmill.serving.projects import SegmentChanges, ServedProject, UnknownProjectError
from dubmill.serving.routes import JobId, read_submission, view

IdempotencyKey = Annotated[str, Header(max_length=128, description="a repeated request with it makes no second job")]
SegmentId = Annotated[str, Path(max_length=80)]


class Redo(BaseModel):
    """How a segment is dubbed again."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: Seed | None = None


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

    @router.get("/{project_id}", response_model=ProjectView)
    def read(project_id: JobId) -> dict[str, Any]:
        """The project with its segments."""
        return project_view(model, project_id)

    @router.delete("/{project_id}", status_code=204, response_class=Response)
    def delete(project_id: JobId) -> None:
        """Delete the project with its film; results of its jobs stay until they expire."""
        model.projects.delete(project_id, CALLER.get())

    @router.patch("/{project_id}/segments/{segment}", response_model=SegmentView)
    def edit(changes: SegmentChanges, project_id: JobId, segment: SegmentId) -> dict[str, Any]:
        """Change a segment; nothing is dubbed."""
        served = model.projects.get(project_id, CALLER.get())
        served.edit(segment, changes, model.backbone)
        return next(one for one in _segments(model, served)["segments"] if one["id"] == segment)

    @router.post("/{project_id}/segments/{segment}/redo", status_code=202, response_model=JobView)
    async def redo(
        how: Redo, project_id: JobId, segment: SegmentId, idempotency_key: IdempotencyKey = ""
    ) -> dict[str, Any]:
        """Dub a segment again, with another seed: one more than its last where none is given."""
        return await _submit(project_id, {"kind": "redo", "segment": segment, "seed": how.seed}, idempotency_key)

    @router.post("/{project_id}/render", status_code=202, response_model=JobView)
    async def render(project_id: JobId, idempotency_key: IdempotencyKey = "") -> dict[str, Any]:
        """Dub what is missing and join the film, which is the result of this job."""
        return await _submit(project_id, {"kind": "render"}, idempotency_key)

    async def _submit(project_id: str, task: dict[str, Any], key: str) -> dict[str, Any]:
        await model.healthy()
        job = await model.submit_task(project_id, task, key=key)
        return await asyncio.to_thread(view, model, job)

    return router


def project_view(model: DubModel, project_id: str) -> dict[str, Any]:
    """A project as the API shows it.

    Raises:
        UnknownProjectError: the caller has none of that id.
    """
    owner, links = CALLER.get(), {"self": f"/v1/projects/{project_id}"}
    served, job = model.projects.find(project_id, owner), model.jobs.find(project_id, owner)
    if job is not None:
        links["job"] = f"/v1/dubs/{project_id}"
    if served is not None:
        fields = {"state": "ready", "language": served.language, "reference": served.fields.reference}
        return {"id": project_id, "links": links, **fields, **_segments(model, served)}
    if job is None or job.task["kind"] != "open" or job.state == "done":
        raise UnknownProjectError("there is no such project", where=project_id, cure="make one with POST /v1/projects")
    fields = {"language": job.fields["language"], "reference": job.fields["reference"]}
    if job.state == "failed":
        fields["problem"] = problem(job_error(job))
    state = "failed" if job.is_over else "opening"
    return {"id": project_id, "state": state, "links": links, **fields}


def _segments(model: DubModel, served: ServedProject) -> dict[str, Any]:
    """The segments with their states, which are found without the model's weights, and what is left to do."""
    source = model.sources[choose(model.sources, served.fields.adapter, served.language)]
    work = served.work(film_service(model.backbone, source))
    state = work.state()
    segments = [
        {
            "id": row.id,
            "start_seconds": row.start_seconds,
            "end_seconds": row.segment(served.language).end_seconds,
            "speaker": row.speaker,
            "face": row.face,
            "seed": row.seed,
            "text": row.targets[served.language].text,
            "state": segment.state,
            "note": segment.note,
        }
        for row, segment in zip(work.project.rows, state.segments, strict=True)
    ]
    return {
        "film_seconds": work.film.info.seconds,
        "num_to_dub": state.num_to_dub,
        "seconds_left": state.seconds_left,
        "segments": segments,
    }
