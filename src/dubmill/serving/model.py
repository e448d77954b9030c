"""The KServe model: it loads in the background, runs a self-test, then dubs one clip at a time."""

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
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.consent import ConsentLedger
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.service import DubbingService, DubRequest, DubResult, check_request, selftest_clip
from dubmill.errors import DubmillError
from dubmill.faces import FaceMasker
from dubmill.serving import wire
from dubmill.serving.queue import Queue
from dubmill.text.languages import LANGUAGES

log = logging.getLogger("dubmill.serving")

DUBS = Counter("dubs", "number of dub requests, by outcome", ["model", "language", "outcome"])
DUB_SECONDS = Histogram(
    "dub_seconds",
    "seconds one dub took, without waiting",
    ["model"],
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
LOADING = "it is still loading"


class DubModel(Model):
    """Serves one release. `open_dubber` and `open_masker` are called once, in the background: it may take minutes."""

    def __init__(
        self,
        name: str,
        release: Release,
        source: ModelSource,
        *,
        open_dubber: Callable[[], ClipDubber],
        open_masker: Callable[[], FaceMasker],
        ledger: Path,
        max_waiting: int,
        limits: media.Limits,
    ) -> None:
        super().__init__(name)
        self.release, self.source = release, source
        self.limits, self.ledger = limits, ConsentLedger(ledger)
        self.queue, self.progress = Queue(max_waiting), 0.0
        self.unready_reason = LOADING
        self._open_dubber, self._open_masker = open_dubber, open_masker
        self._service: DubbingService | None = None
        self._loading = threading.Lock()
        self._create_metrics()

    def _create_metrics(self) -> None:
        """Create the series that a healthy server has, so that a rate can be computed from its first dub on."""
        DUB_SECONDS.labels(self.name)
        for language in (*self.source.languages, "other"):
            for outcome in ("done", "failed"):
                DUBS.labels(self.name, language, outcome)

    def load(self) -> bool:
        """Load and self-test; on failure the model stays unready, for the reason in `unready_reason`."""
        with self._loading:
            if self.ready:
                return True
            self.unready_reason = LOADING
            try:
                self._service = self._load_service()
                self.ready, self.unready_reason = True, ""
            except DubmillError as error:
                self.unready_reason = error.sentence
                log.error("%s is not ready: %s", self.name, self.unready_reason)
            finally:
                if self.unready_reason == LOADING:  # an error that is no DubmillError; its traceback is logged
                    self.unready_reason = "loading failed, see the server's log"
            return self.ready

    def load_in_background(self) -> None:
        """Load in another thread, so that the server answers meanwhile."""
        threading.Thread(target=self.load, name="load", daemon=True).start()

    def _load_service(self) -> DubbingService:
        self.ledger.check_writable()
        selftest_clip(self.release)  # before the weights: a release without one fails at once
        masker = self._open_masker()
        service = DubbingService(self.source, self._open_dubber(), masker, self.ledger, self.limits)
        started = time.monotonic()
        service.selftest(self.release)
        seconds = time.monotonic() - started
        log.info("%s %s is ready; its self-test dub took %.1f s", self.name, self.source.version, seconds)
        return service

    async def healthy(self) -> bool:
        """Whether the self-test passed.

        Raises:
            ModelNotReady: it did not, with the reason, which a plain False would lose.
        """
        if not self.ready:
            raise ModelNotReady(self.name, f"Because: {self.unready_reason}.")
        return True

    async def dub(self, request: DubRequest) -> DubResult:
        """One dub, after those before it in the queue; every outcome is counted.

        Raises:
            DubmillError: see `DubbingService.dub`; `QueueFullError` if too many wait.
        """
        service, outcome = self._service, "failed"
        assert service is not None, "KServe asks `healthy` first"
        try:
            check_request(request)
            self.source.check_language(request.line.language)
            result = await self.queue.run(lambda: self._timed(service, request))
            outcome = "done"
            return result
        except DubmillError as error:
            outcome = type(error).__name__
            raise
        finally:
            language = request.line.language if request.line.language in LANGUAGES else "other"  # bounds the labels
            DUBS.labels(self.name, language, outcome).inc()

    def _timed(self, service: DubbingService, request: DubRequest) -> DubResult:
        self.progress = 0.0
        with DUB_SECONDS.labels(self.name).time():
            return service.dub(request, self._set_progress)

    def _set_progress(self, share: float) -> None:
        self.progress = share

    async def predict(
        self, payload: Any, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Answer a V1 or V2 request."""
        if isinstance(payload, InferRequest):
            return wire.to_v2(await self.dub(wire.from_v2(payload)), payload)
        return wire.to_v1([await self.dub(request) for request in wire.from_v1(payload)])

    def get_input_types(self) -> list[dict[str, Any]]:
        """The V2 inputs."""
        return [tensor.to_dict() for tensor in wire.INPUTS]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The V2 outputs."""
        return [tensor.to_dict() for tensor in wire.OUTPUTS]
