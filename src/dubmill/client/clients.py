"""The clients: each sends the calls of flows in its own way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dubmill.client.flows import Flow, Pause, Requests, Value


class DubClient(Requests):
    """A served release at `url`; `timeout_seconds` includes the wait in the server's queue and the dub itself."""

    def dub(
        self,
        path: Path | str,
        *,
        to: str,
        text: str = "",
        consent: str | dict[str, Any],
        seed: int = 0,
        face: str = "",
        speaker: str = "",
        script: str = "",
        adapter: str = "",
        label: bool = False,
        key: str = "",
        progress: Callable[[float], None] | None = None,
    ) -> bytes:
        """The MP4 in which the person at `path`, a file or URL, says `text`, or in a film the lines of `script` (SRT).

        `face` says which of several people: left, right, a number counted from the left, or all; `speaker` describes who
        speaks, such as a woman or a man; `adapter` is one of `/v1/adapters`, else the one for the language; `label` burns in a visible label. With an idempotency `key`, a call that is repeated continues the same job.

        Raises:
            DubmillError: the server refused the request; with the server's message and the class it raised.
            ServiceUnavailableError: the server cannot be reached, or is busy or not ready.
        """
        fields = {"language": to, "text": text, "consent": consent, "seed": seed, "face": face, "speaker": speaker}
        fields |= {"script": script, "adapter": adapter, "label": label}
        return self._run(self._dub(path, key, progress, fields))[1]

    def submit(self, path: Path | str, *, key: str = "", **fields: Any) -> dict[str, Any]:
        """The job of a dub, not waited for; `fields` as in `/openapi.json`: language, text, consent, …"""
        return self._run(self._submit(path, key, fields))

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

    def create_project(self, path: Path | str, *, key: str = "", **fields: Any) -> dict[str, Any]:
        """A film project, which `wait` of its id opens; `fields`: language, script (SRT or WebVTT), consent and others of a dub."""
        return self._run(self._submit(path, key, fields, "/v1/projects"))

    def projects(self, *, limit: int = 20, offset: int = 0) -> dict[str, Any]:
        """A page of the caller's `projects`, the last used one first, and the `next_offset`."""
        return self._json("GET", "/v1/projects", params={"limit": limit, "offset": offset})

    def project(self, project_id: str, *, language: str = "") -> dict[str, Any]:
        """The project with its segments in one of its languages; empty, here and below: its first."""
        return self._json("GET", f"/v1/projects/{project_id}", params={"language": language})

    def put_language(self, project_id: str, language: str, *, script: str) -> dict[str, Any]:
        """The project in a language that is added with the words of `script` (SRT or WebVTT), or has them instead of its own."""
        return self._json("PUT", f"/v1/projects/{project_id}/languages/{language}", json={"script": script})

    def edit_segment(self, project_id: str, segment: str, *, language: str = "", **changes: Any) -> dict[str, Any]:
        """The segment with other text, speaker, face, start_seconds or end_seconds; nothing is dubbed."""
        path = f"/v1/projects/{project_id}/segments/{segment}"
        return self._json("PATCH", path, params={"language": language}, json=changes)

    def redo_segment(
        self, project_id: str, segment: str, seed: int | None = None, *, language: str = ""
    ) -> dict[str, Any]:
        """The job that dubs a segment again; without `seed` with one more than the last."""
        path = f"/v1/projects/{project_id}/segments/{segment}/redo"
        return self._json("POST", path, params={"language": language}, json={"seed": seed})

    def render_project(self, project_id: str, *, language: str = "") -> dict[str, Any]:
        """The job whose result is the film with all dubs of a language."""
        return self._json("POST", f"/v1/projects/{project_id}/render", params={"language": language})

    def delete_project(self, project_id: str) -> None:
        """Delete the project with its film."""
        self._run(self._send("DELETE", f"/v1/projects/{project_id}"))

    def predict(
        self, path: Path | str, *, to: str, text: str, consent: str | dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        """Dubs a clip by KServe's V1 protocol; returns video (base64), seconds, seed, model_version, machine_generated, notes.

        `more` are seed, face and speaker.
        """
        return self._run(self._predict(path, {"language": to, "text": text, "consent": consent, **more}))

    def describe(self) -> dict[str, Any]:
        """What the server serves: name, version, languages, clip size, readiness."""
        return self._json("GET", "/v1/dub")

    def wait_until_ready(self, *, seconds: float) -> None:
        """Return once the server's self-test has passed.

        Raises:
            ServiceUnavailableError: it has not within `seconds`; with the server's reason.
        """
        self._run(self._wait_until_ready(seconds))

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self._run(self._get_json(method, path, **options))

    def _run(self, flow: Flow[Value]) -> Value:
        import httpx

        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(step, Pause):
                answer = time.sleep(step.seconds)
                continue
            try:
                answer = httpx.request(**self._options(step))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                answer = error


class AsyncDubClient(Requests):
    """`DubClient` with coroutines."""

    async def dub(
        self,
        path: Path | str,
        *,
        to: str,
        consent: str | dict[str, Any],
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
        return await self._run(self._submit(path, key, fields))

    async def wait(self, job_id: str, progress: Callable[[float], None] | None = None) -> dict[str, Any]:
        """As `DubClient.wait`."""
        return await self._run(self._wait(job_id, progress))

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """As `DubClient.cancel`."""
        return await self._json("DELETE", f"/v1/dubs/{job_id}")

    async def result(self, job_id: str) -> bytes:
        """As `DubClient.result`."""
        return await self._run(self._result(job_id))

    async def status(self, job_id: str) -> dict[str, Any]:
        """As `DubClient.status`."""
        return await self._json("GET", f"/v1/dubs/{job_id}")

    async def create_project(self, path: Path | str, *, key: str = "", **fields: Any) -> dict[str, Any]:
        """As `DubClient.create_project`."""
        return await self._run(self._submit(path, key, fields, "/v1/projects"))

    async def projects(self, *, limit: int = 20, offset: int = 0) -> dict[str, Any]:
        """As `DubClient.projects`."""
        return await self._json("GET", "/v1/projects", params={"limit": limit, "offset": offset})

    async def project(self, project_id: str, *, language: str = "") -> dict[str, Any]:
        """As `DubClient.project`."""
        return await self._json("GET", f"/v1/projects/{project_id}", params={"language": language})

    async def put_language(self, project_id: str, language: str, *, script: str) -> dict[str, Any]:
        """As `DubClient.put_language`."""
        return await self._json("PUT", f"/v1/projects/{project_id}/languages/{language}", json={"script": script})

    async def edit_segment(
        self, project_id: str, segment: str, *, language: str = "", **changes: Any
    ) -> dict[str, Any]:
        """As `DubClient.edit_segment`."""
        path = f"/v1/projects/{project_id}/segments/{segment}"
        return await self._json("PATCH", path, params={"language": language}, json=changes)

    async def redo_segment(
        self, project_id: str, segment: str, seed: int | None = None, *, language: str = ""
    ) -> dict[str, Any]:
        """As `DubClient.redo_segment`."""
        path = f"/v1/projects/{project_id}/segments/{segment}/redo"
        return await self._json("POST", path, params={"language": language}, json={"seed": seed})

    async def render_project(self, project_id: str, *, language: str = "") -> dict[str, Any]:
        """As `DubClient.render_project`."""
        return await self._json("POST", f"/v1/projects/{project_id}/render", params={"language": language})

    async def delete_project(self, project_id: str) -> None:
        """As `DubClient.delete_project`."""
        await self._run(self._send("DELETE", f"/v1/projects/{project_id}"))

    async def predict(
        self, path: Path | str, *, to: str, text: str, consent: str | dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        """As `DubClient.predict`."""
        return await self._run(self._predict(path, {"language": to, "text": text, "consent": consent, **more}))

    async def describe(self) -> dict[str, Any]:
        """As `DubClient.describe`."""
        return await self._json("GET", "/v1/dub")

    async def wait_until_ready(self, *, seconds: float) -> None:
        """As `DubClient.wait_until_ready`."""
        await self._run(self._wait_until_ready(seconds))

    async def _json(self, method: str, path: str, **options: Any) -> Any:
        return await self._run(self._get_json(method, path, **options))

    async def _run(self, flow: Flow[Value]) -> Value:
        import httpx

        answer = None
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    step = flow.send(answer)
                except StopIteration as end:
                    return end.value
                if isinstance(step, Pause):
                    answer = await asyncio.sleep(step.seconds)
                    continue
                try:
                    answer = await client.request(**self._options(step))
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    answer = error
