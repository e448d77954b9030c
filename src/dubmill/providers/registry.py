"""Transcribers, translators and separators by name."""

from __future__ import annotations

from pathlib import Path

from dubmill.errors import UsageError
from dubmill.providers.separation import Separator, SherpaOnnx
from dubmill.providers.transcription import Transcriber
from dubmill.providers.translation import Translator

TRANSCRIBERS = ("whisper", "endpoint")
TRANSLATORS = ("endpoint",)
SEPARATORS = ("sherpa-onnx",)


def transcriber(name: str, *, model: str, url: str) -> Transcriber:
    """Returns the transcriber called `name`: whisper loads the folder `model`, an endpoint serves `model` at `url`.

    Raises:
        UsageError: there is no such transcriber, or it is not installed, or its model is not there.
    """
    if name == "whisper":
        from dubmill.providers.whisper import Whisper

        return Whisper(Path(model))
    if name == "endpoint":
        from dubmill.providers.remote import RemoteTranscriber

        return RemoteTranscriber(_required(url), model)
    raise UsageError(f"there is no transcriber {name!r}", cure=f"use one of {', '.join(TRANSCRIBERS)}")


def translator(name: str, *, model: str, url: str) -> Translator:
    """Returns the translator called `name`.

    Raises:
        UsageError: there is no such translator.
    """
    if name == "endpoint":
        from dubmill.providers.remote import RemoteTranslator

        return RemoteTranslator(_required(url), model)
    raise UsageError(f"there is no translator {name!r}", cure=f"use {', '.join(TRANSLATORS)}")


def separator(name: str, *, model: str) -> Separator:
    """Returns the separator called `name` with the weights in `model`, as in `SherpaOnnx`.

    Raises:
        UsageError: there is no such separator, or it is not installed, or its model is not there.
    """
    if name == "sherpa-onnx":
        return SherpaOnnx(model)
    raise UsageError(f"there is no separator {name!r}", cure=f"use {', '.join(SEPARATORS)}")


def _required(url: str) -> str:
    if not url:
        raise UsageError("an endpoint needs its address", cure="give --url, such as http://localhost:8000/v1")
    return url
