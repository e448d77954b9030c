"""The real server process with a stand-in for the model: `python -m doubles.dubbing_server ARGUMENTS`."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from doubles.dubbers import HELD, ToneDubber
from doubles.releases import tiny_backbone, tiny_release
from dubmill.dubbing import open as opening
from dubmill.faces import NO_DETECTION
from dubmill.serving import server

MODEL_SECONDS = (
    "DUBMILL_TEST_MODEL_SECONDS"  # names a file: nano itself dubs, and the seconds of its calls are written there
)


def free_port():
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, *, has_selftest=True, more=()):
    """A server process in `folder` on a release for `small_clip`; returns the process and its port.

    A later one in the same folder continues where an earlier one was killed.
    """
    port = free_port()
    if not (folder / "release").exists():
        tiny_release(folder / "release", tiny_backbone(folder / "backbone"), has_selftest=has_selftest)
    arguments = ["--backbone", folder / "backbone", "--release", folder / "release", "--host", "127.0.0.1"]
    arguments += [
        "--http_port",
        port,
        "--ledger",
        folder / "consent.jsonl",
        "--max_waiting",
        3,
        "--jobs",
        folder / "jobs",
    ]
    arguments += ["--max_body_bytes", 4_000_000, "--max_film_seconds", 60, *(more or ("--max_waiting", 3))]
    sources = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": sources, HELD: str(folder / "held")}
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "doubles.dubbing_server", *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stderr=log, stdout=log), port


def time_the_model(path):
    """Let the model itself dub, and write the seconds of each of its calls to a file."""
    from dubmill.dubbing.dubber import Dubber

    dub_batch = Dubber.dub_batch

    def timed(self, clips, *arguments, **options):
        started = time.monotonic()
        dubs = dub_batch(self, clips, *arguments, **options)
        with path.open("a") as log:
            log.write(f"{time.monotonic() - started}\n")
        return dubs

    Dubber.dub_batch = timed


def replace_the_model(*, is_worker):
    """Let a tone stand in for the model."""
    opening.open_dubber = lambda backbone, source, beside=None: ToneDubber()
    opening.open_face_masker = lambda backbone: NO_DETECTION
    if is_worker:
        from dubmill.serving import adapters

        adapters.room_for_clips = lambda dubber, size: lambda: 3


if __name__ == "__main__":
    is_worker = "--status_fd" in sys.argv
    if MODEL_SECONDS not in os.environ:
        replace_the_model(is_worker=is_worker)
    elif is_worker:
        time_the_model(Path(os.environ[MODEL_SECONDS]))
    sys.exit(server.main(module="doubles.dubbing_server"))
