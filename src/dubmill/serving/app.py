"""KServe's server and FastAPI app with readiness by the model's state, problem details, limits, jobs, and a studio page."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from kserve import InferRequest, ModelServer
from kserve.errors import InvalidInput, ModelNotFound
from kserve.model_server import app as kserve_app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import TimingMiddleware
from starlette.exceptions import HTTPException

from dubmill import __version__, media
from dubmill.artifacts.files import METRICS_FILE
from dubmill.dubbing.service import selftest_clip
from dubmill.errors import DubmillError
from dubmill.serving.database import AWAY
from dubmill.serving.grpc_server import DubGRPCServer
from dubmill.serving.keys import Callers
from dubmill.serving.middleware import BodyLimit, CallerCheck, RequestLog
from dubmill.serving.model import DubModel
from dubmill.serving.openapi import complete_document
from dubmill.serving.problems import (
    database_away_response,
    error_response,
    http_error_response,
    invalid_request_response,
    kserve_error_response,
)
from dubmill.serving.project_routes import project_routes
from dubmill.serving.routes import facts_routes, job_routes, languages_of
from dubmill.serving.videos import video_routes
from dubmill.serving.wire import refuse_unreadable_v2

FOLDER = Path(__file__).parent / "pages"
PAGES = {
    "/": "studio.html",
    "/films": "films.html",
    **{f"/{name}": name for name in ("studio.css", "studio.js", "films.js")},
}


class ReadinessDataPlane(DataPlane):
    """A data plane that reports the server ready only when its models are; KServe's own always reports ready."""

    async def ready(self) -> bool:
        """Whether every model is ready.

        Raises:
            NotReadyError: one is not, with the reason.
        """
        return all([await model.healthy() for model in self.model_registry.get_models().values()])

    def decode_inference_request(self, body: Any, headers: dict[str, str], model_name: str) -> InferRequest:
        """The V2 request in a body of JSON, or of JSON with binary tensors behind it.

        Raises:
            UsageError: lengths and contents do not agree; KServe's own answers 500.
        """
        with refuse_unreadable_v2():
            return super().decode_inference_request(body, headers, model_name)


class FixedModelRepository(ModelRepositoryExtension):
    """Refuses loading and unloading over the network, which KServe would allow to any caller: NotImplementedError becomes a 403."""

    async def load(self, model_name: str) -> None:
        """Refuse: the model is fixed for the life of the server."""
        raise NotImplementedError(f"{model_name} is loaded when the server starts")

    async def unload(self, model_name: str) -> None:
        """Refuse: the model is fixed for the life of the server."""
        raise NotImplementedError(f"{model_name} is unloaded when the server stops")


class DubServer(ModelServer):
    """KServe's server on one address: REST, and gRPC after `add_grpc`.

    At a signal it still answers until `drain` returns, so that probes and those who wait for a dub are not cut off.
    """

    def __init__(self, host: str, http_port: int, *, drain: Callable[[], None]) -> None:
        super().__init__(http_port=http_port, workers=1, enable_grpc=False, enable_latency_logging=True)
        self.host, self._drain = host, drain
        self.dataplane = ReadinessDataPlane(model_registry=self.registered_models)
        self.model_repository_extension = FixedModelRepository(model_registry=self.registered_models)

    def add_grpc(self, port: int, *, callers: Callers, max_body_bytes: int) -> None:
        """Serve V2 over gRPC too, from `start` on."""
        self._grpc_server = DubGRPCServer(
            f"{self.host}:{port}",
            self.dataplane,
            self.model_repository_extension,
            callers=callers,
            max_body_bytes=max_body_bytes,
        )
        self.servers.append(self._grpc_server.start(self.max_threads))

    async def _serve(self) -> None:
        assert self._rest_server is not None, "KServe makes it in start()"
        self._rest_server.config.host = self.host  # KServe has no option for it; uvicorn reads it later
        create = self._rest_server.create_application

        def create_application() -> None:
            create()
            _adjust_application()

        self._rest_server.create_application = create_application
        self._drain_before_exit(self._rest_server._server)
        await super()._serve()

    def _drain_before_exit(self, server: Any) -> None:
        """Put `drain` before uvicorn's own handling of signals; a second signal ends the server at once."""
        end, begun = server.handle_exit, threading.Event()

        def drain_and_end(number: int, frame: FrameType | None) -> None:
            self._drain()
            end(number, frame)

        def handle(number: int, frame: FrameType | None) -> None:
            if begun.is_set():
                end(signal.SIGINT, frame)
                return
            begun.set()
            threading.Thread(target=drain_and_end, args=(number, frame), name="drain").start()

        server.handle_exit = handle


