"""A client of an OpenAI-compatible API: chat completions and transcriptions.

The API key, where one is needed, is read from the environment variable OPENAI_API_KEY.
"""

from __future__ import annotations

import os
from typing import Any, Self

import httpx

from dubmill.errors import ServiceUnavailableError

TIMEOUT_SECONDS = 120.0


class Endpoint:
    """One model at one base URL; a context manager, since it keeps its connection open."""

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
        """Returns the text of one chat completion, requested as a JSON object.

        Raises:
            ServiceUnavailableError: no answer, an error status, or a malformed reply.
        """
        body = {"model": self.model, "messages": messages, "seed": seed, "response_format": {"type": "json_object"}}
        reply = self._post("/chat/completions", "chat completion", json=body)
        try:
            return str(reply["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise self._malformed_reply("chat completion") from error

    def transcribe(self, wav: bytes, *, language: str) -> list[dict[str, Any]]:
        """Returns segments of a transcription, each with `start`, `end` (seconds) and `text`.

        Raises:
            ServiceUnavailableError: no answer, an error status, or a malformed reply.
        """
        form = {"model": self.model, "language": language, "response_format": "verbose_json"}
        files = {"file": ("speech.wav", wav, "audio/wav")}
        reply = self._post("/audio/transcriptions", "transcription", data=form, files=files)
        try:
            return [
                {"start": float(segment["start"]), "end": float(segment["end"]), "text": str(segment["text"])}
                for segment in reply["segments"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise self._malformed_reply("transcription with segments") from error

    def _post(self, path: str, expected: str, **content: Any) -> Any:
        try:
            reply = self._client.post(path, **content)
            reply.raise_for_status()
            return reply.json()
        except httpx.HTTPStatusError as error:
            status, text = error.response.status_code, error.response.text[:200]
            raise ServiceUnavailableError(
                f"the model refused with status {status} ({text})",
                where=self.url,
                cure="check the model's name and OPENAI_API_KEY",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceUnavailableError(
                f"the model did not answer ({type(error).__name__}: {error})",
                where=self.url,
                cure="start it, or correct its URL",
            ) from error
        except ValueError as error:
            raise self._malformed_reply(expected) from error

    def _malformed_reply(self, expected: str) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            f"the endpoint's reply is not a {expected}",
            where=self.url,
            cure="give the base URL of an OpenAI-compatible API, usually one that ends in /v1",
        )
