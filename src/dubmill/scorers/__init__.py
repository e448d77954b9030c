"""The measuring models for real faces and speech, as one object that answers `dubmill.metrics.scorers.Scorers`.

If a model is missing, its figures are not measured and the reason is stated; the others are measured. Each is opened from the weights
that the params section `scorers` names, see `weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np

from dubmill.config.scorers import ScorerParams, ScorersParams
from dubmill.errors import UsageError
from dubmill.faces.yunet import YuNet
from dubmill.metrics.scorers import SAMPLE_RATE_HZ
from dubmill.scorers.identity import DIMENSIONS as IDENTITY_DIMENSIONS
from dubmill.scorers.identity import IdentityScorer
from dubmill.scorers.mouth import MouthScorer
from dubmill.scorers.opening import OpeningScorer
from dubmill.scorers.speaker import Speaker, find_speaker
from dubmill.scorers.syncnet import MAX_SHIFT, SyncScorer
from dubmill.scorers.voice import DIMENSIONS as VOICE_DIMENSIONS
from dubmill.scorers.voice import MIN_SECONDS, VoiceScorer
from dubmill.scorers.weights import read_weights
from dubmill.scorers.words import WordScorer, speech_spans

SEARCH_SIDES = (320, 640)  # pixels of the picture in which faces are searched; the larger one where none is found
Part = TypeVar("Part")


class Picture:
    """Measurements of the frames (F, H, W, 3) of one clip, each made on first use and cached."""

    def __init__(
        self,
        frames_FHWC: np.ndarray,
        detectors: Sequence[YuNet],
        identity: IdentityScorer | None,
        mouth: MouthScorer | None,
    ) -> None:
        self.frames_FHWC = frames_FHWC
        self._detectors, self._identity, self._mouth = detectors, identity, mouth

    @cached_property
    def speaker(self) -> Speaker:
        """The speaker's face; searched once more in a larger picture where none is found."""
        speaker = find_speaker(self.frames_FHWC, self._detectors[0])
        if speaker.trouble and max(self.frames_FHWC.shape[1:3], default=0) > SEARCH_SIDES[0]:
            speaker = find_speaker(self.frames_FHWC, self._detectors[1])
        return speaker

    @cached_property
    def identity_E(self) -> np.ndarray:
        """See `RealScorers.identity`."""
        assert self._identity is not None
        return self._identity.embed(self.frames_FHWC, self.speaker.faces)

    @cached_property
    def mouth_F5(self) -> np.ndarray:
        """See `RealScorers.mouth`."""
        assert self._mouth is not None
        return self._mouth.read(self.frames_FHWC, self.speaker.boxes_F4)

    def measure(self) -> None:
        """Measure all of it for which there is a model."""
        for name, model in (("identity_E", self._identity), ("mouth_F5", self._mouth)):
            if model is not None:
                getattr(self, name)


