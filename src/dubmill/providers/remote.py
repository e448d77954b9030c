"""Transcription and translation by an OpenAI-compatible endpoint, local or not: it is sent the sound, or the words."""

from __future__ import annotations

import io
import json
import re
import wave
from collections.abc import Mapping, Sequence

import numpy as np

from dubmill.providers import SAMPLE_RATE_HZ
from dubmill.providers.openai import Endpoint
from dubmill.providers.translation import Asked
from dubmill.text.languages import language
from dubmill.text.subtitles import Cue

RULES = """You translate the lines of a film from {source} to {target} for dubbing: each is spoken by a person in the
given seconds. Keep the meaning, the register, names and numbers; use contractions and shorter words where a line would
take longer than its time. Answer with one JSON object and nothing else: {{"cues": {{"1": "translation", ...}}}}, with
every number that you were given and no other. A line that comes with a fault is to be translated anew without it."""


class RemoteTranscriber:
    """Sends the sound as WAV to `/audio/transcriptions`."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    def transcribe(self, audio_N: np.ndarray, *, language: str) -> list[Cue]:
        """What the endpoint hears, a cue a segment.

        Raises:
            ServiceUnavailable: see `Endpoint.transcribe`.
        """
        with Endpoint(self.url, self.model) as endpoint:
            segments = endpoint.transcribe(_wav(audio_N), language=language)
        cues = (Cue(one["start"], one["end"], one["text"].strip()) for one in segments)
        return [cue for cue in cues if cue.text and cue.seconds > 0]


class RemoteTranslator:
    """Asks `/chat/completions` for a JSON object of translations."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    def translate(self, asked: Sequence[Asked], *, source: str, target: str) -> Mapping[int, str]:
        """What the model answers; nothing where it is no JSON of the asked form.

        Raises:
            ServiceUnavailable: see `Endpoint.complete`.
        """
        with Endpoint(self.url, self.model) as endpoint:
            text = endpoint.complete(_messages(asked, source, target), seed=asked[0].number)
        return _read(text)


def _messages(asked: Sequence[Asked], source: str, target: str) -> list[dict[str, str]]:
    told = [
        {"number": one.number, "text": one.text, "seconds": round(one.seconds, 2), "max_syllables": one.num_syllables}
        | ({"fault": one.fault} if one.fault else {})
        for one in asked
    ]
    rules = RULES.format(source=language(source).name, target=language(target).name)
    return [
        {"role": "system", "content": rules},
        {"role": "user", "content": json.dumps({"cues": told}, ensure_ascii=False)},
    ]


def _read(text: str) -> dict[int, str]:
    try:
        told = json.loads(re.sub(r"^\s*```(json)?|```\s*$", "", text.strip()))["cues"]
        return {int(number): str(said) for number, said in told.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _wav(audio_N: np.ndarray) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE_HZ)
        out.writeframes(np.round(np.clip(audio_N, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return stream.getvalue()
