"""Which FFmpeg runs: the one in the imageio-ffmpeg wheel, or another that an environment variable names.

The one on PATH is never taken: its version, and with it the bytes that it writes, differs from machine to machine.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

from dubmill.errors import ServiceUnavailableError, UsageError

FFMPEG = "DUBMILL_FFMPEG"  # path of another FFmpeg
MIN_VERSION = (
    9  # 6 to 8 repeat the first frame of a Matroska film with AAC; 4 and 5 read and write more files differently
)
_RELEASE_OF_LIBAVUTIL = 52  # FFmpeg 4 to 9 have libavutil 56 to 61; a build between releases states only that
FILTERS = ("aresample", "crop", "ebur128", "fps", "scale", "setsar", "tonemap", "zscale")
ENCODERS = ("aac", "libx264", "libx264rgb", "pcm_f32le", "pcm_s16le")


def executable() -> str:
    """The path of the FFmpeg to run, checked when it is first used.

    Raises:
        UsageError: DUBMILL_FFMPEG names one that is too old, lacks a filter or an encoder, or does not run.
        ServiceUnavailableError: none is named, and the imageio-ffmpeg wheel has none.
    """
    chosen = os.environ.get(FFMPEG, "")
    return _checked(chosen) if chosen else _bundled()


@cache
def version() -> str:
    """The version of `executable`, as it prints it."""
    return _output(executable(), "-version").partition("\n")[0]


@cache
def _bundled() -> str:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ServiceUnavailableError(
            "there is no FFmpeg", cure=f"pip install imageio-ffmpeg, or name one in {FFMPEG}"
        ) from error
    found = sorted((Path(imageio_ffmpeg.__file__).parent / "binaries").glob("ffmpeg-*"))
    if not found:
        raise ServiceUnavailableError(
            "the imageio-ffmpeg package of this platform holds no FFmpeg", cure=f"install one and name it in {FFMPEG}"
        )
    return str(found[0])


@cache
def _checked(path: str) -> str:
    """`path`, once its version, filters and encoders are known to suffice."""
    text = _output(path, "-version")
    library, name = re.search(r"^libavutil +(\d+)\.", text, flags=re.MULTILINE), text.split(" ")[2:3]
    if not library or int(library[1]) - _RELEASE_OF_LIBAVUTIL < MIN_VERSION:
        raise UsageError(
            f"{FFMPEG} names FFmpeg {''.join(name) or 'without a version'}; dubmill needs {MIN_VERSION} or newer",
            where=path,
            cure=f"unset {FFMPEG}: dubmill brings its own",
        )
    for option, required in (("-filters", FILTERS), ("-encoders", ENCODERS)):
        names = set(re.findall(r"^ *[A-Z.|]+ +(\w+)", _output(path, option), flags=re.MULTILINE))
        if missing := [name for name in required if name not in names]:
            raise UsageError(
                f"{FFMPEG} names an FFmpeg whose {option[1:]} lack {', '.join(missing)}",
                where=path,
                cure=f"unset {FFMPEG}: dubmill brings its own",
            )
    return path


def _output(path: str, option: str) -> str:
    try:
        command = [path, "-hide_banner", option] if option != "-version" else [path, option]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(
            f"{FFMPEG} names something that does not run as FFmpeg ({type(error).__name__})",
            where=path,
            cure=f"unset {FFMPEG}: dubmill brings its own",
        ) from error
    return done.stdout
