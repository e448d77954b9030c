"""Errors as problem details (RFC 9457), each with the HTTP status and the machine-readable code of its class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput
from prometheus_client import Counter
from starlette.exceptions import HTTPException

from dubmill import errors
from dubmill.dubbing.project.project import BusyProjectError
from dubmill.errors import (
    DiskFullError,
    DubmillError,
    InvalidParamsError,
    MediaTooLargeError,
    MissingConsentError,
    ServiceUnavailableError,
    UnreadableMediaError,
    UnsupportedTextError,
    UsageError,
)
from dubmill.serving.adapters import UnknownAdapterError
from dubmill.serving.database import DatabaseUnavailableError, RetryLaterError
from dubmill.serving.job import Job
from dubmill.serving.jobs import JobConflictError, UnknownJobError
from dubmill.serving.open_jobs import QueueFullError
from dubmill.serving.outbound import ForbiddenSourceError
from dubmill.serving.projects import TooManyProjectsError, UnknownProjectError
from dubmill.serving.usage import QuotaExceededError

MAX_ERROR_CHARACTERS = 800  # the longest of our own; fields that are quoted have limits of their own
MEDIA_TYPE = "application/problem+json"
VIDEOS = "/v1/videos"  # the routes in the dialect of OpenAI
KSERVE = ("/v1/models", "/v2")  # the paths of its own routes
REJECTIONS = Counter("dub_rejections", "requests that were refused, by status and code", ["status", "code"])


class NotReadyError(ServiceUnavailableError):
    """The worker has not passed its self-test, or the server is stopping."""


class UnauthorizedError(UsageError):
    """The request has no valid API key."""


class UnsupportedBodyError(UsageError):
    """A body of a content type that the route does not read."""


STATUS: dict[type[DubmillError], HTTPStatus] = {  # the first that matches, so subclasses come first
    MediaTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnreadableMediaError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnsupportedTextError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnsupportedBodyError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenSourceError: HTTPStatus.FORBIDDEN,
    UnknownAdapterError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnknownJobError: HTTPStatus.NOT_FOUND,
    UnknownProjectError: HTTPStatus.NOT_FOUND,
    BusyProjectError: HTTPStatus.CONFLICT,
    TooManyProjectsError: HTTPStatus.CONFLICT,
    JobConflictError: HTTPStatus.CONFLICT,
    MissingConsentError: HTTPStatus.BAD_REQUEST,
    UsageError: HTTPStatus.BAD_REQUEST,
    InvalidParamsError: HTTPStatus.BAD_REQUEST,
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    QuotaExceededError: HTTPStatus.TOO_MANY_REQUESTS,
    DiskFullError: HTTPStatus.SERVICE_UNAVAILABLE,
    ServiceUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    DubmillError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def problem(error: DubmillError) -> dict[str, Any]:
    """An error as problem details; `error` and `kind` repeat it in KServe's form and as the class's name."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return _problem(status, code_of(type(error).__name__), error.sentence, kind=type(error).__name__)


def code_of(class_name: str) -> str:
    """The machine-readable code of an error class: `MissingConsentError` is `missing_consent`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name.removesuffix("Error")).lower()


def _problem(status: int, code: str, detail: str, **more: Any) -> dict[str, Any]:
    detail = shortened(detail)
    title = HTTPStatus(status).phrase
    return {
        "type": "about:blank",
        "title": title,
        "status": int(status),
        "code": code,
        "detail": detail,
        "error": detail,
    } | more


def shortened(sentence: str) -> str:
    """At most `MAX_ERROR_CHARACTERS` of an error message, which may quote the caller's input, with both its ends."""
    half = MAX_ERROR_CHARACTERS // 2
    return sentence if len(sentence) <= MAX_ERROR_CHARACTERS else f"{sentence[:half]} … {sentence[-half:]}"


async def error_response(request: Request, error: Exception) -> JSONResponse:
    """A DubmillError as problem details."""
    assert isinstance(error, DubmillError)
    content = problem(error)
    headers = {}
    if isinstance(error, RetryLaterError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if content["status"] == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(request, content, headers)


async def database_away_response(request: Request, error: Exception) -> JSONResponse:
    """An error of a database that does not answer as problem details; whoever watches the database logs it."""
    return await error_response(request, DatabaseUnavailableError())


async def kserve_error_response(request: Request, error: Exception) -> JSONResponse:
    """What KServe raises for a caller's fault as problem details: no such model or version, a body it cannot read, a model that is fixed."""
    if isinstance(error, NotImplementedError) and not request.url.path.startswith(KSERVE):
        raise error  # a fault of ours, which is a 500
    detail = str(getattr(error, "reason", error))
    status, code = HTTPStatus.NOT_FOUND, "unknown_model"
    if isinstance(error, InvalidInput):
        status, code = HTTPStatus.BAD_REQUEST, "usage"
    elif isinstance(error, NotImplementedError) and "/repository/" in request.url.path:
        status, code = HTTPStatus.FORBIDDEN, "fixed_model"
    return _response(request, _problem(status, code, detail), {})


async def http_error_response(request: Request, error: Exception) -> JSONResponse:
    """An error of the HTTP framework, such as an unknown path, as problem details."""
    assert isinstance(error, HTTPException)
    status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED and (
        methods := allowed_methods(request.app.openapi(), request.url.path)
    ):
        headers["Allow"] = ", ".join(methods)
    return _response(request, _problem(status, status.name.lower(), str(error.detail)), headers)


def allowed_methods(document: Mapping[str, Any], path: str) -> list[str]:
    """Returns the methods of all operations at a path, for the header Allow: Starlette names those of one route."""
    names = set()
    for template, operations in document["paths"].items():
        parts = (re.escape(part) for part in re.split(r"\{\w+\}", template))
        if re.fullmatch("[^/:]+".join(parts), path):  # a colon begins KServe's verbs
            names |= {method.upper() for method in operations}
    return sorted(names)


async def invalid_request_response(request: Request, error: Exception) -> JSONResponse:
    """Parameters of another type than the OpenAPI document says, as problem details."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    name = ".".join(str(part) for part in fault["loc"])[:80]
    detail = f"{name}: {fault['msg'][:300]}"
    return _response(request, _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_parameter", detail), {})


def _response(request: Request, content: dict[str, Any], headers: dict[str, str]) -> JSONResponse:
    REJECTIONS.labels(content["status"], content["code"]).inc()
    if request.url.path.startswith(VIDEOS):  # OpenAI's client shows nothing but `error.message`, and `error.code`
        content = {**content, "error": {"code": content["code"], "message": content["detail"]}}
    return JSONResponse(content, status_code=content["status"], headers=headers, media_type=MEDIA_TYPE)


def job_error(job: Job) -> DubmillError:
    """The problem of a failed job as the error that the worker met."""
    fields = job.problem
    own = {kind.__name__: kind for kind in STATUS}
    kind = own.get(str(fields.get("kind"))) or getattr(errors, str(fields.get("kind")), DubmillError)
    if not (isinstance(kind, type) and issubclass(kind, DubmillError)):
        kind = DubmillError
    return kind(str(fields.get("what", "")), where=str(fields.get("where", "")), cure=str(fields.get("cure", "")))


def raise_problem(job: Job) -> None:
    """Do nothing for a job that is done.

    Raises:
        DubmillError: the problem of a failed one.
        JobConflictError: it was cancelled, or is not over.
    """
    if job.state == "failed":
        raise job_error(job)
    if job.state != "done":
        raise JobConflictError(
            f"the job is {job.state}", where=job.id, cure="wait until it is done, or submit it again"
        )
