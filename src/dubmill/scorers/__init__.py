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
from threadpoolctl import threadpool_limits

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


class Speech:
    """The spans of a sound (N,) in which somebody speaks, and the voice in them, measured on first use and cached."""

    def __init__(self, audio_N: np.ndarray, voice: VoiceScorer | None) -> None:
        self.audio_N, self._voice = audio_N, voice
        self.spans = speech_spans(audio_N)

    @cached_property
    def voice_E(self) -> np.ndarray:
        """See `RealScorers.voice`."""
        assert self._voice is not None
        return self._voice.embed(self.audio_N, self.spans)

    def measure(self) -> None:
        """Measure the voice."""
        self.voice_E  # noqa: B018


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
        self._detectors = self._open_detectors(threads)
        self._picture: Picture | None = None
        self._speech: Speech | None = None
        self._measuring: Future[list[None]] | None = None  # picture and voice, beside the words: work for two cores
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="scorers")
        threadpool_limits(threads, user_api="blas")  # further threads of OpenBLAS wait busily after a small product

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

    def _open_detectors(self, num_threads: int) -> list[YuNet]:
        """The face detectors; without them nothing of faces is measured."""
        try:
            detectors = [YuNet(max_side=side) for side in SEARCH_SIDES]
        except UsageError as error:
            self.missing |= dict.fromkeys(("identity", "mouth", "sync"), error.sentence)
            return []
        import cv2

        cv2.setNumThreads(num_threads)
        return detectors

    def words(self, audio_N: np.ndarray) -> list[tuple[str, str]] | None:
        """Returns the recognised words; None without a recogniser."""
        return self._words.hear(audio_N, self._heard(audio_N).spans) if self._words else None

    def voice(self, audio_N: np.ndarray) -> np.ndarray:
        """(256,) unit vector of the voice; zeros where nobody speaks for 0.8 s, NaN without an encoder."""
        if self._voice is None or "words" in self.missing:
            return np.full(VOICE_DIMENSIONS, np.nan, np.float32)
        self._finish()
        return self._heard(audio_N).voice_E

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
            spoken_seconds = sum(stop - start for start, stop in self._heard(audio_N).spans) / SAMPLE_RATE_HZ
            if spoken_seconds < MIN_SECONDS:
                found.append(f"speech is heard for {spoken_seconds:.1f} s, a voice needs {MIN_SECONDS} s")
        return found

    def prepare(self, frames_FHWC: np.ndarray, audio_N: np.ndarray) -> None:
        """Begin to measure picture and voice in another thread; methods that need the result wait for it."""
        parts: list[Picture | Speech] = [self._seen(frames_FHWC)] if self._detectors else []
        if "words" not in self.missing and self._voice is not None:
            parts.append(self._heard(audio_N))
        self._measuring = self._threads.submit(lambda: [part.measure() for part in parts])

    def _finish(self) -> None:
        """Wait for what `prepare` began; raises what it raised."""
        if self._measuring is not None:
            measuring, self._measuring = self._measuring, None
            measuring.result()

    def _seen(self, frames_FHWC: np.ndarray) -> Picture:
        self._finish()
        if self._picture is None or self._picture.frames_FHWC is not frames_FHWC:
            self._picture = Picture(frames_FHWC, self._detectors, self._identity, self._mouth)
        return self._picture

    def _heard(self, audio_N: np.ndarray) -> Speech:
        if self._speech is None or self._speech.audio_N is not audio_N:
            self._speech = Speech(audio_N, self._voice)
        return self._speech


def _only(files: Mapping[str, bytes]) -> bytes:
    """The one file of a model of one file.

    Raises:
        UsageError: params name several.
    """
    if len(files) != 1:
        raise UsageError(f"one file of weights is needed, not {', '.join(files)}", where="scorers")
    return next(iter(files.values()))
