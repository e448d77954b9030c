"""What the clients of the endpoint do, as flows of calls and pauses that do not know how bytes are sent."""

from __future__ import annotations

import base64
import json
import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dubmill import errors
from dubmill.errors import DubmillError, ServiceUnavailableError, UnreadableMediaError

if TYPE_CHECKING:
    import httpx

Value = TypeVar("Value")
POLL_SECONDS, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 0.5, 10.0
READY_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Call:
    """One HTTP request of a flow."""

    method: str
    path: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Pause:
    """A wait of a flow."""

    seconds: float


# What a method does, without knowing how bytes are sent: it yields calls and pauses, and is given responses, or the error of a call.
Flow = Generator[Call | Pause, Any, Value]


@dataclass(frozen=True)
class Requests:
    """The requests that both clients make, as flows."""

    url: str
    name: str = "dubmill"
    timeout_seconds: float = 600.0
    api_key: str = ""

    def _send(self, method: str, path: str, *, is_patient: bool = False, **options: Any) -> Flow[Any]:
        """The server's answer; repeated within the timeout while it is busy, and with `is_patient` while it does not answer."""
        deadline, pause_seconds = time.monotonic() + self.timeout_seconds, FIRST_PAUSE_SECONDS
        while True:
            response = yield Call(method, path, options)
            has_answer = not isinstance(response, Exception)
            if not (has_answer or is_patient):
                raise _no_answer(self.url, str(response) or type(response).__name__) from response
            if has_answer and (wait_seconds := _retry_seconds(response)) is None:
                if response.is_error:
                    raise _refusal(response, self.url)
                return response
            if not has_answer:
                wait_seconds = pause_seconds * random.uniform(0.5, 1.5)  # noqa: S311 (no secret)
                pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)
            if time.monotonic() + wait_seconds > deadline:
                raise _refusal(response, self.url) if has_answer else _no_answer(self.url, "")
            yield Pause(wait_seconds)

    def _get_json(self, method: str, path: str, **options: Any) -> Flow[Any]:
        """The server's answer as JSON.

        Raises:
            ServiceUnavailableError: it is not JSON, so that it comes from another server.
        """
        response = yield from self._send(method, path, **options)
        try:
            return response.json()
        except ValueError as error:
            raise _no_answer(self.url, "not JSON") from error

    def _predict(self, path: Path | str, fields: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        """What KServe's V1 protocol gives for a clip."""
        body = {"instances": [{"video": base64.b64encode(file_bytes(Path(path))).decode(), **fields}]}
        return (yield from self._get_json("POST", f"/v1/models/{self.name}:predict", json=body))["predictions"][0]

    def _submit(
        self, video: Path | str, key: str, fields: Mapping[str, Any], path: str = "/v1/dubs"
    ) -> Flow[dict[str, Any]]:
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        sent = {name: value for name, value in fields.items() if value not in ("", None)}
        if str(video).startswith(("https://", "http://")):
            options: dict[str, Any] = {"json": {**sent, "video_url": str(video)}}
        else:
            form = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in sent.items()}
            options = {"data": form, "files": {"video": (Path(video).name, file_bytes(Path(video)))}}
        return (yield from self._get_json("POST", path, headers=headers, **options))

    def _wait(self, job_id: str, progress: Callable[[float], None] | None) -> Flow[dict[str, Any]]:
        deadline = time.monotonic() + self.timeout_seconds
        while True:
            job = yield from self._get_json("GET", f"/v1/dubs/{job_id}", is_patient=True)
            if progress is not None:
                progress(float(job["progress"]))
            if job["state"] == "failed":
                raise _error_of(job["problem"]["status"], job["problem"], self.url)
            if job["state"] in ("done", "cancelled"):
                return job
            if time.monotonic() > deadline:
                what = f"job {job_id} is not done after {self.timeout_seconds:g} s"
                raise ServiceUnavailableError(what, where=self.url, cure="wait for it again")
            yield Pause(min(max(POLL_SECONDS, float(job["seconds_left"]) / 10), 5.0))

    def _wait_until_ready(self, seconds: float) -> Flow[None]:
        deadline = time.monotonic() + seconds
        while True:
            try:
                yield from self._get_json("GET", f"/v1/models/{self.name}")
                return
            except ServiceUnavailableError:
                if time.monotonic() > deadline:
                    raise
            yield Pause(READY_POLL_SECONDS)

    def _dub(
        self, video: Path | str, key: str, progress: Callable[[float], None] | None, fields: Mapping[str, Any]
    ) -> Flow[tuple[dict[str, Any], bytes]]:
        """A job from submission to its result."""
        job = yield from self._submit(video, key, fields)
        job = yield from self._wait(job["id"], progress)
        if job["state"] != "done":
            raise DubmillError(f"the job was {job['state']}", where=self.url, cure="submit it again")
        return job, (yield from self._result(job["id"]))

    def _result(self, job_id: str) -> Flow[bytes]:
        return (yield from self._send("GET", f"/v1/dubs/{job_id}/result", is_patient=True)).content

    def _options(self, call: Call) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {
            "method": call.method,
            "url": self.url.rstrip("/") + call.path,
            "timeout": self.timeout_seconds,
            **call.options,
            "headers": {**headers, **call.options.get("headers", {})},
        }


def _retry_seconds(response: httpx.Response) -> float | None:
    """When to repeat a request, by Retry-After, with up to a quarter more so that clients do not come all at once."""
    seconds = response.headers.get("retry-after", "")
    if response.status_code not in (429, 503) or not seconds.isdecimal():
        return None
    return int(seconds) * random.uniform(1.0, 1.25)  # noqa: S311 (no secret)


def _refusal(response: httpx.Response, url: str) -> DubmillError:
    try:
        content = response.json()
    except ValueError:
        content = {}
    return _error_of(response.status_code, content, url)


def _error_of(status: int, content: Any, url: str) -> DubmillError:
    """The server's error as the class it was raised as; an unknown class by the status."""
    fields = content if isinstance(content, dict) else {}
    kind = getattr(errors, str(fields.get("kind", "")), None)
    if not (isinstance(kind, type) and issubclass(kind, DubmillError)):
        known = {413: UnreadableMediaError, 429: ServiceUnavailableError, 503: ServiceUnavailableError}
        kind = known.get(status, DubmillError)
    return kind(str(fields.get("error", f"HTTP {status}")), where=url)


def _no_answer(url: str, why: str) -> ServiceUnavailableError:
    return ServiceUnavailableError(f"no answer ({why or 'timeout'})", where=url, cure="start it with `dubmill serve`")


def file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableMediaError(
            f"it cannot be read ({error.strerror})", where=str(path), cure="give the path of a video"
        ) from error
