"""nano's synthetic world: puppets that say a few words, with exact ground truth for every clip."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.artifacts.store import Backbone
from dubmill.config.params import ScorersParams, WorldParams
from dubmill.errors import InvalidParamsError
from dubmill.faces import FaceDetector, ScorerFaceDetector
from dubmill.media.clips import Clip
from dubmill.model.load import PIPELINE
from dubmill.text.speakers import ANYBODY

if TYPE_CHECKING:
    from dubmill.nano.scorers import NanoScorers
    from dubmill.nano.world import Phrase, Puppet, PuppetClip


class NanoWorld:
    """Implements `World` with the renderer, lexicon and scorers that ship with nano."""

    has_one_face = True
    max_speech_rate = 1.0  # the words are recordings of fixed length
    same_voice_cosine, same_face_cosine = (
        0.7,
        0.85,
    )  # over 24 clips: same voice at least .77; faces .99, others at most .74
    is_toy = True

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def scorers(self, params: ScorersParams | None = None) -> NanoScorers:
        """Returns the scorers that ship with nano's weights; `params`, which name those of real clips, are not read."""
        from dubmill.nano import scorers

        return scorers.load_scorers(self._backbone.folder(f"{PIPELINE}/scorers"))

    def face_detector(self) -> FaceDetector:
        """Returns a detector that finds the mouth with nano's own scorer; the face box is the whole picture."""
        return ScorerFaceDetector(self.scorers())

    def check_line(self, line: Line) -> Line:
        """Returns `line` with its numbers spelled as words of nano's lexicon.

        Raises:
            UnsupportedTextError: unknown language or word, or too many words.
        """
        from dubmill.nano import world

        return Line(language=line.language, text=" ".join(world.check_text(line.language, line.text)))

    def speaking_seconds(self, line: Line) -> float:
        """Returns seconds of the line's recorded words, the mean over nano's voices.

        Raises:
            UnsupportedTextError: unknown language or word.
        """
        from dubmill.nano.lexicon import VOICES, lexicon
        from dubmill.nano.world import check_text

        recordings, voices = lexicon(), range(len(VOICES))
        words = check_text(line.language, line.text)
        return sum(recordings[line.language, voice, word].seconds for word in words for voice in voices) / len(voices)

    def caption_speaker(self, description: str) -> str:
        """Always `A person`."""
        return ANYBODY

    def has_true_pair(self, prompt: Prompt) -> bool:
        """Held-out prompts of the grammar are rendered, for exact ground truth."""
        return prompt.split == "heldout" and prompt.source == "grammar"

    def true_pair(self, prompt: Prompt, half: str, difficulty: WorldParams) -> tuple[Clip, Clip, np.ndarray]:
        """Returns one half of the prompt's puppet rendered in both languages, and its mouth boxes (F, 4) in pixels.

        Raises:
            InvalidParamsError: the prompt does not come from the grammar.
        """
        from dubmill.nano import world

        if prompt.source != "grammar":
            raise InvalidParamsError(
                f"prompt {prompt.id} cannot be rendered in the nano world", cure="set prompts.source to grammar"
            )
        index = ("first", "second").index(half)
        dubbed = (prompt.first_dubbed, prompt.second) if half == "first" else (prompt.first, prompt.second_dubbed)
        original, counterpart = (
            world.halves(world.film(*_scene(prompt, *lines), motion_seed=prompt.seed, difficulty=difficulty))[index]
            for lines in ((prompt.first, prompt.second), dubbed)
        )
        return _clip(original), _clip(counterpart), original.mouth_box_F4


def _clip(film: PuppetClip) -> Clip:
    from dubmill.nano import world

    return Clip(film.frames_FHWC, Fraction(world.FRAME_RATE), film.audio_N[None], world.SAMPLE_RATE_HZ)


def _scene(prompt: Prompt, first: Line, second: Line) -> tuple[Puppet, tuple[Phrase, Phrase]]:
    from dubmill.nano import world

    return world.puppet(prompt.seed), (_phrase(first), _phrase(second))


def _phrase(line: Line) -> Phrase:
    from dubmill.nano import world

    return world.Phrase(line.language, tuple(line.text.split()))
