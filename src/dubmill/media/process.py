"""FFmpeg as a process: the containers that it may open, and one error for its messages."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from dubmill.errors import MediaTooLargeError, UnreadableMediaError
from dubmill.media.installation import executable

Source = Path | str | bytes

# Real containers only: playlists, concat scripts and image patterns could make FFmpeg read other files of the machine.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,nut,wav,mp3,aac,flac"
ALLOWED = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}  # of every input
_HEADS = (  # media types by a pattern of the first bytes, https://mimesniff.spec.whatwg.org and the formats' own pages
    (rb".{4}ftypqt  ", "video/quicktime"),
    (rb".{4}ftyp", "video/mp4"),
    (rb".{4}(moov|mdat|wide|free|skip|pnot)", "video/quicktime"),  # from before there was an ftyp
    (rb"\x1a\x45\xdf\xa3.{0,60}\x42\x82.{1,8}?webm", "video/webm"),
    (rb"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (rb"RIFF.{4}AVI ", "video/x-msvideo"),
    (rb"\x47.{187}\x47", "video/mp2t"),
    (rb"\x00\x00\x01[\xb3\xba]", "video/mpeg"),
    (rb"OggS", "video/ogg"),
    (rb"FLV", "video/x-flv"),
    (rb"\x30\x26\xb2\x75", "video/x-ms-asf"),
)
MAX_DATA_BYTES = 4 * 1024**3  # of one FFmpeg; frames of 4096 x 4096 need a tenth of it
MAX_CPU_SECONDS = 4 * 24 * 3600  # where nothing else is stated: of a film of a day
BITEXACT = "+bitexact"
FAST_SCALING = (
    "bicubic+full_chroma_int+full_chroma_inp+bitexact"  # of whole films: up to 1 of 255 off, five times as fast
)
SCALING = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
STALL_SECONDS = 600.0  # without any output
_PIPE_BYTES = 1 << 20  # what Linux allows everybody; its default of 64 KiB wakes both ends 50 times a frame
TOO_MANY_PIXELS = "exceeds specified max pixel count"
_TRUNCATED = ("partial file", "File ended prematurely")  # messages after which FFmpeg exits with success


def media_type_of(path: Path) -> str:
    """The media type of a file in one of `CONTAINERS`, by its first bytes; application/octet-stream where they are unknown."""
    with path.open("rb") as stream:
        head = stream.read(256)
    return next((kind for start, kind in _HEADS if re.match(start, head, re.DOTALL)), "application/octet-stream")


def name_of(source: Source) -> str:
    """How an error names `source`."""
    return "the given clip" if isinstance(source, bytes) else str(source)


def read_output(graph: Any, *, name: str, fds: Sequence[int]) -> bytes:
    """Everything that FFmpeg writes to its standard output.

    Raises:
        UnreadableMediaError: it failed, or stalled.
    """
    return b"".join(stream_output(graph, name=name, fds=fds))


def stream_blocks(graph: Any, size: int, *, name: str, fds: Sequence[int]) -> Iterator[np.ndarray]:
    """FFmpeg's output in blocks of `size` bytes, each an array of its own; what remains at the end is dropped.

    Raises:
        UnreadableMediaError, MediaTooLargeError: as `stream_output`.
    """
    block_N = np.empty(size, np.uint8)
    rest: list[Any] = [block_N.data]
    for count in _stream(lambda pipe: os.readv(pipe, rest), graph, name, fds):
        rest[0] = rest[0][count:]
        if not rest[0]:
            yield block_N
            block_N = np.empty(size, np.uint8)
            rest[0] = block_N.data


def stream_output(
    graph: Any, *, name: str, fds: Sequence[int], max_cpu_seconds: int = MAX_CPU_SECONDS
) -> Iterator[bytes]:
    """What FFmpeg writes to its standard output, block by block; a reader that stops early ends the process.

    Raises:
        UnreadableMediaError: it failed, or wrote nothing for `STALL_SECONDS`.
        MediaTooLargeError: it needs more processor time, memory or pixels than it is given.
    """
    return _stream(lambda pipe: os.read(pipe, _PIPE_BYTES), graph, name, fds, max_cpu_seconds)


def _stream(
    read: Callable[[int], Any], graph: Any, name: str, fds: Sequence[int], max_cpu_seconds: int = MAX_CPU_SECONDS
) -> Iterator[Any]:
    """What `read` returns of FFmpeg's standard output, until that is nothing."""
    with running(graph, fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as (process, log):
        assert process.stdout is not None
        limit_resources(process, max_cpu_seconds=max_cpu_seconds)
        pipe = process.stdout.fileno()
        while True:
            if not select.select([pipe], [], [], STALL_SECONDS)[0]:
                raise UnreadableMediaError("FFmpeg stalled", where=name, cure="export it again")
            part = read(pipe)
            if not part:
                break
            yield part
        has_failed, messages = bool(process.wait()), content(log).decode("utf-8", "replace")
        if process.returncode == -signal.SIGKILL:  # at the hard limit, or by the kernel where memory ran out
            what = f"it takes more than {max_cpu_seconds} s, or all memory, to decode"
            raise MediaTooLargeError(what, where=name, cure="export it again, or cut it")
        if has_failed or any(sign in messages for sign in _TRUNCATED):
            raise error_of(messages, name)


@contextmanager
def running(
    graph: Any, *, fds: Sequence[int], stdin: int, stdout: int
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A running FFmpeg and the file of its messages; the process never outlives the block.

    `fds` are the descriptors that it inherits.
    """
    command = graph.global_args("-nostdin", "-hide_banner", "-nostats").compile(cmd=executable())
    if "-v" not in command:
        command += ["-v", "error"]
    with anonymous_file() as log:  # a file and not a pipe, which would fill up if nobody read it
        process = subprocess.Popen(command, stderr=log, pass_fds=tuple(fds), stdin=stdin, stdout=stdout)
        for pipe in filter(None, (process.stdin, process.stdout)):
            with suppress(OSError, AttributeError):  # a user has too many pipes already; not Linux
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            yield process, log
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with suppress(BrokenPipeError):
                        pipe.close()
            process.kill()
            process.wait()


def limit_resources(process: subprocess.Popen[bytes], *, max_cpu_seconds: int) -> None:
    """Bound the memory and processor time of a running FFmpeg, from outside: code between fork and exec could deadlock."""
    if not hasattr(resource, "prlimit"):
        return  # not Linux
    with suppress(ProcessLookupError):  # it has ended already
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (max_cpu_seconds, max_cpu_seconds))


def error_of(messages: str, name: str) -> UnreadableMediaError | MediaTooLargeError:
    """Returns the error that describes FFmpeg's messages."""
    if TOO_MANY_PIXELS in messages:
        return MediaTooLargeError("its pictures have too many pixels", where=name, cure="scale it")
    if any(sign in messages for sign in ("Cannot allocate memory", "pthread_create() failed")):
        return MediaTooLargeError("it takes too much memory to decode", where=name, cure="export it again, or scale it")
    is_container_known = any(sign in messages for sign in ("moov atom not found", "error reading header"))
    if "does not contain any stream" in messages:
        return UnreadableMediaError(
            "it has neither picture nor sound, or is truncated", where=name, cure="give a video"
        )
    cannot_open = re.search(r"Error opening input|^file:.*: Invalid data", messages, flags=re.MULTILINE)  # 7 | 5, 6
    if cannot_open and not is_container_known:
        return UnreadableMediaError("this is not a media file", where=name, cure="give an MP4, MOV, MKV or WebM")
    if any(sign in messages for sign in ("Invalid data found", *_TRUNCATED)):
        return UnreadableMediaError("the file is truncated or damaged", where=name, cure="copy or export it again")
    lines = messages.strip().splitlines()
    last = re.sub(r"\[[^]]*\] ?", "", lines[-1]) if lines else "no reason given"
    return UnreadableMediaError(f"FFmpeg cannot read it ({last})", where=name, cure="export it as MP4 (H.264, AAC)")


@contextmanager
def seekable(source: Source) -> Iterator[tuple[str, list[int]]]:
    """A URL in which FFmpeg can seek, and the descriptors that it must inherit.

    Raises:
        UnreadableMediaError: there is no such file, or it is empty.
    """
    if isinstance(source, bytes):
        if not source:
            raise UnreadableMediaError("the file is empty", where=name_of(source), cure="copy or export it again")
        with anonymous_file() as file:
            fill(file, np.frombuffer(source, dtype=np.uint8))
            yield url(file), [file.fileno()]
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


def anonymous_file() -> IO[bytes]:
    """A file without a name: in memory where the kernel has that, else unlinked on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("clip"), "w+b")
    return tempfile.TemporaryFile()


def url(file: IO[bytes]) -> str:
    """The URL by which FFmpeg opens a file that it inherits."""
    return f"file:/dev/fd/{file.fileno()}"


def fill(file: IO[bytes], values: np.ndarray) -> None:
    """Write an array to `file`, to be read from its start."""
    if values.size:
        file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    file.flush()
    file.seek(0)


def content(file: IO[bytes]) -> bytes:
    """All bytes of `file`."""
    file.seek(0)
    return file.read()
