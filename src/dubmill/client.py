"""A client of the dubbing endpoint.

client = DubClient("http://localhost:8080")
video = client.dub("in.mp4", to="es", text="uno tres seis", consent="Ana Ruiz, the speaker, agrees", seed=1)
Path("out.mp4").write_bytes(video)
"""

from __future__ import annotations

import base64
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dubmill import errors
from dubmill.errors import DubmillError, ServiceUnavailableError, UnreadableMediaError

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class DubClient:
    """A served release at `url`; `timeout_seconds` includes the wait in the server's queue and the dub itself."""

    url: str
    name: str = "dubmill"
    timeout_seconds: float = 600.0

    def dub(
        self,
        path: Path | str,
        *,
        to: str,
        text: str,
        consent: str,
        seed: int = 0,
        face: str = "",
        speaker: str = "",
    ) -> bytes:
        """Returns an MP4 in which the person in the video at `path` says `text` in language `to`.

        `face` says which of several people: left, right, a number counted from the left, or all; `speaker` describes who
        speaks, such as a woman or a man.

        Raises:
            DubmillError: the server refused the request; with the server's message and the class it raised.
            ServiceUnavailableError: the server cannot be reached, or is busy or not ready.
        """
        answer = self.predict(path, to=to, text=text, consent=consent, seed=seed, face=face, speaker=speaker)
        return base64.b64decode(answer["video"])

    def predict(
        self,
        path: Path | str,
        *,
        to: str,
        text: str,
        consent: str,
        seed: int = 0,
        face: str = "",
        speaker: str = "",
    ) -> dict[str, Any]:
        """Dubs as `dub` does; returns all fields: video (base64), seconds, seed, model_version, machine_generated, notes."""
        video = base64.b64encode(_file_bytes(Path(path))).decode()
        instance = {"video": video, "language": to, "text": text, "consent": consent, "seed": seed}
        instance |= {"face": face, "speaker": speaker}
        response = self._send("POST", f"/v1/models/{self.name}:predict", {"instances": [instance]})
        return response["predictions"][0]

    def describe(self) -> dict[str, Any]:
        """Returns the properties of the served release: name, version, languages, clip size, readiness."""
        return self._send("GET", "/v1/dub", None)

    def wait_until_ready(self, *, seconds: float) -> None:
        """Return once the server's self-test has passed.

        Raises:
            ServiceUnavailableError: it has not within `seconds`; with the server's reason.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._send("GET", f"/v1/models/{self.name}", None)
                return
            except ServiceUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Returns the JSON of the server's response, or its error."""
        import httpx

        try:
            response = self._request(method, path, body)
            content = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ServiceUnavailableError(
                f"no answer ({error or type(error).__name__})", where=self.url, cure="start it with `dubmill serve`"
            ) from error
        if response.is_error:
            raise _refusal(response.status_code, content, self.url)
        return content

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Returns the server's response; while it is busy, the request is repeated when it says, within the timeout."""
        import httpx

        deadline = time.monotonic() + self.timeout_seconds
        while True:
            remaining = max(0.0, deadline - time.monotonic())
            response = httpx.request(method, self.url.rstrip("/") + path, json=body, timeout=remaining)
            wait_seconds = _retry_seconds(response)
            if wait_seconds is None or time.monotonic() + wait_seconds > deadline:
                return response
            time.sleep(wait_seconds)


def _retry_seconds(response: httpx.Response) -> float | None:
    """Returns the seconds until a request is repeated: Retry-After and up to a quarter more, so that clients do not retry together."""
    seconds = response.headers.get("retry-after", "")
    if response.status_code not in (429, 503) or not seconds.isdecimal():
        return None
    return int(seconds) * random.uniform(1.0, 1.25)  # noqa: S311 (no secret)


def _refusal(status: int, content: Any, url: str) -> DubmillError:
    """Returns the server's error as the class it was raised as; an unknown class by the status."""
    fields = content if isinstance(content, dict) else {}
    kind = getattr(errors, str(fields.get("kind", "")), None)
    if not (isinstance(kind, type) and issubclass(kind, DubmillError)):
        kind = {413: UnreadableMediaError, 429: ServiceUnavailableError, 503: ServiceUnavailableError}.get(
            status, DubmillError
        )
    return kind(str(fields.get("error", f"HTTP {status}")), where=url)


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableMediaError(
            f"it cannot be read ({error.strerror})", where=str(path), cure="give the path of a video"
        ) from error
