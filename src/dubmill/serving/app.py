"""KServe's server and FastAPI app, with what this product adds: honest readiness, sentences for errors, own routes."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from kserve import ModelServer
from kserve.errors import ModelNotReady, ServerNotReady
from kserve.model_server import app as kserve_app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dubmill import __version__, media
from dubmill.dubbing.service import AS_A_FILM, ClipSize, languages_of, selftest_of, version_of
from dubmill.errors import (
    BadParams,
    ConsentMissing,
    DubmillError,
    OutOfRoom,
    ServiceUnavailable,
    UnreadableMedia,
    UnsayableText,
    UsageError,
)
from dubmill.media import OversizedMedia
from dubmill.serving import wire
from dubmill.serving.model import DubModel
from dubmill.serving.queue import QueueFull
from dubmill.text.languages import LANGUAGES

PAGES = Path(__file__).parent / "pages"
STATUS: dict[type[DubmillError], HTTPStatus] = {  # the first that fits, so the narrow ones come first
    OversizedMedia: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnreadableMedia: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnsayableText: HTTPStatus.UNPROCESSABLE_ENTITY,
    ConsentMissing: HTTPStatus.BAD_REQUEST,
    UsageError: HTTPStatus.BAD_REQUEST,
    BadParams: HTTPStatus.BAD_REQUEST,
    QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    OutOfRoom: HTTPStatus.SERVICE_UNAVAILABLE,
    ServiceUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    DubmillError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class HonestDataPlane(DataPlane):
    """A data plane whose server is ready only when its models are; KServe's own always says yes."""

    async def ready(self) -> bool:
        """Whether every model is ready.

        Raises:
            ServerNotReady: one is not, with the reason.
        """
        try:
            return all([await model.healthy() for model in self.model_registry.get_models().values()])
        except ModelNotReady as error:
            raise ServerNotReady(str(error)) from error


class OneRelease(ModelRepositoryExtension):
    """No loading or unloading over the network: KServe would let any caller take the model away."""

    async def load(self, model_name: str) -> None:
        """Refuse."""
        raise NotImplementedError(f"{model_name} is loaded when the server starts")

    async def unload(self, model_name: str) -> None:
        """Refuse."""
        raise NotImplementedError(f"{model_name} is unloaded when the server stops")


class DubServer(ModelServer):
    """KServe's server on one address, REST only: a video does not fit gRPC's 8 MiB messages."""

    def __init__(self, host: str, http_port: int) -> None:
        super().__init__(http_port=http_port, workers=1, enable_grpc=False, enable_latency_logging=True)
        self.host = host
        self.dataplane = HonestDataPlane(model_registry=self.registered_models)
        self.model_repository_extension = OneRelease(model_registry=self.registered_models)

    async def _serve(self) -> None:
        self._rest_server.config.host = self.host  # KServe has no option for it; uvicorn reads it from here on
        await super()._serve()


class BodyLimit:
    """Refuse a body over `max_bytes` before it is held in memory, whatever its headers say."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, its body counted as it comes in."""
        received, cure = 0, f"send a shorter clip, or {AS_A_FILM}"

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise OversizedMedia(f"the request is larger than {self.max_bytes} bytes", cure=cure)
            return message

        announced = dict(scope.get("headers", [])).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            error = OversizedMedia(f"the request is larger than {self.max_bytes} bytes", cure=cure)
            await (await say(None, error))(scope, receive, send)
            return
        await self.app(scope, counted, send)


class QueryKeptOut(logging.Filter):
    """Keeps names and words out of the access log: a consent statement may travel in the query."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true, after cutting the query off uvicorn's (client, method, path, version, status)."""
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, *rest = record.args
            record.args = (client, method, str(path).partition("?")[0], *rest)
        return True


async def say(_: Request | None, error: Exception) -> JSONResponse:
    """A DubmillError as JSON: its sentence and its name, under the status that fits."""
    assert isinstance(error, DubmillError)
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, QueueFull) else None
    content = {"error": error.sentence, "kind": type(error).__name__}
    return JSONResponse(content, status_code=status, headers=headers)


def prepare(server: DubServer, model: DubModel, *, max_body_bytes: int) -> None:
    """Put `model` on `server`, and errors, limits and routes on its app."""
    server.register_model(model)
    model.enable_latency_logging = server.enable_latency_logging
    kserve_app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    logging.getLogger("uvicorn.access").addFilter(QueryKeptOut())
    kserve_app.add_exception_handler(DubmillError, say)
    add_routes(kserve_app, model)


def add_routes(app: FastAPI, model: DubModel) -> None:
    """The studio page, what it asks, and a dub as plain bytes in and out."""
    page = (PAGES / "studio.html").read_text()

    @app.get("/", include_in_schema=False)
    async def studio() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/v1/dub")
    async def about() -> dict[str, Any]:
        return describe(model)

    @app.get("/v1/dub/sample")
    def sample() -> Response:  # not async: FastAPI runs it in a thread, and FFmpeg may take its time
        clip, _ = selftest_of(model.release)
        return Response(media.mp4_bytes(clip), media_type="video/mp4")

    @app.post("/v1/dub")
    async def dub(request: Request) -> Response:
        await model.healthy()
        fields = {**request.query_params, "video": await request.body()}
        made = await model.dub(wire.request_of(fields, "query"))
        facts = {f"x-dub-{name.replace('_', '-')}": json.dumps(value) for name, value in wire.facts(made).items()}
        return Response(made.mp4, media_type="video/mp4", headers=facts)


def describe(model: DubModel) -> dict[str, Any]:
    """What a page or a client must know to ask for a dub."""
    release, size = model.release, ClipSize.of(model.release)
    tags = languages_of(release)
    return {
        "name": model.name,
        "version": version_of(release),
        "dubmill": __version__,
        "licence": release.lineage.licence,
        "ready": model.ready,
        "why": model.why,
        "pending": model.queue.pending,
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
