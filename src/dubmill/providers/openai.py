"""An OpenAI-compatible endpoint: chat completions and transcriptions, every fault one sentence.

The key, where the endpoint wants one, comes from the environment variable OPENAI_API_KEY.
"""

from __future__ import annotations

import os
from typing import Any, Self

import httpx

from dubmill.errors import ServiceUnavailable

TIMEOUT_SECONDS = 120.0


class Endpoint:
    """One model behind one base URL; a context manager, since it keeps its connection."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        key = os.environ.get("OPENAI_API_KEY", "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def complete(self, messages: list[dict[str, str]], *, seed: int) -> str:
        """The text of one chat completion that was asked for as a JSON object.

        Raises:
            ServiceUnavailable: the endpoint does not answer, refuses, or answers something else.
        """
        body = {"model": self.model, "messages": messages, "seed": seed, "response_format": {"type": "json_object"}}
        reply = self._post("/chat/completions", "chat completion", json=body)
        try:
            return str(reply["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise self._nonsense("chat completion") from error

    def transcribe(self, wav: bytes, *, language: str) -> list[dict[str, Any]]:
        """Segments of a transcription, each with `start`, `end` (seconds) and `text`.

        Raises:
            ServiceUnavailable: the endpoint does not answer, refuses, or answers something else.
        """
        form = {"model": self.model, "language": language, "response_format": "verbose_json"}
        files = {"file": ("speech.wav", wav, "audio/wav")}
        reply = self._post("/audio/transcriptions", "transcription", data=form, files=files)
        try:
            return [
                {"start": float(one["start"]), "end": float(one["end"]), "text": str(one["text"])}
                for one in reply["segments"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise self._nonsense("transcription with segments") from error

    def _post(self, path: str, wanted: str, **content: Any) -> Any:
        try:
            reply = self._client.post(path, **content)
            reply.raise_for_status()
            return reply.json()
        except httpx.HTTPStatusError as error:
            status, said = error.response.status_code, error.response.text[:200]
            raise ServiceUnavailable(
                f"the model refused with status {status} ({said})",
                where=self.url,
                cure="check the model's name and OPENAI_API_KEY",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceUnavailable(
                f"the model did not answer ({type(error).__name__}: {error})",
                where=self.url,
                cure="start it, or mend its URL",
            ) from error
        except ValueError as error:
            raise self._nonsense(wanted) from error

    def _nonsense(self, wanted: str) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"the endpoint's reply is not a {wanted}",
            where=self.url,
            cure="give the base URL of an OpenAI-compatible API, usually one that ends in /v1",
        )
