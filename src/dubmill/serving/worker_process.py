"""The worker as a child process of the API: started, watched, started again when it dies, and told to stop."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger("dubmill.serving")

WRONG_MODEL = 2  # exit code of a worker that would fail again
END_SECONDS = 5.0  # a worker needs to put back what it did not finish
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0


class WorkerProcess:
    """A child process that reports events, one JSON object a line, through a pipe.

    Its standard input is a pipe too: when the API is killed it ends, and the child with it. Events that come before
    `listen` are kept for it, so that the worker can load while the API is still importing.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._listener: Callable[[Mapping[str, Any]], None] | None = None
        self._early: list[Mapping[str, Any]] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="worker", daemon=True)

    def start(self) -> None:
        """Start the worker, in the background."""
        self._thread.start()

    def listen(self, listener: Callable[[Mapping[str, Any]], None]) -> None:
        """Pass every event to `listener`, which is called in the thread that watches the worker."""
        with self._lock:
            for event in self._early:
                listener(event)
            self._listener = listener

    def _on_event(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            if self._listener is None:
                self._early.append(event)
            else:
                self._listener(event)

    def stop(self, grace_seconds: float) -> None:
        """Let the worker finish the jobs that have a place at the model within `grace_seconds`, and put the others back."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(grace_seconds + END_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning(
                    "the worker did not end in %.0f s; its jobs continue at the next start", grace_seconds + END_SECONDS
                )
                process.kill()
        self._thread.join(timeout=5.0)

    def _watch(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            code = self._run_once()
            if self._stopping.is_set() or code == WRONG_MODEL:
                return
            log.error("the worker ended with code %d; it is started again in %.1f s", code, pause_seconds)
            self._on_event({"event": "stopped", "reason": f"the worker ended with code {code} and is started again"})
            self._stopping.wait(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)

    def _run_once(self) -> int:
        """Start the worker and pass on its events until it ends; returns its exit code."""
        reading, writing = os.pipe()
        command = [*self._command, "--status_fd", str(writing)]
        self._process = process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(writing,))
        os.close(writing)
        if self._stopping.is_set():
            process.terminate()
        with os.fdopen(reading) as events:
            for line in events:
                self._on_event(json.loads(line))
        return process.wait()
