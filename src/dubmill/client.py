"""A client of the dubbing endpoint.

client = DubClient("http://localhost:8080")
video = client.dub("in.mp4", to="es", text="uno tres seis", consent="Ana Ruiz, the speaker, agrees", seed=1)
Path("out.mp4").write_bytes(video)

`AsyncDubClient` has the same methods as coroutines. Both submit jobs: a dropped connection, or a server that is started
again, costs nothing but time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
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


@dataclass(frozen=True)
class Call:
    """One HTTP request of a flow; `is_patient` ones are repeated while the server does not answer."""

    method: str
    path: str
    options: Mapping[str, Any]
    is_patient: bool = False


@dataclass(frozen=True)
class Pause:
    """A wait of a flow."""

    seconds: float


# What a method does, without knowing how bytes are sent: it yields calls and pauses, and is given responses.
Flow = Generator[Call | Pause, Any, Value]


@dataclass(frozen=True)
class _Requests:
    """The requests that both clients make, as flows."""

    url: str
    name: str = "dubmill"
    timeout_seconds: float = 600.0
    api_key: str = ""

    def _send(self, method: str, path: str, *, is_patient: bool = False, **options: Any) -> Flow[Any]:
        """The server's answer; while it is busy, the request is repeated when it says, within the timeout."""
        deadline, pause_seconds = time.monotonic() + self.timeout_seconds, FIRST_PAUSE_SECONDS
        while True:
            response = yield Call(method, path, options, is_patient)
            if response is not None and (wait_seconds := _retry_seconds(response)) is None:
                if response.is_error:
                    raise _refusal(response, self.url)
                return response
            if response is None:  # no answer to a patient request
                wait_seconds = pause_seconds * random.uniform(0.5, 1.5)  # noqa: S311 (no secret)
                pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)
            if time.monotonic() + wait_seconds > deadline:
                raise _refusal(response, self.url) if response is not None else _no_answer(self.url, "")
            yield Pause(wait_seconds)

    def _submit(self, video: Path | str, key: str, is_patient: bool, fields: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        sent = {name: value for name, value in fields.items() if value not in ("", None)}
        if str(video).startswith(("https://", "http://")):
            options: dict[str, Any] = {"json": {**sent, "video_url": str(video)}}
        else:
            form = {name: str(value) for name, value in sent.items()}
            options = {"data": form, "files": {"video": (Path(video).name, _file_bytes(Path(video)))}}
        response = yield from self._send("POST", "/v1/dubs", headers=headers, is_patient=is_patient, **options)
        return response.json()

    def _wait(self, job_id: str, progress: Callable[[float], None] | None) -> Flow[dict[str, Any]]:
        deadline = time.monotonic() + self.timeout_seconds
        while True:
            job = (yield from self._send("GET", f"/v1/dubs/{job_id}", is_patient=True)).json()
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

    def _dub(
        self, video: Path | str, key: str, progress: Callable[[float], None] | None, fields: Mapping[str, Any]
    ) -> Flow[tuple[dict[str, Any], bytes]]:
        """A job from submission to its result."""
        job = yield from self._submit(video, key, False, fields)
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


class DubClient(_Requests):
    """A served release at `url`; `timeout_seconds` includes the wait in the server's queue and the dub itself."""

    def dub(
        self,
        path: Path | str,
        *,
        to: str,
        text: str = "",
        consent: str,
        seed: int = 0,
        face: str = "",
        speaker: str = "",
        script: str = "",
        adapter: str = "",
        key: str = "",
        progress: Callable[[float], None] | None = None,
    ) -> bytes:
        """The MP4 in which the person at `path`, a file or URL, says `text`, or in a film the lines of `script` (SRT).

        `face` says which of several people: left, right, a number counted from the left, or all; `speaker` describes who
        speaks, such as a woman or a man; `adapter` is one of `/v1/adapters`, else the one for the language. With an idempotency `key`, a call that is repeated continues the same job.

        Raises:
            DubmillError: the server refused the request; with the server's message and the class it raised.
            ServiceUnavailableError: the server cannot be reached, or is busy or not ready.
        """
        fields = {"language": to, "text": text, "consent": consent, "seed": seed, "face": face, "speaker": speaker}
        return self._run(self._dub(path, key, progress, {**fields, "script": script, "adapter": adapter}))[1]

    def submit(self, path: Path | str, *, key: str = "", **fields: Any) -> dict[str, Any]:
        """The job of a dub, not waited for; `fields` as in `/openapi.json`: language, text, consent, …"""
        return self._run(self._submit(path, key, False, fields))

    def wait(self, job_id: str, progress: Callable[[float], None] | None = None) -> dict[str, Any]:
        """The job once it is done or cancelled; a server that is away is waited for.

        Raises:
            DubmillError: the job's problem.
        """
        return self._run(self._wait(job_id, progress))

    def status(self, job_id: str) -> dict[str, Any]:
        """The job as it is now."""
        return self._json("GET", f"/v1/dubs/{job_id}")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """The job, cancelled."""
        return self._json("DELETE", f"/v1/dubs/{job_id}")

    def result(self, job_id: str) -> bytes:
        """The MP4 of a job that is done."""
        return self._run(self._result(job_id))

    def predict(self, path: Path | str, *, to: str, text: str, consent: str, **more: Any) -> dict[str, Any]:
        """Dubs a clip by KServe's V1 protocol; returns video (base64), seconds, seed, model_version, machine_generated, notes.

        `more` are seed, face and speaker.
        """
        video = base64.b64encode(_file_bytes(Path(path))).decode()
        instance = {"video": video, "language": to, "text": text, "consent": consent, **more}
        body = {"instances": [instance]}
        return self._json("POST", f"/v1/models/{self.name}:predict", json=body)["predictions"][0]

    def describe(self) -> dict[str, Any]:
        """What the server serves: name, version, languages, clip size, readiness."""
        return self._json("GET", "/v1/dub")

    def wait_until_ready(self, *, seconds: float) -> None:
        """Return once the server's self-test has passed.

        Raises:
            ServiceUnavailableError: it has not within `seconds`; with the server's reason.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._json("GET", f"/v1/models/{self.name}")
                return
            except ServiceUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        response = self._run(self._send(method, path, **options))
        try:
            return response.json()
        except ValueError as error:
            raise _no_answer(self.url, "not JSON") from error

    def _run(self, flow: Flow[Value]) -> Value:
        import httpx

        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                continue
            try:
                answer = httpx.request(**self._options(step))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if not step.is_patient:
                    raise _no_answer(self.url, str(error) or type(error).__name__) from error


class AsyncDubClient(_Requests):
    """`DubClient` with coroutines."""

    async def dub(
        self,
        path: Path | str,
        *,
        to: str,
        consent: str,
        text: str = "",
        key: str = "",
        progress: Callable[[float], None] | None = None,
        **fields: Any,
    ) -> bytes:
        """As `DubClient.dub`; `fields` are seed, face, speaker, script and adapter."""
        sent = {"language": to, "text": text, "consent": consent, **fields}
        return (await self._run(self._dub(path, key, progress, sent)))[1]

    async def submit(self, path: Path | str, *, key: str = "", **fields: Any) -> dict[str, Any]:
        """As `DubClient.submit`."""
        return await self._run(self._submit(path, key, False, fields))

    async def wait(self, job_id: str, progress: Callable[[float], None] | None = None) -> dict[str, Any]:
        """As `DubClient.wait`."""
        return await self._run(self._wait(job_id, progress))

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """As `DubClient.cancel`."""
        return (await self._run(self._send("DELETE", f"/v1/dubs/{job_id}"))).json()

    async def result(self, job_id: str) -> bytes:
        """As `DubClient.result`."""
        return await self._run(self._result(job_id))

    async def _run(self, flow: Flow[Value]) -> Value:
        import asyncio

        import httpx

        answer = None
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    step = flow.send(answer)
                except StopIteration as end:
                    return end.value
                answer = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    continue
                try:
                    answer = await client.request(**self._options(step))
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    if not step.is_patient:
                        raise _no_answer(self.url, str(error) or type(error).__name__) from error


def webhook_signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """The signature of a webhook (standardwebhooks.com): HMAC-SHA256 of id, time and body; `whsec_…` is base64."""
    encoded = secret.removeprefix("whsec_")
    key = base64.b64decode(encoded) if encoded != secret else secret.encode()
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


def is_webhook_genuine(secret: str, headers: Mapping[str, str], body: bytes, *, max_age_seconds: float = 300.0) -> bool:
    """Whether a received webhook was signed with `secret`, and lately; header names are in lower case."""
    timestamp = headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > max_age_seconds:
        return False
    expected = webhook_signature(secret, headers.get("webhook-id", ""), timestamp, body)
    return any(hmac.compare_digest(expected, one) for one in headers.get("webhook-signature", "").split())


def _retry_seconds(response: httpx.Response) -> float | None:
    """When to repeat a request, by Retry-After, with up to a quarter more so that clients do not come all at once."""
    seconds = response.headers.get("retry-after", "")
    if response.status_code not in (429, 503) or not seconds.isdecimal():
        return None
    return int(seconds) * random.uniform(1.0, 1.25)  # noqa: S311 (no secret)


def _refusal(response: httpx.Response, url: str) -> DubmillError:
    is_json = "json" in response.headers.get("content-type", "")
    return _error_of(response.status_code, response.json() if is_json else {}, url)


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


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableMediaError(
            f"it cannot be read ({error.strerror})", where=str(path), cure="give the path of a video"
        ) from error
