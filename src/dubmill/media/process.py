"""FFmpeg as a process: the one executable, what it may open, and one sentence for what it complains about."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from dubmill.errors import UnreadableMediaError
from dubmill.media.installation import executable

Source = Path | str | bytes

# Real containers only: playlists, concat scripts and image patterns could make FFmpeg read other files of the machine.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,nut,wav,mp3,aac,flac"
TRUSTED = {"format_whitelist": CONTAINERS}
EXACT = "+bitexact"
SCALING = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
PATIENCE_SECONDS = 600.0  # without a sign of life
_TORN = ("partial file", "File ended prematurely")  # of which FFmpeg complains, and then ends as if all were well


def name_of(source: Source) -> str:
    """What to call `source` when speaking of it."""
    return "the given clip" if isinstance(source, bytes) else str(source)


def run(graph: Any, *, name: str, fds: Sequence[int]) -> bytes:
    """What FFmpeg writes to its standard output.

    Raises:
        UnreadableMediaError: it failed, or took far too long.
    """
    return b"".join(stream(graph, name=name, fds=fds))


def stream(graph: Any, *, name: str, fds: Sequence[int]) -> Iterator[bytes]:
    """What FFmpeg writes to its standard output, as it comes; a reader who stops early ends the process.

    Raises:
        UnreadableMediaError: it failed, or gave no sign of life for far too long.
    """
    with started(graph, fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as (process, told):
        pipe = process.stdout.fileno()
        while True:
            if not select.select([pipe], [], [], PATIENCE_SECONDS)[0]:
                raise UnreadableMediaError("FFmpeg did not go on", where=name, cure="export it again")
            data = os.read(pipe, 1 << 20)
            if not data:
                break
            yield data
        failed, said = process.wait(), content(told).decode("utf-8", "replace")
        if failed or any(sign in said for sign in _TORN):
            raise fault(said, name)


@contextmanager
def started(graph: Any, *, fds: Sequence[int], **pipes: int) -> Iterator[tuple[subprocess.Popen, IO[bytes]]]:
    """A running FFmpeg and what it has complained of so far; it never outlives the block."""
    command = graph.global_args("-nostdin", "-hide_banner", "-nostats").compile(cmd=executable())
    if "-v" not in command:
        command += ["-v", "error"]
    with scratch() as told:  # a file and not a pipe: nobody need read it for FFmpeg to go on
        process = subprocess.Popen(command, stderr=told, pass_fds=tuple(fds), **pipes)  # noqa: S603 (no shell)
        try:
            yield process, told
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with suppress(BrokenPipeError):
                        pipe.close()
            process.kill()
            process.wait()


def fault(told: str, name: str) -> UnreadableMediaError:
    """One sentence for what FFmpeg complained about."""
    begun = ("moov atom not found", "error reading header")  # the container was known before it failed
    if "does not contain any stream" in told:
        return UnreadableMediaError(
            "neither picture nor sound is in it, or it is truncated", where=name, cure="give a video"
        )
    unopened = re.search(r"Error opening input|^file:.*: Invalid data", told, flags=re.MULTILINE)  # FFmpeg 7 | 5, 6
    if unopened and not any(sign in told for sign in begun):
        return UnreadableMediaError("this is not a media file", where=name, cure="give an MP4, MOV, MKV or WebM")
    if any(sign in told for sign in ("Invalid data found", *_TORN)):
        return UnreadableMediaError("the file is truncated or damaged", where=name, cure="copy or export it again")
    last = re.sub(r"\[[^]]*\] ?", "", told.strip().splitlines()[-1]) if told.strip() else "no reason given"
    return UnreadableMediaError(f"FFmpeg cannot read it ({last})", where=name, cure="export it as MP4 (H.264, AAC)")


@contextmanager
def readable(source: Source) -> Iterator[tuple[str, list[int]]]:
    """A URL that FFmpeg can seek in, and the descriptors it must inherit."""
    if isinstance(source, bytes):
        if not source:
            raise UnreadableMediaError("the file is empty", where=name_of(source), cure="copy or export it again")
        with scratch() as held:
            fill(held, np.frombuffer(source, dtype=np.uint8))
            yield url(held), [held.fileno()]
        return
    path = Path(source).absolute()
    if not _is_file(path):
        raise UnreadableMediaError(_why_no_file(path), where=str(source)[:200], cure="give the path of a video file")
    if not path.stat().st_size:
        raise UnreadableMediaError("the file is empty", where=str(source), cure="copy or export it again")
    yield f"file:{path}", []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _why_no_file(path: Path) -> str:
    try:
        if path.is_dir():
            return "this is a directory"
        if path.exists() or path.name == "-":
            return "this is a pipe or device, and a video is read several times"
    except OSError:  # a name that is too long
        return "the name is too long"
    return "there is no such file"


def scratch() -> IO[bytes]:
    """A file without a name: in memory where the kernel can, else unlinked on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("clip"), "w+b")
    return tempfile.TemporaryFile()


def url(stream: IO[bytes]) -> str:
    """How FFmpeg opens an inherited file."""
    return f"file:/dev/fd/{stream.fileno()}"


def fill(stream: IO[bytes], values: np.ndarray) -> None:
    """Put `values` into `stream`, to be read from its start."""
    stream.write(memoryview(values).cast("B") if values.size else b"")
    stream.flush()
    stream.seek(0)


def content(stream: IO[bytes]) -> bytes:
    """All that is in `stream`."""
    stream.seek(0)
    return stream.read()
