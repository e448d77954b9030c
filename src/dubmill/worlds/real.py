"""Real faces and speech, for backbones with published weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.artifacts.store import Backbone
from dubmill.config.params import ScorersParams, WorldParams
from dubmill.errors import InvalidParamsError
from dubmill.faces import FaceDetector
from dubmill.media.clips import Clip
from dubmill.text import languages, timing
from dubmill.text.speakers import speaker_of

if TYPE_CHECKING:
    from dubmill.metrics.scorers import Scorers


class RealWorld:
    """Implements `World` for recordings of people."""

    has_one_face = False
    max_speech_rate = timing.MAX_HURRY
    same_voice_cosine, same_face_cosine = 0.6, 0.363  # chosen; the face model's authors' value
    is_toy = False

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def scorers(self, params: ScorersParams) -> Scorers:
        """Returns recogniser, speaker and face encoder, face landmarks and sync, as far as their weights are there."""
        from dubmill.scorers import RealScorers

        return RealScorers(params)

    def face_detector(self) -> FaceDetector:
        """Returns the YuNet face detector.

        Raises:
            UsageError: the extra `faces` is not installed.
        """
        from dubmill.faces.yunet import YuNet

        return YuNet()

    def check_line(self, line: Line) -> Line:
        """Returns `line` unchanged, after a check of its language.

        Raises:
            UnsupportedTextError: unknown language.
        """
        languages.language(line.language)
        return line

    def speaking_seconds(self, line: Line) -> float:
        """Returns seconds estimated from the text's syllables and the language's rate.

        Raises:
            UnsupportedTextError: unknown language.
        """
        return timing.speaking_seconds(line)

    def caption_speaker(self, description: str) -> str:
        """Returns `The woman`, `The man`, `The girl` or `The boy` where the description names one, else `A person`.

        JUST-DUB-IT's captions begin like that: `The woman is speaking English, saying: ...`.
        """
        return speaker_of(description)

    def has_true_pair(self, prompt: Prompt) -> bool:
        """Returns False: nothing real is rendered with exact ground truth."""
        return False

    def true_pair(self, prompt: Prompt, half: str, difficulty: WorldParams) -> tuple[Clip, Clip, np.ndarray]:
        """Not available: nothing real is rendered with exact ground truth.

        Raises:
            InvalidParamsError: always.
        """
        raise InvalidParamsError(
            f"prompt {prompt.id} cannot be rendered: its world is real", cure="set inpaint.source to self-made"
        )
