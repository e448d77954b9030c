"""Releases that are served at once: loaded onto one backbone, chosen per request, and exchanged without a restart.

The folder `--release` holds the default one, and each folder in `--adapters` another. They are watched: a new or replaced one is
loaded and tested between two jobs, a removed one is unloaded, and one that cannot be served changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from dubmill.dubbing import open as opening
from dubmill.dubbing.clip_dubber import BatchDubber
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.service import DubbingService
from dubmill.errors import DubmillError, UnsupportedTextError, UsageError
from dubmill.serving.batching import BatchingDubber
from dubmill.serving.room import room_for_clips

log = logging.getLogger("dubmill.serving")

RELEASE = "release"  # name of the default one; a folder of this name in `--adapters` is not served
WATCH_SECONDS = 1.0
MAX_PROBLEM_CHARACTERS = 1000  # an event has to stay below PIPE_BUF
Signature = tuple[tuple[str, int, int], ...]


class UnknownAdapterError(UsageError):
    """A request names an adapter that is not served."""


def choose(sources: Mapping[str, ModelSource], adapter: str, tag: str) -> str:
    """Returns the name of the adapter for a request: the one it names, else the default, else the last by name, that has the language.

    Raises:
        UnknownAdapterError: there is none of that name.
        UnsupportedTextError: none has the language.
    """
    if adapter:
        if adapter not in sources:
            served = ", ".join(sources)
            raise UnknownAdapterError("it is not served here", where=f"adapter {adapter[:80]!r}", cure=f"use {served}")
        return adapter
    fitting = [name for name, source in sources.items() if not source.languages or tag in source.languages]
    if not fitting and len(sources) > 1:
        known = ", ".join(sorted({language for source in sources.values() for language in source.languages}))
        raise UnsupportedTextError(f"no adapter here dubs into {tag!r}", cure=f"use one of {known}")
    return RELEASE if RELEASE in fitting or not fitting else max(fitting)


@dataclass(frozen=True)
class ReleaseFolders:
    """Where releases are looked for: the folder of the default one, and the folder of the others' folders, if any."""

    release: Path
    others: Path | None

    def find(self) -> dict[str, Path]:
        """Returns the folder of each release by name, the default's first."""
        others = self.others.iterdir() if self.others is not None and self.others.is_dir() else ()
        named = sorted(path for path in others if path.is_dir() and path.name[0] != "." and path.name != RELEASE)
        return {RELEASE: self.release, **{path.name: path for path in named}}


@dataclass(eq=False)
class LoadedRelease:
    """A release on the backbone; `num_uses` jobs have it, and it is not unloaded before they end."""

    service: DubbingService  # for many threads
    batch_size: int  # how many clips fitted the memory when it was loaded
    num_uses: int = 0


