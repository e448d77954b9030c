"""What happens around every request: who calls, a limit on the body, no consent in a URL, cancellation, one log line."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dubmill.dubbing.clip_size import FILM_HINT
from dubmill.errors import DubmillError, MediaTooLargeError, MissingConsentError
from dubmill.serving.keys import Callers
from dubmill.serving.model import CALLER
from dubmill.serving.problems import error_response

log = logging.getLogger("dubmill.requests")

OPEN_PATHS = (
    "/v2/health/",
    "/metrics",
    "/openapi.json",
    "/films",
    "/studio.",
)  # for probes, scrapers and pages, without a key
QUIET_PATHS = ("/v2/health/", "/metrics")  # not logged while all is well


class BodyLimit:
    """Refuses a body over `max_bytes` before it is held in memory, whatever its headers say."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request, counting the bytes of its body as they arrive."""
        num_received = 0

        async def counted() -> Message:
            nonlocal num_received
            message = await receive()
            num_received += len(message.get("body", b""))
            if num_received > self.max_bytes:
                raise self._error()
            return message

        content_length = _headers(scope).get(b"content-length", b"0")
        if content_length.isdigit() and int(content_length) > self.max_bytes:
            await (await error_response(Request(scope), self._error()))(scope, receive, send)
            return
        await self.app(scope, counted, send)

    def _error(self) -> MediaTooLargeError:
        what = f"the request is larger than {self.max_bytes} bytes"
        return MediaTooLargeError(what, cure=f"send a shorter clip, or {FILM_HINT}")


class CallerCheck:
    """Identifies the caller, refuses consent in a URL (logs and proxies would keep it), and cancels a request whose caller left."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self.app, self.callers = app, callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request of a known caller."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if any(name == "consent" for name, _ in parse_qsl(scope["query_string"].decode("latin-1"))):
                raise MissingConsentError("consent does not belong in a URL", cure="send it in the body")
            if not _is_open(scope["path"]):
                CALLER.set(self.callers.identify(_headers(scope)))
        except DubmillError as error:
            await (await error_response(Request(scope), error))(scope, receive, send)
            return
        await _until_caller_leaves(self.app, scope, receive, send)


class RequestLog:
    """Gives each request an id, and writes one line of JSON about it: no query, no body, no names."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        request_id = _headers(scope).get(b"x-request-id", b"").decode("latin-1")[:64] or uuid.uuid4().hex

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]}
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            if status >= 400 or not scope["path"].startswith(QUIET_PATHS):
                log_request(
                    request_id, method=scope["method"], path=scope["path"][:200], status=status, started=started
                )


def log_request(request_id: str, *, method: str, path: str, status: int | str, started: float) -> None:
    """Write the one line of a request, which began at `started` of the monotonic clock."""
    line = {
        "request": request_id,
        "caller": CALLER.get(),
        "method": method,
        "path": path,
        "status": status,
        "ms": round(1000 * (time.monotonic() - started), 1),
    }
    log.info("%s", json.dumps(line))


async def _until_caller_leaves(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`, and cancel it when the caller closes the connection before the answer is complete."""
    messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=8)

    async def read() -> None:
        while True:
            message = await receive()
            await messages.put(message)
            if message["type"] == "http.disconnect":
                return

    reading = asyncio.ensure_future(read())
    answering = asyncio.ensure_future(app(scope, messages.get, send))
    try:
        await asyncio.wait({reading, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering
    finally:
        reading.cancel()
        answering.cancel()
        with suppress(asyncio.CancelledError, DubmillError):
            await reading


def _headers(scope: Scope) -> Mapping[bytes, bytes]:
    return dict(scope.get("headers", []))


def _is_open(path: str) -> bool:
    return path == "/" or path.startswith(OPEN_PATHS)
