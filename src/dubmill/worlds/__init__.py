"""What depends on the kind of clips a backbone was trained on: scorers, face detection, and which words can be spoken.

There are two worlds: nano's synthetic puppets, and real faces and speech. No other module asks which of them a backbone
belongs to: `world_of(backbone)` gives the implementation of `World` that fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.artifacts.store import Backbone
from dubmill.config.params import ScorersParams, WorldParams
from dubmill.media.clips import Clip
from dubmill.text.timing import Fit

if TYPE_CHECKING:
    from dubmill.faces import FaceDetector
    from dubmill.metrics.scorers import Scorers


class World(Protocol):
    """A kind of clips, with the models and rules that fit it."""

    has_one_face: bool
    """Whether one face fills every picture, so that no face detection is needed."""
    max_speech_rate: float
    """By which factor a line may be spoken faster than usual; 1.0 where the speed of words is fixed."""
    same_voice_cosine: float
    same_face_cosine: float
    """From which cosine two embeddings of the scorers are taken for one person's."""
    is_toy: bool
    """Whether metrics measured on it say nothing about real faces and speech; reports and cards warn of it."""

    def scorers(self, params: ScorersParams) -> Scorers:
        """Returns the models that measure words, voice, face and sync in these clips; `params` name those of real clips.

        Raises:
            ChangedArtifactError: weights are not the ones that params name.
            ServiceUnavailableError: weights that may be fetched cannot be.
        """
        ...

    def face_detector(self) -> FaceDetector:
        """Returns a face detector for these clips.

        Raises:
            UsageError: the extra `faces` is not installed.
        """
        ...

    def check_line(self, line: Line) -> Line:
        """Returns `line` in the spelling that the backbone was trained on.

        Raises:
            UnsupportedTextError: unknown language or word, or too many words; the message lists what is allowed.
        """
        ...

    def speaking_seconds(self, line: Line) -> float:
        """Returns seconds that a speaker needs to say a line at the usual rate.

        Raises:
            UnsupportedTextError: unknown language or word.
        """
        ...

    def caption_speaker(self, description: str) -> str:
        """Returns the speaker as captions of dubbing adapters name him or her; `description` may be empty."""
        ...

    def has_true_pair(self, prompt: Prompt) -> bool:
        """Returns whether the clip pair of a prompt is rendered with exact ground truth instead of being generated."""
        ...

    def true_pair(self, prompt: Prompt, half: str, difficulty: WorldParams) -> tuple[Clip, Clip, np.ndarray]:
        """Returns one half of a prompt rendered in both languages, and its mouth boxes (F, 4) in pixels.

        Raises:
            InvalidParamsError: this world cannot render the prompt.
        """
        ...


def world_of(backbone: Backbone) -> World:
    """Returns the world that a backbone was trained on."""
    from dubmill.worlds.nano import NanoWorld
    from dubmill.worlds.real import RealWorld

    return NanoWorld(backbone) if backbone.info["source"] == "nano" else RealWorld(backbone)


def fit_line(world: World, line: Line, room_seconds: float) -> Fit:
    """Returns whether a line can be spoken in `room_seconds` in this world, as a `Fit`.

    Raises:
        UnsupportedTextError: the backbone cannot say these words at all.
    """
    line = world.check_line(line)
    needed = world.speaking_seconds(line)
    return Fit(line, needed, needed / world.max_speech_rate, room_seconds)