class LoadedReleases:
    """The releases in `folders` on one backbone; the lock `model` is held while the transformer changes or dubs."""

    def __init__(
        self,
        first: DubbingService,
        folders: ReleaseFolders,
        *,
        backbone: Path,
        model: threading.Lock,
        batch_size: int,
        report: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`first` is the default one, loaded and tested; up to `batch_size` clips are dubbed in one sampler call."""
        self._folders, self.backbone, self._model, self._report = folders, backbone, model, report
        self._batch_size = batch_size
        self._base = first  # its dubber has the modules, ledger and masker that all share
        self._loaded = {RELEASE: self._served(first)}
        self._seen = {RELEASE: _signature(folders.release)}  # of each folder, when it was last loaded or refused
        self._retired: list[LoadedRelease] = []
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._report_served(RELEASE, folders.release, self._loaded[RELEASE])

    @property
    def sources(self) -> dict[str, ModelSource]:
        """The model of each release by name."""
        return {name: loaded.service.source for name, loaded in self._loaded.items()}

    @contextmanager
    def lease(self, adapter: str, tag: str) -> Iterator[DubbingService]:
        """Gives the service of the adapter that `choose` names; it stays loaded meanwhile.

        Raises:
            DubmillError: see `choose`.
        """
        if adapter not in ("", *self._loaded):
            self.refresh()  # another replica may have seen a new folder first
        with self._lock:
            loaded = self._loaded[choose(self.sources, adapter, tag)]
            loaded.num_uses += 1
        try:
            yield loaded.service
        finally:
            with self._lock:
                loaded.num_uses -= 1

    def watch(self) -> None:
        """Look for changes for ever."""
        while True:
            time.sleep(WATCH_SECONDS)
            try:
                self.refresh()
            except OSError as error:  # a folder that is being replaced; it is looked at again
                log.warning("the folders of releases could not be read (%s)", error)

    def refresh(self) -> None:
        """Load what is new or replaced, unload what is gone, and report both."""
        with self._refreshing:
            found = self._folders.find()
            for name in set(self._seen) - set(found):
                del self._seen[name]
                self._replace(name, None)
                self._report({"event": "adapter_removed", "adapter": name})
            for name, path in found.items():
                self._load_if_changed(name, path)
            self._unload_unused()

    def _load_if_changed(self, name: str, path: Path) -> None:
        signature = _signature(path)
        if self._seen.get(name) == signature:
            return
        started = time.monotonic()
        try:
            loaded = self._load(path)
        except DubmillError as error:
            self._seen[name] = signature
            log.error("the adapter %s cannot be served: %s", name, error.sentence)
            problem = error.sentence[:MAX_PROBLEM_CHARACTERS]
            self._report({"event": "adapter", "adapter": name, "problem": problem})
            return
        self._seen[name] = signature
        self._replace(name, loaded)
        log.info("%s %s is served after %.2f s", name, loaded.service.source.version, time.monotonic() - started)
        self._report_served(name, path, loaded)

    def _report_served(self, name: str, path: Path, loaded: LoadedRelease) -> None:
        """Report that a release is served, with the size of its batches, and log a size that is less than was asked for."""
        if loaded.batch_size < self._batch_size:
            log.warning(
                "%s: up to %d clip(s) in a batch and not %d, since no more fit the free memory by the counts of `dubmill plan`",
                name,
                loaded.batch_size,
                self._batch_size,
            )
        self._report({"event": "adapter", "adapter": name, "path": str(path), "batch_size": loaded.batch_size})

    def _served(self, service: DubbingService) -> LoadedRelease:
        loaded = cast(BatchDubber, service.dubber)  # of `open_dubber`, never one that loads its weights later
        room = room_for_clips(loaded, service.source.size)
        dubber = BatchingDubber(loaded, model=self._model, max_clips=self._batch_size, num_fitting=room)
        return LoadedRelease(replace(service, dubber=dubber), dubber.max_clips)

    def _load(self, path: Path) -> LoadedRelease:
        release, source = opening.open_release(self.backbone, path)
        with self._model:
            dubber = opening.open_dubber(self.backbone, source, beside=self._base.dubber)
            service = replace(self._base, source=source, dubber=dubber)
            try:
                service.selftest(release)
            except DubmillError:
                dubber.detach()
                raise
            return self._served(service)  # a batch that is being dubbed holds memory that is free between two

    def _replace(self, name: str, loaded: LoadedRelease | None) -> None:
        with self._lock:
            releases = dict(self._loaded)  # a new mapping: readers may be iterating over the old one
            if (old := releases.pop(name, None)) is not None:
                self._retired.append(old)
            if loaded is not None:
                releases[name] = loaded
            self._loaded = releases

    def _unload_unused(self) -> None:
        with self._lock:
            unused = [loaded for loaded in self._retired if loaded.num_uses == 0]
            self._retired = [loaded for loaded in self._retired if loaded.num_uses > 0]
        for loaded in unused:
            loaded.service.dubber.detach()


def _signature(folder: Path) -> Signature:
    """Returns what changes when a file in `folder` is added, replaced or removed; a file that is being copied changes it too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files)
