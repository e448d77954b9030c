"""Runs the compiled pipeline on this machine with KFP's own runner: one process and one line of output per task."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from dubmill.artifacts.publish import publish
from dubmill.errors import DubmillError
from dubmill.media import mp4_bytes
from dubmill.media.clips import Clip

ANSI = re.compile(r"\x1b\[\d+m")
SENTENCE = re.compile(r"dubmill\.errors\.(\w+): (.*)")
STARTED = re.compile(r"Executing task '([\w-]+)'")
ENDED = re.compile(r"Task '([\w-]+)' finished with status (\w+)")
CACHED = re.compile(r"Task ([\w-]+) cache hit")


class FailedTaskError(DubmillError):
    """A task of the local run failed."""


class Progress(logging.Filter):
    """Prints one line for each task that KFP logs; nothing else of its log reaches the terminal."""

    def __init__(self, screen: TextIO) -> None:
        super().__init__()
        self.screen, self.started = screen, time.monotonic()

    def filter(self, record: logging.LogRecord) -> bool:
        """Prints a task's end; every record still goes to the log file."""
        message = ANSI.sub("", record.getMessage())
        if STARTED.search(message):
            self.started = time.monotonic()
        elif ended := ENDED.search(message):
            state = "done" if ended[2] == "SUCCESS" else "failed"
            self.show(f"{ended[1]:<12} {state:<9} {time.monotonic() - self.started:7.1f} s")
        elif cached := CACHED.search(message):
            self.show(f"{cached[1]:<12} unchanged")
        return True

    def show(self, line: str) -> None:
        """Prints one line on the terminal."""
        clear = "\r\x1b[K" if self.screen.isatty() else ""
        print(f"{clear}{line}", file=self.screen, flush=True)  # noqa: T201 (this is the command's output)


class Log(io.TextIOBase):
    """Writes everything that tasks print to a file; on a terminal the latest line is shown while its task runs."""

    def __init__(self, path: Path, screen: TextIO) -> None:
        self.stream, self.screen, self.sentence = path.open("w"), screen, ""

    def write(self, text: str) -> int:
        """Writes `text` and remembers the last error sentence."""
        self.stream.write(text)
        self.stream.flush()
        for line in text.splitlines():
            if found := SENTENCE.search(line):
                self.sentence = found[2]
            if self.screen.isatty() and line.strip():
                self.screen.write(f"\r\x1b[K  {line.strip()[:100]}")
                self.screen.flush()
        return len(text)

    def flush(self) -> None:
        """Flushes the file."""
        self.stream.flush()


def run(package: Path, root: Path) -> Mapping[str, Any]:
    """Runs the YAML at `package`; tasks whose inputs, params and code are unchanged are taken from `root`.

    Returns:
        The pipeline's outputs by name, each with `.path`.

    Raises:
        FailedTaskError: a task failed; its own sentence.
    """
    from kfp import components, local

    root.mkdir(parents=True, exist_ok=True)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), enable_caching=True)
    progress, log = Progress(sys.stdout), Log(root / "run.log", sys.stdout)
    pipeline = components.load_component_from_file(str(package))
    logging.getLogger().addFilter(progress)
    try:
        with contextlib.redirect_stdout(log), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # KFP warns that resources of pods are ignored here
            return pipeline().outputs
    except RuntimeError as error:
        sentence = log.sentence or ANSI.sub("", str(error)).splitlines()[-1]
        raise FailedTaskError(sentence, cure=f"the whole output is in {root / 'run.log'}") from error
    finally:
        logging.getLogger().removeFilter(progress)


def rescue_report(root: Path, since: float, work: Path) -> Path | None:
    """Copies the report of a run that failed after it (a refused promotion); returns None if there is none.

    `since` is the time the run started, in seconds since the epoch.
    """
    pages = [page for page in root.glob("*/evaluate/report/report.html") if page.stat().st_mtime >= since]
    if not pages:
        return None
    work.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(pages[0], work / "report.html"))


def keep_pairs(outputs: Mapping[str, Any], work: Path) -> Path:
    """Copies the pairs and their backbone from KFP's folders to `work`; returns the path of the pairs."""
    publish(work, backbone=outputs["backbone"].path, pairs=outputs["pairs"].path)
    return work / "pairs"


def keep_outputs(outputs: Mapping[str, Any], work: Path) -> tuple[Path, Path]:
    """Copies report page, release and a sample clip from KFP's folders to `work`; returns the paths of the first two."""
    report, release = work / "report.html", work / "release"
    publish(work, backbone=outputs["backbone"].path, release=outputs["release"].path)
    shutil.copyfile(Path(outputs["report"].path) / "report.html", report)
    sample = Clip.from_bytes((release / "selftest.clip").read_bytes())
    (work / "sample.mp4").write_bytes(mp4_bytes(sample))
    return report, release
