"""What `dubmill dub` does with a video file: one clip of the trained length, or a film chunk by chunk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dubmill.errors import UsageError

if TYPE_CHECKING:
    from dubmill.text.subtitles import Cue


@dataclass(frozen=True)
class Asked:
    """A dub as the command line asks for it."""

    video: Path
    out: Path
    to: str
    text: str
    script: Path | None
    captions: Path | None
    tone_map: bool
    consent: str
    seed: int
    face: str
    release: Path
    backbone: Path


def dub(asked: Asked) -> None:
    """Dub `asked.video` into `asked.out`, as a clip, or as a film where a script is given or it is longer than a clip."""
    _check(asked)
    if asked.script is not None or _is_film(asked):
        notes, cues = _film(asked)
    else:
        notes, cues = _clip(asked)
    if asked.captions is not None:
        from dubmill.text import subtitles

        subtitles.write(asked.captions, subtitles.captions(cues, asked.to))
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(f"dub: {asked.out} (machine-made, and marked as such)")


def _check(asked: Asked) -> None:
    if asked.text and asked.script is not None:
        raise UsageError("--text beside --script", where="dubmill dub", cure="give the words in the script")
    missing = [name for name, value in (("--to", asked.to), ("--text", asked.text or asked.script)) if not value]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} missing", where="dubmill dub", cure="say which words, which language"
        )


def _is_film(asked: Asked) -> bool:
    """Whether the video is longer than what a release dubs at once; a fault of either is told later, in its place."""
    from dubmill import media
    from dubmill.artifacts.store import MANIFEST, Release, read_manifest
    from dubmill.dubbing.service import SLACK_SECONDS, ClipSize

    if not asked.video.is_file() or not (asked.release / MANIFEST).is_file():
        return False
    size = ClipSize.of(Release(asked.release, read_manifest(asked.release)))
    try:
        media.probe(asked.video, limits=media.Limits(max_seconds=size.seconds + SLACK_SECONDS))  # reads no further
    except media.TooLong:
        return True
    return False


def _clip(asked: Asked) -> tuple[Sequence[str], Sequence[Cue]]:
    """One dub without a server: the same desk, ledger and marks as the endpoint's."""
    from dubmill import media
    from dubmill.dubbing.open import dub_file
    from dubmill.text.subtitles import Cue

    places = {"release": asked.release, "backbone": asked.backbone}
    words = {"to": asked.to, "text": asked.text, "consent": asked.consent, "seed": asked.seed, "face": asked.face}
    notes = dub_file(asked.video, asked.out, **words, **places)
    return notes, [Cue(0.0, media.probe(asked.out).seconds, asked.text)]


def _film(asked: Asked) -> tuple[Sequence[str], Sequence[Cue]]:
    """A video of any length: the same desk, ledger and marks; run again, it goes on where it was."""
    from dubmill.dubbing.open import dub_film_file
    from dubmill.dubbing.service import FilmRequest
    from dubmill.text.subtitles import read

    request = FilmRequest(
        path=asked.video,
        words=asked.text if asked.script is None else read(asked.script),
        language=asked.to,
        consent=asked.consent,
        seed=asked.seed,
        tone_map=asked.tone_map,
        face=asked.face,
    )
    with typer.progressbar(length=1000, label="dub", file=sys.stderr) as bar:
        places = {"release": asked.release, "backbone": asked.backbone}
        tell = lambda share: bar.update(int(1000 * share) - bar.pos)  # noqa: E731 (a line of the call below)
        made = dub_film_file(request, asked.out, **places, progress=tell)
    return made.notes, made.cues
