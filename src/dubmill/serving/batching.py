"""Dubs clips of several jobs in one sampler call: those that wait for the model when it is free go together.

Nobody waits for a batch to fill: a clip that finds the model free is dubbed alone, and those that come meanwhile are the next batch.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.dubbing.clip_dubber import BatchDubber
from dubmill.errors import GpuMemoryError
from dubmill.media.clips import Clip

log = logging.getLogger("dubmill.serving")

WAIT_SECONDS = 0.2  # for the model, before a waiting job looks whether it was cancelled or its dub is there


class NobodyWaitsError(Exception):
    """All jobs of a batch were cancelled; stops the sampler, and is never shown to anybody."""


@dataclass(eq=False)
class WaitingClip:
    """A clip that waits for the model, and then its dub or the error that ended it."""

    clip: Clip
    line: Line
    seed: int
    speaker: str
    progress: Callable[[float], None] | None
    is_taken: bool = False  # into a batch
    share: float = 0.0  # the largest one reported: a clip whose batch failed is dubbed from the start
    _reporting: threading.Lock = field(default_factory=threading.Lock)
    dub: Clip | None = None
    error: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is a dub or an error."""
        return self.dub is not None or self.error is not None

    def report(self, share: float) -> None:
        """Report the share done to the job, never less than before; where it was cancelled, its error is kept for its own thread."""
        with self._reporting:  # its own thread, while it waits, and the one that dubs it
            if self.progress is None or self.is_over:
                return
            self.share = max(self.share, share)
            try:
                self.progress(self.share)
            except Exception as error:  # noqa: BLE001 (raised again in the thread of its job)
                self.error = error


class BatchingDubber:
    """A `ClipDubber` for many threads: up to `max_clips` clips that wait for `model`, the lock of the transformer, are one batch.

    `num_fitting` says how many fit the memory that is free now; a batch never has more.
    """

    def __init__(
        self, dubber: BatchDubber, *, model: threading.Lock, max_clips: int, num_fitting: Callable[[], int]
    ) -> None:
        self.dubber, self._model = dubber, model
        self._max_clips, self._num_fitting = max_clips, num_fitting
        self._waiting: deque[WaitingClip] = deque()

    def dub(
        self, clip: Clip, *, line: Line, seed: int, progress: Callable[[float], None] | None = None, speaker: str = ""
    ) -> Clip:
        """See `ClipDubber.dub`; the thread that gets the model dubs for all that wait."""
        own = WaitingClip(clip, line, seed, speaker, progress)
        self._waiting.append(own)
        while not own.is_over:
            if not self._model.acquire(timeout=WAIT_SECONDS):
                if not own.is_taken:
                    own.report(0.0)
                continue
            try:
                if not own.is_over:
                    self._dub_batch(self._next_batch())
            finally:
                self._model.release()
        if own.error is not None:
            raise own.error
        assert own.dub is not None, "it is over"
        return own.dub

    def quick_dub(self, clip: Clip, **how: Any) -> tuple[Clip, float]:
        """See `ClipDubber.quick_dub`."""
        with self._model:
            return self.dubber.quick_dub(clip, **how)

    def follow_voice(self, clip: Clip, voice_CN: np.ndarray, **how: Any) -> Clip:
        """See `ClipDubber.follow_voice`."""
        with self._model:
            return self.dubber.follow_voice(clip, voice_CN, **how)

    def detach(self) -> None:
        """See `ClipDubber.detach`."""
        with self._model:
            self.dubber.detach()

    def check(self, line: Line, room_seconds: float) -> str:
        """See `ClipDubber.check`."""
        return self.dubber.check(line, room_seconds)

    @property
    def max_clips(self) -> int:
        """How many clips one batch may have now."""
        return min(self._max_clips, self._num_fitting())

    def _next_batch(self) -> list[WaitingClip]:
        """The clips that waited longest; all have the size of the adapter's clips."""
        batch: list[WaitingClip] = []
        max_clips = self.max_clips
        while self._waiting and len(batch) < max_clips:
            one = self._waiting.popleft()
            if not one.is_over:
                one.is_taken = True
                batch.append(one)
        return batch

    def _dub_batch(self, batch: Sequence[WaitingClip]) -> None:
        """Dub the clips in one sampler call; where that fails, each is dubbed alone, so that a clip fails by its own fault only."""

        def report(share: float) -> None:
            for one in batch:
                one.report(share)
            if all(one.is_over for one in batch):
                raise NobodyWaitsError

        values = ((one.clip, one.line, one.seed, one.speaker) for one in batch)
        clips, lines, seeds, speakers = (list(column) for column in zip(*values, strict=True))
        try:
            dubs = self.dubber.dub_batch(clips, lines, seeds, report, speakers=speakers)
        except NobodyWaitsError:
            return
        except Exception as error:  # noqa: BLE001 (raised again in the thread of its job)
            failure = error
        else:
            for one, dub in zip(batch, dubs, strict=True):
                one.dub = dub
            return
        _clear_frames(failure)
        self._dub_alone(batch, failure)

    def _dub_alone(self, batch: Sequence[WaitingClip], error: Exception) -> None:
        """Dub each clip of a batch that failed with `error`; without memory for so many, later batches have half as many clips."""
        if len(batch) == 1:
            batch[0].error = batch[0].error or error
            return
        if isinstance(error, GpuMemoryError):
            self._max_clips = len(batch) // 2
        log.warning("a batch of %d clips failed (%s); each is dubbed alone", len(batch), error)
        for one in batch:
            if not one.is_over:
                self._dub_batch([one])


def _clear_frames(error: BaseException | None) -> None:
    """Clear the local variables of the calls that an error and its causes passed through: they hold the failed batch's tensors.

    The lines of its traceback stay, for the log. PyTorch gives its cached memory back by itself before it runs out of memory.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
