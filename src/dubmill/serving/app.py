"""KServe's server and FastAPI app with readiness by the model's state, errors as JSON, size limits, and our own routes."""

from __future__ import annotations

import json
import logging
import struct
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from kserve import InferRequest, ModelServer
from kserve.errors import InferenceError, ModelNotReady, ServerNotReady
from kserve.model_server import app as kserve_app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dubmill import __version__, media
from dubmill.dubbing.clip_size import FILM_HINT
from dubmill.dubbing.service import selftest_clip
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
from dubmill.serving import wire
from dubmill.serving.model import DubModel
from dubmill.serving.queue import QueueFullError
from dubmill.text.languages import LANGUAGES

MAX_ERROR_CHARACTERS = 800  # the longest of our own; fields that are quoted have limits of their own
PAGES = Path(__file__).parent / "pages"
STATUS: dict[type[DubmillError], HTTPStatus] = {  # the first that matches, so subclasses come first
    MediaTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnreadableMediaError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnsupportedTextError: HTTPStatus.UNPROCESSABLE_ENTITY,
    MissingConsentError: HTTPStatus.BAD_REQUEST,
    UsageError: HTTPStatus.BAD_REQUEST,
    InvalidParamsError: HTTPStatus.BAD_REQUEST,
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    DiskFullError: HTTPStatus.SERVICE_UNAVAILABLE,
    ServiceUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    DubmillError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class ReadinessDataPlane(DataPlane):
    """A data plane that reports the server ready only when its models are; KServe's own always reports ready."""

    async def ready(self) -> bool:
        """Whether every model is ready.

        Raises:
            ServerNotReady: one is not, with the reason.
        """
        try:
            return all([await model.healthy() for model in self.model_registry.get_models().values()])
        except ModelNotReady as error:
            raise ServerNotReady(str(error)) from error

    def decode_inference_request(self, body: Any, headers: dict[str, str], model_name: str) -> InferRequest:
        """The V2 request in a body of JSON, or of JSON with binary tensors behind it.

        Raises:
            UsageError: lengths and contents do not agree; KServe's own answers 500.
        """
        try:
            return super().decode_inference_request(body, headers, model_name)
        except (InferenceError, struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UsageError(
                f"the V2 request cannot be read ({type(error).__name__})",
                where="body",
                cure="make the lengths in the JSON and the header agree with the binary data",
            ) from error


class FixedModelRepository(ModelRepositoryExtension):
    """Refuses loading and unloading over the network, which KServe would allow to any caller."""

    async def load(self, model_name: str) -> None:
        """Refuse: the model is fixed for the life of the server."""
        raise NotImplementedError(f"{model_name} is loaded when the server starts")

    async def unload(self, model_name: str) -> None:
        """Refuse: the model is fixed for the life of the server."""
        raise NotImplementedError(f"{model_name} is unloaded when the server stops")


class DubServer(ModelServer):
    """KServe's server on one address, REST only: a video does not fit gRPC's 8 MiB messages."""

    def __init__(self, host: str, http_port: int) -> None:
        super().__init__(http_port=http_port, workers=1, enable_grpc=False, enable_latency_logging=True)
        self.host = host
        self.dataplane = ReadinessDataPlane(model_registry=self.registered_models)
        self.model_repository_extension = FixedModelRepository(model_registry=self.registered_models)

    async def _serve(self) -> None:
        assert self._rest_server is not None, "KServe makes it in start()"
        self._rest_server.config.host = self.host  # KServe has no option for it; uvicorn reads it later
        await super()._serve()


class BodyLimit:
    """Refuses a body over `max_bytes` before it is held in memory, whatever its headers say."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request, counting the bytes of its body as they arrive."""
        num_received, cure = 0, f"send a shorter clip, or {FILM_HINT}"

        async def counted() -> Message:
            nonlocal num_received
            message = await receive()
            num_received += len(message.get("body", b""))
            if num_received > self.max_bytes:
                raise MediaTooLargeError(f"the request is larger than {self.max_bytes} bytes", cure=cure)
            return message

        content_length = dict(scope.get("headers", [])).get(b"content-length", b"0")
        if content_length.isdigit() and int(content_length) > self.max_bytes:
            error = MediaTooLargeError(f"the request is larger than {self.max_bytes} bytes", cure=cure)
            await (await error_response(None, error))(scope, receive, send)
            return
        await self.app(scope, counted, send)


class DropQueryString(logging.Filter):
    """A log filter that drops query strings from the access log: a query may hold a consent statement."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Cut the query off uvicorn's (client, method, path, version, status); always true."""
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, *rest = record.args
            record.args = (client, method, str(path).partition("?")[0], *rest)
        return True


async def error_response(_: Request | None, error: Exception) -> JSONResponse:
    """A DubmillError as JSON (its message and class name) with the HTTP status of its class."""
    assert isinstance(error, DubmillError)
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, QueueFullError) else None
    content = {"error": shortened(error.sentence), "kind": type(error).__name__}
    return JSONResponse(content, status_code=status, headers=headers)


def shortened(sentence: str) -> str:
    """At most `MAX_ERROR_CHARACTERS` of an error message, which may quote the caller's input, with both its ends."""
    half = MAX_ERROR_CHARACTERS // 2
    return sentence if len(sentence) <= MAX_ERROR_CHARACTERS else f"{sentence[:half]} … {sentence[-half:]}"


def mount_model(server: DubServer, model: DubModel, *, max_body_bytes: int) -> None:
    """Register `model` with `server`, and add error handling, limits and routes to its app."""
    server.register_model(model)
    model.enable_latency_logging = server.enable_latency_logging
    kserve_app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    logging.getLogger("uvicorn.access").addFilter(DropQueryString())
    kserve_app.add_exception_handler(DubmillError, error_response)
    add_routes(kserve_app, model)


def add_routes(app: FastAPI, model: DubModel) -> None:
    """Add the studio page and its routes, and a route that takes and returns video bytes."""
    page = (PAGES / "studio.html").read_text()

    @app.get("/", include_in_schema=False)
    async def studio() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/v1/dub")
    async def about() -> dict[str, Any]:
        return describe(model)

    @app.get("/v1/dub/sample")
    def sample() -> Response:  # not async: FastAPI runs it in a thread, since FFmpeg takes a while
        clip, _ = selftest_clip(model.release)
        return Response(media.mp4_bytes(clip), media_type="video/mp4")

    @app.post("/v1/dub")
    async def dub(request: Request) -> Response:
        await model.healthy()
        fields = {**request.query_params, "video": await request.body()}
        result = await model.dub(wire.parse_request(fields, "query"))
        headers = {
            f"x-dub-{name.replace('_', '-')}": json.dumps(value) for name, value in wire.result_fields(result).items()
        }
        return Response(result.mp4, media_type="video/mp4", headers=headers)


def describe(model: DubModel) -> dict[str, Any]:
    """What a page or a client must know to request a dub."""
    release, source = model.release, model.source
    size, tags = source.size, source.languages
    return {
        "name": model.name,
        "version": source.version,
        "dubmill": __version__,
        "licence": release.lineage.licence,
        "ready": model.ready,
        "reason": model.unready_reason,
        "pending": model.queue.num_pending,
        "progress": model.progress,
        "languages": [{"tag": tag, "name": LANGUAGES[tag].name if tag in LANGUAGES else tag} for tag in tags],
        "clip": {
            "seconds": size.seconds,
            "num_frames": size.num_frames,
            "frame_rate": float(size.frame_rate),
            "height": size.height,
            "width": size.width,
        },
        "example": release.info.get("selftest", {}),
    }
