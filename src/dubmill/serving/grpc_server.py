"""KServe's V2 service over gRPC, with the callers, limits, errors and log lines of the HTTP routes."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from grpc import StatusCode, aio
from kserve import InferRequest, InferResponse
from kserve.errors import ModelNotFound
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from dubmill.errors import DubmillError, UsageError
from dubmill.serving.database import AWAY, DatabaseUnavailableError, RetryLaterError
from dubmill.serving.keys import Callers
from dubmill.serving.middleware import log_request
from dubmill.serving.model import CALLER
from dubmill.serving.problems import REJECTIONS, problem, shortened
from dubmill.serving.wire import refuse_unreadable_v2

log = logging.getLogger("dubmill.serving")

OPEN_METHODS = ("ServerLive", "ServerReady", "ModelReady")  # for probes, which have no key and are not logged
STATUS: dict[
    int, StatusCode
] = {  # of HTTP statuses, as google.rpc.Code relates them; never one that invites a retry in vain
    HTTPStatus.BAD_REQUEST: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: StatusCode.FAILED_PRECONDITION,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNPROCESSABLE_ENTITY: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.TOO_MANY_REQUESTS: StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: StatusCode.UNAVAILABLE,
    HTTPStatus.INTERNAL_SERVER_ERROR: StatusCode.INTERNAL,
}


class DubServicer(InferenceServicer):
    """KServe's service, which refuses a request that cannot be decoded as the caller's fault."""

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        """One dub; a caller that leaves cancels it."""
        with refuse_unreadable_v2():
            self.validate_grpc_request(request)
            infer_request = InferRequest.from_grpc(request)
        response, _ = await self._data_plane.infer(model_name=request.model_name, request=infer_request)
        assert isinstance(response, InferResponse), "the model answers V2 with V2"
        return response.to_grpc()


class CallInterceptor(ExceptionToStatusInterceptor):
    """Identifies the caller of each call, answers errors with a status and a code, and writes one log line."""

    def __init__(self, callers: Callers) -> None:
        super().__init__()
        self.callers = callers

    async def intercept(self, method: Callable[..., Any], request: Any, context: Any, method_name: str) -> Any:
        """Pass on one call."""
        started, name = time.monotonic(), method_name.rpartition("/")[2]
        pairs = [(key, value) for key, value in context.invocation_metadata() if isinstance(value, str)]
        headers = {key.encode(): value.encode() for key, value in pairs}

        async def identified(request: Any, context: Any) -> Any:
            if name not in OPEN_METHODS:
                CALLER.set(self.callers.identify(headers))
            return await method(request, context)

        try:
            return await super().intercept(identified, request, context, method_name)
        finally:
            if name not in OPEN_METHODS:
                request_id = headers.get(b"x-request-id", b"").decode()[:64] or uuid.uuid4().hex
                status = StatusCode(context.code() or StatusCode.OK).name
                log_request(request_id, method="gRPC", path=method_name[:200], status=status, started=started)

    async def handle_exception(self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str) -> None:
        """End the call with the status of `ex`; the code of a problem and `retry-after` are trailing metadata."""
        if isinstance(ex, NotImplementedError):  # KServe's own reads a field that it does not have
            await context.abort(StatusCode.UNIMPLEMENTED, str(ex))
        if isinstance(ex, ModelNotFound):  # KServe's own logs a stack trace for the caller's fault
            await context.abort(StatusCode.NOT_FOUND, shortened(ex.reason))
        if isinstance(ex, AWAY):
            ex = DatabaseUnavailableError()
        if not isinstance(ex, DubmillError):
            await super().handle_exception(ex, request_or_iterator, context, method_name)
            return
        content = problem(ex)
        REJECTIONS.labels(content["status"], content["code"]).inc()
        trailing = [("code", content["code"])]
        if isinstance(ex, RetryLaterError):
            trailing.append(("retry-after", str(ex.retry_after_seconds)))
        await context.abort(STATUS[content["status"]], content["detail"], tuple(trailing))


class DubGRPCServer(GRPCServer):
    """KServe's gRPC server on one address (its own listens on all), with `CallInterceptor`."""

    def __init__(
        self,
        address: str,
        data_plane: DataPlane,
        repository: ModelRepositoryExtension,
        *,
        callers: Callers,
        max_body_bytes: int,
    ) -> None:
        super().__init__(0, data_plane, repository, kwargs={})
        self._address, self._callers, self._max_body_bytes = address, callers, max_body_bytes

    async def start(self, max_workers: int) -> None:
        """Serve until `stop`.

        Raises:
            UsageError: the port is taken.
        """
        self._server = server = aio.server(
            interceptors=(CallInterceptor(self._callers),),
            options=[
                ("grpc.max_receive_message_length", self._max_body_bytes),
                ("grpc.max_send_message_length", -1),  # a dub may be larger than its source
                ("grpc.so_reuseport", 0),  # else a second server would take half of the calls
            ],
        )
        servicer = DubServicer(self._data_plane, self._model_repository_extension)
        add_GRPCInferenceServiceServicer_to_server(servicer, server)
        try:
            server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise UsageError(
                "the port of gRPC is taken", where=self._address, cure="give another --grpc_port"
            ) from error
        await server.start()
        log.info("listening for gRPC on %s", self._address)
        await server.wait_for_termination()
