"""What a user of the endpoint imports.

video = DubClient("http://localhost:8080").dub("in.mp4", to="es", text="uno tres seis", consent="Ana Ruiz agrees", seed=1)
Path("out.mp4").write_bytes(video)
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dubmill import errors
from dubmill.errors import DubmillError, ServiceUnavailable, UnreadableMedia


@dataclass(frozen=True)
class DubClient:
    """A served release at `url`; `timeout_seconds` covers waiting for a turn and the dub itself."""

    url: str
    name: str = "dubmill"
    timeout_seconds: float = 600.0

    def dub(self, path: Path | str, *, to: str, text: str, consent: str, seed: int = 0, face: str = "") -> bytes:
        """The MP4 in which the person at `path` says `text` in language `to`.

        `face` says who of several people: left, right, a number counted from the left, or all.

        Raises:
            DubmillError: what the server refused, in its own sentence and as its own class.
            ServiceUnavailable: it cannot be reached, or is busy or not ready.
        """
        return base64.b64decode(self.ask(path, to=to, text=text, consent=consent, seed=seed, face=face)["video"])

    def ask(
        self, path: Path | str, *, to: str, text: str, consent: str, seed: int = 0, face: str = ""
    ) -> dict[str, Any]:
        """As `dub`, but the whole answer: video (base64), seconds, seed, model_version, machine_generated, notes."""
        video = base64.b64encode(_bytes_of(Path(path))).decode()
        instance = {"video": video, "language": to, "text": text, "consent": consent, "seed": seed, "face": face}
        answer = self._send("POST", f"/v1/models/{self.name}:predict", {"instances": [instance]})
        return answer["predictions"][0]

    def about(self) -> dict[str, Any]:
        """What the server tells of itself: name, version, languages, clip size, readiness."""
        return self._send("GET", "/v1/dub", None)

    def wait_until_ready(self, *, seconds: float) -> None:
        """Return once the self-test has passed.

        Raises:
            ServiceUnavailable: it has not within `seconds`; the sentence tells the server's reason.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                self._send("GET", f"/v1/models/{self.name}", None)
                return
            except ServiceUnavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        import httpx

        try:
            answer = httpx.request(method, self.url.rstrip("/") + path, json=body, timeout=self.timeout_seconds)
            told = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ServiceUnavailable(
                f"no answer ({error or type(error).__name__})", where=self.url, cure="start it with `dubmill serve`"
            ) from error
        if answer.is_error:
            raise _refusal(answer.status_code, told, self.url)
        return told


def _refusal(status: int, told: Any, url: str) -> DubmillError:
    """The server's error as the class it was raised as; unknown ones by their status."""
    said = told if isinstance(told, dict) else {}
    kind = getattr(errors, str(said.get("kind", "")), None)
    if not (isinstance(kind, type) and issubclass(kind, DubmillError)):
        kind = {413: UnreadableMedia, 429: ServiceUnavailable, 503: ServiceUnavailable}.get(status, DubmillError)
    return kind(str(said.get("error", f"HTTP {status}")), where=url)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableMedia(
            f"it cannot be read ({error.strerror})", where=str(path), cure="give the path of a video"
        ) from error
