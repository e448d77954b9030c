"""The command `dubmill dub`: a video file dubbed on this machine, as one clip or as a film."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dubmill.errors import MediaTooLongError, UsageError

if TYPE_CHECKING:
    from dubmill.text.subtitles import Cue


@dataclass(frozen=True, kw_only=True)
class DubOptions:
    """The options of `dubmill dub`."""

    video: Path
    out: Path
    to: str
    text: str
    script: Path | None
    tone_map: bool
    consent: str
    seed: int
    face: str
    release: Path
    backbone: Path


def dub(
    video: Annotated[Path, typer.Argument(help="the video file to dub")],
    out: Annotated[Path, typer.Option(help="the video file to write")],
    to: Annotated[str, typer.Option(help="language to dub into, a BCP-47 tag")] = "",
    text: Annotated[str, typer.Option(help="the words to say; in a film they are spread over its speech")] = "",
    script: Annotated[
        Path | None, typer.Option(help="SRT or WebVTT of the words to say, for any length", show_default=False)
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="write the dubbed words here, as SRT or WebVTT", show_default=False)
    ] = None,
    tone_map: Annotated[bool, typer.Option("--tone-map", help="convert an HDR film to standard range")] = False,
    consent: Annotated[str, typer.Option(help="who agreed to be dubbed, in one sentence")] = "",
    face: Annotated[
        str, typer.Option(help="of several: left, right or a number from the left; all: generate the whole picture")
    ] = "",
    release: Annotated[Path, typer.Option(help="the promoted release to dub with")] = Path("work/release"),
    backbone: Annotated[Path, typer.Option(help="sealed backbone")] = Path("work/backbone"),
    seed: Annotated[int, typer.Option(help="seed of the dub")] = 0,
) -> None:
    """Dub a video file into another language: a clip, or a film chunk by chunk where it is longer or has a script."""
    options = DubOptions(
        video=video,
        out=out,
        to=to,
        text=text,
        script=script,
        tone_map=tone_map,
        consent=consent,
        seed=seed,
        face=face,
        release=release,
        backbone=backbone,
    )
    _check(options)
    notes, cues = _dub_film(options) if script is not None or _is_film(options) else _dub_clip(options)
    if captions is not None:
        from dubmill.text import subtitles

        subtitles.write(captions, subtitles.captions(cues, to))
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(f"dub: {out} (machine-generated, and marked so in the file)")


def _check(options: DubOptions) -> None:
    if options.text and options.script is not None:
        raise UsageError("--text beside --script", where="dubmill dub", cure="give the words in the script")
    required = (("--to", options.to), ("--text or --script", options.text or options.script))
    missing = [name for name, value in required if not value]
    if missing:
        what = f"{' and '.join(missing)} missing"
        raise UsageError(what, where="dubmill dub", cure="name the language and the words to say")


def _is_film(options: DubOptions) -> bool:
    """Whether the video is longer than one clip of the release; a missing file is reported later, by the dub itself."""
    from dubmill import media
    from dubmill.artifacts.store import MANIFEST, Release, read_manifest
    from dubmill.dubbing.clip_size import SLACK_SECONDS, ClipSize

    if not options.video.is_file() or not (options.release / MANIFEST).is_file():
        return False
    size = ClipSize.of(Release(options.release, read_manifest(options.release)))
    try:
        media.probe(options.video, limits=media.Limits(max_seconds=size.seconds + SLACK_SECONDS))  # reads no further
    except MediaTooLongError:
        return True
    return False


def _dub_clip(options: DubOptions) -> tuple[Sequence[str], Sequence[Cue]]:
    """Dub one clip; returns what was changed in it, and one cue of the words."""
    from dubmill import media
    from dubmill.dubbing.open import dub_file
    from dubmill.text.subtitles import Cue

    notes = dub_file(
        options.video,
        options.out,
        to=options.to,
        text=options.text,
        consent=options.consent,
        seed=options.seed,
        face=options.face,
        release=options.release,
        backbone=options.backbone,
    )
    return notes, [Cue(0.0, media.probe(options.out).seconds, options.text)]


def _dub_film(options: DubOptions) -> tuple[Sequence[str], Sequence[Cue]]:
    """Dub a video of any length; a killed run goes on with its next chunk. Returns notes and the cues as dubbed."""
    from dubmill.dubbing.open import dub_film_file
    from dubmill.dubbing.service import FilmRequest
    from dubmill.text.subtitles import read

    request = FilmRequest(
        path=options.video,
        words=options.text if options.script is None else read(options.script),
        language=options.to,
        consent=options.consent,
        seed=options.seed,
        tone_map=options.tone_map,
        face=options.face,
    )
    with typer.progressbar(length=1000, label="dub", file=sys.stderr) as bar:
        film = dub_film_file(
            request,
            options.out,
            release=options.release,
            backbone=options.backbone,
            progress=lambda share: bar.update(int(1000 * share) - bar.pos),
        )
    return film.notes, film.cues
