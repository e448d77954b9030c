"""Checks of the files that a dub will write, before any work begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dubmill import media
from dubmill.errors import UsageError

VIDEO_SUFFIXES, CAPTION_SUFFIXES = tuple(media.OUTPUT_CONTAINERS), (".srt", ".vtt")
_RESERVED_BYTES = 24  # a hidden name beside the file: `.NAME.1a2b3c4d.partial` while it is written


def check_outputs(
    *, source: Path, out: Path, captions: Path | None, script: Path | None, force: bool, sounds: Sequence[Path] = ()
) -> None:
    """Refuse output files that cannot be written, or that would overwrite an input or, without `force`, any file.

    `sounds` are further inputs.

    Raises:
        UsageError: with the file and the reason.
    """
    inputs = [path for path in (source, script, *sounds) if path is not None]
    _check_file(out, VIDEO_SUFFIXES, "no container has this ending", inputs, force)
    if captions is not None:
        _check_file(captions, CAPTION_SUFFIXES, "captions are SubRip or WebVTT", inputs, force)


def check_writable(path: Path) -> None:
    """Refuse a place where no file can be written: a folder, an unwritable folder, or a name that is too long.

    Raises:
        UsageError: with the reason.
    """
    if path.is_dir():
        raise UsageError("this is a folder", where=_shown(path), cure="give the name of a file")
    folder = path.absolute().parent
    while not _exists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError("this is a file, where a folder is needed", where=_shown(folder), cure="give another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError("nothing can be written in this folder", where=_shown(folder), cure="give another place")
    longest = os.pathconf(folder, "PC_NAME_MAX") - _RESERVED_BYTES
    if any(len(os.fsencode(part)) > longest for part in path.parts[1:] or path.parts):
        raise UsageError(f"a name is longer than {longest} bytes", where=_shown(path), cure="give a shorter name")


def _check_file(path: Path, suffixes: tuple[str, ...], what: str, inputs: list[Path], force: bool) -> None:
    if path.suffix.lower() not in suffixes:
        raise UsageError(what, where=_shown(path), cure=f"give a name that ends in {', '.join(suffixes)}")
    check_writable(path)
    if any(_is_same(path, other) for other in inputs):
        raise UsageError("this file is read, and would be overwritten", where=_shown(path), cure="give another name")
    if path.exists() and not force:
        raise UsageError("this file exists already", where=_shown(path), cure="give another name, or --force")


def _is_same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _shown(path: Path) -> str:
    return str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}…"
