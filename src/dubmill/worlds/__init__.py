"""What is known of a kind of clips: who can score them, find faces in them, and say words in them.

There are two worlds: the closed one of nano's puppets, and that of real faces and speech. No other module asks which one
a backbone belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.artifacts.store import Backbone
from dubmill.config.params import WorldParams
from dubmill.media.clips import Clip
from dubmill.text.timing import Fit

if TYPE_CHECKING:
    from dubmill.faces import FaceFinder
    from dubmill.metrics.scorers import Scorers


class World(Protocol):
    """A kind of clips, and the models and rules that fit it."""

    has_one_face: bool
    """Whether one face fills every picture, so that none has to be searched for."""
    max_speech_rate: float
    """How much faster than usual a line may be spoken; 1.0 where the speed of words is fixed."""
    is_toy: bool
    """Whether figures measured on it say nothing about real faces and speech."""

    def scorers(self) -> Scorers:
        """The measuring models that fit these clips.

        Raises:
            DubmillError: none are configured.
        """
        ...

    def face_finder(self) -> FaceFinder:
        """A detector for the faces of these clips.

        Raises:
            UsageError: the extra `faces` is not installed.
        """
        ...

    def check_line(self, line: Line) -> Line:
        """`line` in the spelling that the backbone knows.

        Raises:
            UnsayableText: unknown language or word, or too many words; the sentence lists what is allowed.
        """
        ...

    def speaking_seconds(self, line: Line) -> float:
        """Seconds that a speaker needs for a line at the usual rate.

        Raises:
            UnsayableText: unknown language or word.
        """
        ...

    def has_true_pair(self, prompt: Prompt) -> bool:
        """Whether the pair of a prompt is filmed with exact truth instead of being generated."""
        ...

    def true_pair(self, prompt: Prompt, half: str, difficulty: WorldParams) -> tuple[Clip, Clip, np.ndarray]:
        """One half of a prompt filmed in both languages, and its mouth boxes (F, 4) in pixels.

        Raises:
            BadParams: this world has no such film.
        """
        ...


def world_of(backbone: Backbone) -> World:
    """The world that a backbone's clips belong to."""
    from dubmill.worlds.nano import NanoWorld
    from dubmill.worlds.real import RealWorld

    return NanoWorld(backbone) if backbone.info["source"] == "nano" else RealWorld(backbone)


def fit_line(world: World, line: Line, room_seconds: float) -> Fit:
    """How a line fits into `room_seconds` when it is spoken in this world.

    Raises:
        UnsayableText: the backbone cannot say the words, in whatever time.
    """
    line = world.check_line(line)
    needed = world.speaking_seconds(line)
    return Fit(line, needed, needed / world.max_speech_rate, room_seconds)
