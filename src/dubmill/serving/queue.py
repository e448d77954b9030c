"""One dub at a time, a few waiting, the rest sent away with a time to come back."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dubmill.errors import ServiceUnavailable

Result = TypeVar("Result")


class QueueFull(ServiceUnavailable):
    """Too many dubs wait already; `retry_after_seconds` is when a place is likely."""

    def __init__(self, what: str, *, where: str = "", cure: str = "", retry_after_seconds: int = 1) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(what, where=where, cure=cure)


class Queue:
    """Work for one thread: it keeps the event loop free, and two dubs from sharing the machine."""

    def __init__(self, max_waiting: int) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dub")
        self._max_waiting, self._lock = max_waiting, threading.Lock()
        self._pending, self._last_seconds = 0, 1.0

    @property
    def pending(self) -> int:
        """Dubs running or waiting."""
        return self._pending

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, once it is its turn.

        Raises:
            QueueFull: the running one and `max_waiting` others come first.
        """
        self._enter()
        future = self._thread.submit(self._timed, work)
        future.add_done_callback(self._leave)  # and not a `finally` here: a cancelled caller's dub still runs
        return await asyncio.wrap_future(future)

    def _enter(self) -> None:
        with self._lock:
            if self._pending > self._max_waiting:
                seconds = max(1, math.ceil(self._pending * self._last_seconds))
                raise QueueFull(
                    f"{self._pending} dubs come first", cure=f"try again in {seconds} s", retry_after_seconds=seconds
                )
            self._pending += 1

    def _leave(self, _: Future) -> None:
        with self._lock:
            self._pending -= 1

    def _timed(self, work: Callable[[], Result]) -> Result:
        began = time.monotonic()
        try:
            return work()
        finally:
            self._last_seconds = time.monotonic() - began