class RealScorers:
    """Implements `Scorers`; holds what was seen in the last picture and the speech of the last sound that it was given."""

    def __init__(self, params: ScorersParams) -> None:
        """Open every available model; `missing` has the reason for each of the others.

        Raises:
            ChangedArtifactError: weights have another sha256 than params say.
            InvalidArtifactError: weights are not of the network they should be of.
            ServiceUnavailableError: weights that may be fetched cannot be.
        """
        self.missing: dict[str, str] = {}
        threads = params.threads
        self._words = self._open("words", params, lambda files: WordScorer(files, num_threads=threads))
        self._voice = self._open("voice", params, lambda files: VoiceScorer(_only(files), num_threads=threads))
        self._identity = self._open("identity", params, lambda files: IdentityScorer(_only(files)))
        self._mouth = self._open("mouth", params, lambda files: MouthScorer(_only(files)))
        self._opening = self._open("opening", params, lambda files: OpeningScorer(_only(files)))
        self._sync = self._open("sync", params, lambda files: SyncScorer(_only(files)))
        self._detectors = self._open_detectors()
        self._picture: Picture | None = None
        self._seeing: Future[None] | None = None  # a picture is measured beside its sound, so that two cores have work
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="picture")
        self._speech: tuple[np.ndarray, list[tuple[int, int]]] | None = None

    def _open(self, question: str, params: ScorersParams, build: Callable[[Mapping[str, bytes]], Part]) -> Part | None:
        """Returns the model of one measurement; None, with the reason in `missing`, if it is not available."""
        model: ScorerParams = getattr(params, question)
        try:
            if not model.files:
                raise UsageError(f"scorers.{question} names no weights", cure="see docs/scorers.md for where they are")
            return build(read_weights(model, may_fetch=params.fetch))
        except UsageError as error:
            self.missing[question] = error.sentence
            return None

    def _open_detectors(self) -> list[YuNet]:
        """The face detectors; without them nothing of faces is measured."""
        try:
            return [YuNet(max_side=side) for side in SEARCH_SIDES]
        except UsageError as error:
            self.missing |= dict.fromkeys(("identity", "mouth", "sync"), error.sentence)
            return []

    def words(self, audio_N: np.ndarray) -> list[tuple[str, str]] | None:
        """Returns the recognised words; None without a recogniser."""
        return self._words.hear(audio_N) if self._words else None

    def voice(self, audio_N: np.ndarray) -> np.ndarray:
        """(256,) unit vector of the voice; zeros where nobody speaks for 0.8 s, NaN without an encoder."""
        if self._voice is None or "words" in self.missing:
            return np.full(VOICE_DIMENSIONS, np.nan, np.float32)
        return self._voice.embed(audio_N, self._spans(audio_N))

    def identity(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """(128,) unit vector of the speaker's face; zeros where none is followed, NaN without an encoder."""
        if "identity" in self.missing or self._identity is None:
            return np.full(IDENTITY_DIMENSIONS, np.nan, np.float32)
        return self._seen(frames_FHWC).identity_E

    def mouth(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """(F, 5) opening and box of the speaker's mouth; NaN where it is not seen, or without landmarks."""
        if "mouth" in self.missing or self._mouth is None:
            return np.full((len(frames_FHWC), 5), np.nan, np.float32)
        return self._seen(frames_FHWC).mouth_F5

    def speech_opening(self, audio_N: np.ndarray, num_frames: int, frame_rate: float) -> np.ndarray:
        """(F,) opening of a mouth that would say the sound, by our own network: a proxy."""
        if self._opening is None:
            return np.full(num_frames, np.nan, np.float32)
        return self._opening.read(audio_N, num_frames, frame_rate)

    def sync_distances(self, frames_FHWC: np.ndarray, audio_N: np.ndarray, frame_rate: float) -> np.ndarray:
        """(31,) by SyncNet; NaN without its weights or where the face is lost."""
        if "sync" in self.missing or self._sync is None:
            return np.full(2 * MAX_SHIFT + 1, np.nan)
        return self._sync.distances(frames_FHWC, self._seen(frames_FHWC).speaker.boxes_F4, audio_N, frame_rate)

    def troubles(self, frames_FHWC: np.ndarray, audio_N: np.ndarray) -> list[str]:
        """Why something of this clip could not be measured, though its model is there: no face, several, no speech."""
        found = []
        if self._detectors and self._seen(frames_FHWC).speaker.trouble:
            found.append(self._seen(frames_FHWC).speaker.trouble)
        if "words" not in self.missing:
            spoken_seconds = sum(stop - start for start, stop in self._spans(audio_N)) / SAMPLE_RATE_HZ
            if spoken_seconds < MIN_SECONDS:
                found.append(f"speech is heard for {spoken_seconds:.1f} s, a voice needs {MIN_SECONDS} s")
        return found

    def prepare(self, frames_FHWC: np.ndarray) -> None:
        """Begin to measure a picture in another thread; methods that need the result wait for it."""
        self._seen(frames_FHWC)
        if self._picture is not None and self._detectors:
            self._seeing = self._threads.submit(self._picture.measure)

    def _seen(self, frames_FHWC: np.ndarray) -> Picture:
        if self._seeing is not None:
            seeing, self._seeing = self._seeing, None
            seeing.result()
        if self._picture is None or self._picture.frames_FHWC is not frames_FHWC:
            self._picture = Picture(frames_FHWC, self._detectors, self._identity, self._mouth)
        return self._picture

    def _spans(self, audio_N: np.ndarray) -> list[tuple[int, int]]:
        if self._speech is None or self._speech[0] is not audio_N:
            self._speech = (audio_N, speech_spans(audio_N))
        return self._speech[1]


def _only(files: Mapping[str, bytes]) -> bytes:
    """The one file of a model of one file.

    Raises:
        UsageError: params name several.
    """
    if len(files) != 1:
        raise UsageError(f"one file of weights is needed, not {', '.join(files)}", where="scorers")
    return next(iter(files.values()))