def _adjust_application() -> None:
    """Take out of KServe's app what measures for a log that nobody reads, and let its errors be problem details."""
    kserve_app.user_middleware = [one for one in kserve_app.user_middleware if one.cls is not TimingMiddleware]
    for kind in (ModelNotFound, InvalidInput, NotImplementedError):
        kserve_app.add_exception_handler(kind, kserve_error_response)


def mount_model(
    server: DubServer, model: DubModel, *, max_body_bytes: int, callers: Callers, limits: Mapping[str, Any]
) -> None:
    """Register `model` with `server`, and add error handling, limits and routes to its app."""
    server.register_model(model)
    model.enable_latency_logging = server.enable_latency_logging
    kserve_app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    kserve_app.add_middleware(CallerCheck, callers=callers)
    kserve_app.add_middleware(RequestLog)
    logging.getLogger("uvicorn.access").disabled = True  # `RequestLog` has one line instead, without the query
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)
    kserve_app.add_exception_handler(DubmillError, error_response)
    for kind in AWAY:
        kserve_app.add_exception_handler(kind, database_away_response)
    kserve_app.add_exception_handler(HTTPException, http_error_response)
    kserve_app.add_exception_handler(RequestValidationError, invalid_request_response)
    kserve_app.include_router(job_routes(model))
    kserve_app.include_router(facts_routes(model, limits))
    kserve_app.include_router(project_routes(model))
    kserve_app.include_router(video_routes(model))
    add_pages(kserve_app, model)
    complete_document(kserve_app)


def add_pages(app: FastAPI, model: DubModel) -> None:
    """Add the studio's pages and what they ask for."""
    for path, name in PAGES.items():
        app.add_api_route(path, _page(FOLDER / name), include_in_schema=False)

    @app.get("/v1/dub", tags=["facts"])
    def about() -> dict[str, Any]:
        """What a page or a client must know to request a dub."""
        return describe(model)

    @app.get("/v1/dub/sample", tags=["facts"], response_class=Response)
    def sample() -> Response:  # not async: FastAPI runs it in a thread, since FFmpeg takes a while
        """A clip that the release dubs."""
        clip, _ = selftest_clip(model.release)
        return Response(media.mp4_bytes(clip), media_type="video/mp4")


def _page(path: Path) -> Callable[[], Awaitable[FileResponse]]:
    async def page() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})  # asked for again after an upgrade

    return page


def describe(model: DubModel) -> dict[str, Any]:
    """What a page or a client must know to request a dub."""
    release, source = model.release, model.source
    size = source.size
    return {
        "name": model.name,
        "version": source.version,
        "dubmill": __version__,
        "licence": release.lineage.licence,
        "ready": model.ready,
        "reason": model.unready_reason,
        "pending": model.jobs.num_open(),
        "languages": languages_of(model),
        "clip": {
            "seconds": size.seconds,
            "num_frames": size.num_frames,
            "frame_rate": float(size.frame_rate),
            "height": size.height,
            "width": size.width,
        },
        "example": release.info.get("selftest", {}),
        "figures": json.loads(release.file(METRICS_FILE).read_bytes())["summary"]
        if release.has_file(METRICS_FILE)
        else {},
    }
