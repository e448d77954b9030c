"""The OpenAPI document: schemas of jobs and problems, and KServe's own routes with the answers that they really give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field

from dubmill.serving.fields import DubFields
from dubmill.serving.problems import MEDIA_TYPE


class VideoError(BaseModel):
    """Why there is no video, as OpenAI's clients read it."""

    code: str
    message: str


class Problem(BaseModel):
    """Problem details (RFC 9457); `error` is an object in the answers of `/v1/videos`, else the detail."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    error: str | VideoError
    kind: str | None = None


class ResultView(BaseModel):
    """What a job that is done made; the fields of a file are empty where its task makes none."""

    seconds: float
    size: str = ""  # a default: older results have none
    dubbed_seconds: float = 0.0
    seed: int
    num_bytes: int = 0
    sha256: str = ""
    source_sha256: str
    consent_entry: str = ""
    credentials: str = ""
    model_version: str
    release: str
    language: str
    notes: list[str]
    machine_generated: bool
    expires: str


class CredentialsView(BaseModel):
    """The C2PA manifest of a dub, as the server reads it from the file; without one, `has_manifest` is false and the rest empty."""

    has_manifest: bool = Field(description="whether a manifest was read")
    is_readable: bool = Field(True, description="false where the file or its manifest is damaged")
    is_unchanged: bool = Field(False, description="whether file and signature fit")
    is_development: bool = Field(False, description="signed by a certificate that no viewer trusts")
    issuer: str = ""
    signer: str = ""
    generator: str = ""
    failures: list[str] = Field(
        [], description="C2PA's codes of what does not fit; where `is_readable` is false, one sentence that says why"
    )
    claims: dict[str, str] = Field({}, description="what was signed: language, model, release, sha256 of the source")


class JobView(BaseModel):
    """A job at one moment."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str
    progress: float
    seconds_left: float
    created: str
    started: str | None
    finished: str | None
    reference: str
    language: str
    task: Literal["clip", "dub", "open", "redo", "render"]
    links: dict[str, str]
    result: ResultView | None = None
    problem: Problem | None = None


class UsageView(BaseModel):
    """A caller's seconds of video in a calendar month (UTC); without a quota the limit and what is left are null."""

    dubbed_seconds: float
    open_seconds: float
    limit_seconds: float | None
    left_seconds: float | None
    begins: str
    resets: str


class SegmentView(BaseModel):
    """A segment of a project; `end_seconds` is where its words end, and `note` what was done to make them fit."""

    id: str
    start_seconds: float
    end_seconds: float
    speaker: str
    face: str
    seed: int | None
    text: str
    state: Literal["no words", "to dub", "dubbed", "refused"]
    note: str


class ProjectView(BaseModel):
    """A film project in one of its languages; without segments while it is opened, and where that failed."""

    id: str
    state: Literal["opening", "ready", "failed"]
    language: str
    languages: list[str] = []
    reference: str
    film_seconds: float | None = None
    num_to_dub: int | None = None
    seconds_left: float | None = None
    segments: list[SegmentView] = []
    problem: Problem | None = None
    links: dict[str, str]


class ProjectEntry(BaseModel):
    """A project in the list of projects."""

    id: str
    languages: list[str]
    reference: str
    used: str
    expires: str
    links: dict[str, str]


class ProjectPage(BaseModel):
    """A page of projects, and where the next one begins."""

    projects: list[ProjectEntry]
    next_offset: int | None


class JobPage(BaseModel):
    """A page of jobs, and where the next one begins."""

    dubs: list[JobView]
    next_offset: int | None


_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_TITLES = {
    400: "a field is missing or wrong",
    401: "no valid API key",
    403: "a URL that this server does not call",
    404: "no such job, project or segment",
    409: "the job's state, the idempotency key, a job that has the project, or the number of projects does not allow it",
    413: "the video is too large or too long",
    415: "a body of another type",
    422: "a video, a language or words that cannot be dubbed",
    429: "too many jobs are waiting, or the month's seconds are used up; Retry-After says when to come again",
    503: "not ready, or stopping",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": title, "model": Problem, **_PROBLEM} for status, title in _TITLES.items()
}


def _file(what: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"description": what, "content": content},
        206: {"description": f"a part of {what}", "content": content},
    }


RESULT = _file("the dub", "video/mp4")
FILM_FILE = _file("the film, with the media type of its container", "*/*")
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def form_schema(title: str, renamed: Mapping[str, str], *, required: Sequence[str]) -> dict[str, Any]:
    """The fields of a form: those of JSON, with the file; `renamed` has the name of a field here by its name there."""
    schema = DubFields.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    fields = {**schema["properties"], "video": {"type": "string", "format": "binary"}}
    names = {own: name for name, own in renamed.items()}
    properties = {names.get(name, name): value for name, value in fields.items()}
    return {**schema, "title": title, "properties": properties, "required": [*schema["required"], *required]}


DUB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form_schema("DubForm", {}, required=[])},
            "application/json": {"schema": {"$ref": "#/components/schemas/DubFields"}},
        },
    }
}


def complete_document(app: FastAPI) -> None:
    """Put into the app's OpenAPI document what FastAPI does not see: the schemas that `DUB_BODY` refers to, and what KServe's routes answer."""
    original = app.openapi
    body = DubFields.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = {**body.pop("$defs"), "DubFields": body}

    def openapi() -> dict[str, Any]:
        document = original()
        document["components"]["schemas"] |= schemas
        document["paths"].pop("/", None)  # the studio's page, for KServe's answer to a probe
        for path, operations in document["paths"].items():
            if path.startswith(("/v1/models", "/v2", "/metrics")):
                for operation in operations.values():
                    _complete(operation["responses"], path)
        return document

    app.openapi = openapi


def _complete(responses: dict[str, Any], path: str) -> None:
    """Add the answers of one of KServe's routes to what FastAPI says of it."""
    responses |= {str(status): {"description": title, **_PROBLEM} for status, title in _TITLES.items()}
    if path == "/metrics":
        responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    elif path.endswith("/infer"):  # JSON, with tensors in binary behind it where the caller asks for them
        responses["200"]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
