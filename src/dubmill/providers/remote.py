"""Transcription and translation by an OpenAI-compatible endpoint, local or remote, which is sent the sound or the words."""

from __future__ import annotations

import io
import json
import re
import wave
from collections.abc import Mapping, Sequence

import numpy as np

from dubmill.providers.openai import Endpoint
from dubmill.providers.transcription import SAMPLE_RATE_HZ
from dubmill.providers.translation import CueRequest
from dubmill.text.languages import language
from dubmill.text.subtitles import Cue

RULES = """You translate the lines of a film from {source} to {target} for dubbing: each is spoken by a person in the
given seconds. Keep the meaning, the register, names and numbers; use contractions and shorter words where a line would
take longer than its time. Answer with one JSON object and nothing else: {{"cues": {{"1": "translation", ...}}}}, with
every number that you were given and no other. A line that comes with a fault is to be translated anew without it."""


class RemoteTranscriber:
    """A transcriber that sends the sound as WAV to `/audio/transcriptions`."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    def transcribe(self, audio_N: np.ndarray, *, language: str) -> list[Cue]:
        """Returns the endpoint's transcription, one cue for each segment.

        Raises:
            ServiceUnavailableError: see `Endpoint.transcribe`.
        """
        with Endpoint(self.url, self.model) as endpoint:
            segments = endpoint.transcribe(_wav(audio_N), language=language)
        cues = (Cue(segment["start"], segment["end"], segment["text"].strip()) for segment in segments)
        return [cue for cue in cues if cue.text and cue.seconds > 0]


class RemoteTranslator:
    """A translator that requests a JSON object from `/chat/completions`."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    def translate(self, requests: Sequence[CueRequest], *, source: str, target: str) -> Mapping[int, str]:
        """Returns the model's translations by cue number; empty where its answer is not JSON of the requested form.

        Raises:
            ServiceUnavailableError: see `Endpoint.complete`.
        """
        with Endpoint(self.url, self.model) as endpoint:
            text = endpoint.complete(_messages(requests, source, target), seed=requests[0].number)
        return _parse(text)


def _messages(requests: Sequence[CueRequest], source: str, target: str) -> list[dict[str, str]]:
    cues = [
        {"number": cue.number, "text": cue.text, "seconds": round(cue.seconds, 2), "max_syllables": cue.num_syllables}
        | ({"fault": cue.fault} if cue.fault else {})
        for cue in requests
    ]
    rules = RULES.format(source=language(source).name, target=language(target).name)
    return [
        {"role": "system", "content": rules},
        {"role": "user", "content": json.dumps({"cues": cues}, ensure_ascii=False)},
    ]


def _parse(text: str) -> dict[int, str]:
    try:
        texts = json.loads(re.sub(r"^\s*```(json)?|```\s*$", "", text.strip()))["cues"]
        return {int(number): str(translation) for number, translation in texts.items()}
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
