"""The KServe model: it loads beside the running server, proves itself, then dubs one clip at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kserve import InferRequest, InferResponse, Model
from kserve.errors import ModelNotReady
from prometheus_client import Counter, Histogram

from dubmill import media
from dubmill.artifacts.store import Release
from dubmill.dubbing.consent import Ledger
from dubmill.dubbing.service import Desk, Dub, Dubbing, DubRequest, check, selftest_of
from dubmill.errors import DubmillError
from dubmill.faces import Watch
from dubmill.serving import wire
from dubmill.serving.queue import Queue
from dubmill.text.languages import LANGUAGES

log = logging.getLogger("dubmill.serving")

DUBS = Counter("dubs", "dubs asked for, by what became of them", ["model", "language", "outcome"])
DUB_SECONDS = Histogram(
    "dub_seconds", "seconds one dub took, waiting left out", ["model"], buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
)


class DubModel(Model):
    """Serves one release. `open_watch` and `open_dubber` are called once, in the background: it may take minutes."""

    def __init__(
        self,
        name: str,
        release: Release,
        *,
        open_dubber: Callable[[], Dubbing],
        open_watch: Callable[[], Watch],
        ledger: Path,
        max_waiting: int,
        limits: media.Limits,
    ) -> None:
        super().__init__(name)
        self.release, self.limits, self.ledger = release, limits, Ledger(ledger)
        self.queue, self.progress = Queue(max_waiting), 0.0
        self.why = "it is still loading"
        self._open_dubber, self._open_watch, self._desk = open_dubber, open_watch, None
        self._loading = threading.Lock()

    def load(self) -> bool:
        """Load and self-test; on failure the model stays unready and `why` says so."""
        with self._loading:
            if self.ready:
                return True
            self.why = "loading broke off, see the server's log"  # unless one of the next lines says more
            try:
                self._desk = self._opened()
                self.ready, self.why = True, ""
            except DubmillError as error:
                self.why = error.sentence
                log.error("%s is not ready: %s", self.name, self.why)
            return self.ready

    def load_beside(self) -> None:
        """Load in another thread, so that the server answers meanwhile."""
        self.why = "it is still loading"
        threading.Thread(target=self.load, name="load", daemon=True).start()

    def _opened(self) -> Desk:
        self.ledger.check()
        selftest_of(self.release)  # before the weights: a release without one fails at once
        watch = self._open_watch()
        desk = Desk(self.name, self.release, self._open_dubber(), watch, self.ledger, self.limits)
        began = time.monotonic()
        desk.selftest()
        log.info("%s %s is ready; its self-test dub took %.1f s", self.name, desk.version, time.monotonic() - began)
        return desk

    async def healthy(self) -> bool:
        """Whether the self-test passed.

        Raises:
            ModelNotReady: it did not, with the reason; a plain False would lose it.
        """
        if not self.ready:
            raise ModelNotReady(self.name, f"Because: {self.why}.")
        return True

    async def dub(self, asked: DubRequest) -> Dub:
        """One dub, when its turn comes; counted whatever becomes of it.

        Raises:
            DubmillError: see `Desk.dub`; `QueueFull` if too many wait.
        """
        desk, outcome = self._desk, "failed"
        assert desk is not None
        try:
            check(asked)
            dub = await self.queue.run(lambda: self._timed(desk, asked))
            outcome = "done"
            return dub
        except DubmillError as error:
            outcome = type(error).__name__
            raise
        finally:
            known = asked.line.language if asked.line.language in LANGUAGES else "other"  # labels are for ever
            DUBS.labels(self.name, known, outcome).inc()

    def _timed(self, desk: Desk, asked: DubRequest) -> Dub:
        self.progress = 0.0
        with DUB_SECONDS.labels(self.name).time():
            return desk.dub(asked, self._report)

    def _report(self, share: float) -> None:
        self.progress = share

    async def predict(self, payload: Any, headers: dict[str, str] | None = None) -> dict[str, Any] | InferResponse:
        """Answer a V1 or V2 request."""
        if isinstance(payload, InferRequest):
            return wire.to_v2(await self.dub(wire.from_v2(payload)), payload)
        return wire.to_v1([await self.dub(asked) for asked in wire.from_v1(payload)])

    def get_input_types(self) -> list[dict]:
        """The V2 inputs."""
        return wire.INPUTS

    def get_output_types(self) -> list[dict]:
        """The V2 outputs."""
        return wire.OUTPUTS
