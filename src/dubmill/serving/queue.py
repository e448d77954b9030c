"""A bounded queue for one worker thread."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from dubmill.errors import ServiceUnavailableError

Result = TypeVar("Result")


class QueueFullError(ServiceUnavailableError):
    """Too many dubs are waiting; `retry_after_seconds` is when a place is likely to be free."""

    def __init__(self, what: str, *, where: str = "", cure: str = "", retry_after_seconds: int = 1) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(what, where=where, cure=cure)


class Queue:
    """Runs one dub at a time in a worker thread, so that the event loop stays free; a few more may wait."""

    def __init__(self, max_waiting: int) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dub")
        self._max_waiting, self._lock = max_waiting, threading.Lock()
        self._num_pending, self._last_seconds = 0, 1.0

    @property
    def num_pending(self) -> int:
        """Number of dubs running or waiting."""
        return self._num_pending

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, run after everything that came before it.

        Raises:
            QueueFullError: one is running and `max_waiting` others wait.
        """
        self._enter()
        future = self._worker.submit(self._timed, work)
        future.add_done_callback(self._leave)  # not a `finally` here: a cancelled caller's dub still runs
        return await asyncio.wrap_future(future)

    def _enter(self) -> None:
        with self._lock:
            if self._num_pending > self._max_waiting:
                seconds = max(1, math.ceil(self._num_pending * self._last_seconds))
                raise QueueFullError(
                    f"{self._num_pending} dubs are waiting or running",
                    cure=f"try again in {seconds} s",
                    retry_after_seconds=seconds,
                )
            self._num_pending += 1

    def _leave(self, _: Future[Any]) -> None:
        with self._lock:
            self._num_pending -= 1

    def _timed(self, work: Callable[[], Result]) -> Result:
        started = time.monotonic()
        try:
            return work()
        finally:
            self._last_seconds = time.monotonic() - started
