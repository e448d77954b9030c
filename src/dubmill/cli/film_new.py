"""The command `dubmill film new`: reads a film once, and makes a project of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dubmill.cli.dub import (
    NO_OVERLAYS,
    PARAMS,
    Background,
    Duck,
    Face,
    Picture,
    Quality,
    Separate,
    SeparationModel,
    Track,
    open_separator,
    progress_bar,
    refuse_overlay,
    refuse_unused,
)
from dubmill.errors import UsageError

if TYPE_CHECKING:
    from dubmill.dubbing.model_source import ModelSource
    from dubmill.dubbing.project import ProjectSettings, Row
    from dubmill.providers import Separator, Transcriber
    from dubmill.text.subtitles import Cue

NAME = "dubmill film new"
RECOGNISED = "holds words that a machine recognised: correct and translate them"
NO_FILES: list[str] = []
Scripts = Annotated[
    list[str],
    typer.Option(help="SRT, WebVTT or CSV as LANGUAGE=FILE, or FILE for the first language; may be repeated"),
]
Recordings = Annotated[
    list[str],
    typer.Option(help="a recorded voice on the film's clock that the lips follow, as --script; may be repeated"),
]
By = Annotated[str, typer.Option("--with", help="without --script: provider of a transcription; empty: none")]
Recogniser = Annotated[str, typer.Option("--model", help="whisper: folder of the model; endpoint: the model's name")]
Folder = Annotated[
    Path | None, typer.Option(help="the project's folder; default: the film's name with .dub", show_default=False)
]
Adapter = Annotated[Path | None, typer.Option(help="instead of a release: a sealed adapter", show_default=False)]
Overlays = Annotated[list[Path], typer.Option(help="with --adapter: values that replace those of --params")]


def new(
    film: Annotated[Path, typer.Argument(help="the film to dub")],
    to: Annotated[str, typer.Option(help="languages to dub into, BCP-47 tags with commas between them")],
    script: Scripts = NO_FILES,
    audio: Recordings = NO_FILES,
    background: Background = None,
    separate: Separate = "",
    separation_model: SeparationModel = "",
    duck: Duck = 0.0,
    by: By = "",
    recogniser: Recogniser = "",
    url: Annotated[str, typer.Option(help="endpoint: base URL of its API; it receives the sound")] = "",
    project: Folder = None,
    source: Annotated[str, typer.Option("--from", help="language that is spoken in the film, a BCP-47 tag")] = "en",
    consent: Annotated[str, typer.Option(help="who agreed to be dubbed, in one sentence")] = "",
    tone_map: Annotated[bool, typer.Option("--tone-map", help="convert an HDR film to standard range")] = False,
    track: Track = None,
    face: Face = "",
    picture: Picture = "face",
    quality: Quality = None,
    container: Annotated[str, typer.Option(help="ending of the dubbed film: .mp4, .m4v, .mov, .mkv or .webm")] = ".mp4",
    release: Annotated[Path, typer.Option(help="the promoted release to dub with")] = Path("work/release"),
    adapter: Adapter = None,
    params: Annotated[Path, typer.Option(help="with --adapter: values of the sections dub and synthesize")] = PARAMS,
    overlay: Overlays = NO_OVERLAYS,
    backbone: Annotated[Path, typer.Option(help="sealed backbone")] = Path("work/backbone"),
    seed: Annotated[int, typer.Option(min=0, help="seed of every segment that has none of its own")] = 0,
) -> None:
    """Make a project: read the film once, and write the table of its segments."""
    from dubmill.dubbing.project import ProjectSettings
    from dubmill.text.languages import base_tag

    languages = tuple(dict.fromkeys(map(base_tag, filter(None, map(str.strip, to.split(","))))))
    source = base_tag(source)
    settings = ProjectSettings(
        film=film.absolute(),
        source_language=source,
        languages=languages,
        consent=consent,
        release=release.absolute(),
        adapter=adapter.absolute() if adapter else None,
        params=params.absolute(),
        overlay=tuple(str(path.absolute()) if path.is_file() else str(path) for path in overlay),
        backbone=backbone.absolute(),
        seed=seed,
        tone_map=tone_map,
        track=track,
        face=face,
        picture=picture,
        quality=quality,
        container=container,
        background=background.absolute() if background else None,
        duck_db=duck,
        audio={tag: path.absolute() for tag, path in _by_language(audio, "--audio", languages).items()},
    )
    scripts = _by_language(script, "--script", languages, source)
    folder = project or film.parent / f"{film.absolute().stem}.dub"
    writer = _transcriber(bool(scripts), by, recogniser, url)
    _create(settings, folder, scripts, writer, open_separator(NAME, background, separate, separation_model, duck))
    typer.echo(f"film: {folder}, whose segments.csv {RECOGNISED if writer else 'may be edited'}")


def _transcriber(has_script: bool, by: str, model: str, url: str) -> Transcriber | None:
    """The provider of a transcription, which a film without a script needs, and no other.

    Raises:
        UsageError: none is named, or it is none, or there is a script too.
    """
    from dubmill import providers

    if has_script:
        options = {"--with": by, "--model": model, "--url": url}
        refuse_unused(NAME, "beside --script", options, "leave --script out, or the others")
        return None
    if not by:
        cure = "give --script, or --with whisper or endpoint for a transcription"
        raise UsageError("there is no script", where=NAME, cure=cure)
    return providers.transcriber(by, model=model, url=url)


def _create(
    settings: ProjectSettings,
    folder: Path,
    scripts: dict[str, Path],
    writer: Transcriber | None,
    separator: Separator | None,
) -> None:
    """Check the settings, read the film, and write the project; `writer` transcribes it where there are no scripts."""
    from dubmill.cli.script import transcript
    from dubmill.dubbing.longform import Film, separated_background
    from dubmill.dubbing.open import FILM_LIMITS, line_fitter
    from dubmill.dubbing.project import FilmProject
    from dubmill.dubbing.project.fitting import fit_rows
    from dubmill.dubbing.project.project import WORK, check_new
    from dubmill.dubbing.project.table import read_script
    from dubmill.text.subtitles import split_cues

    source, languages = settings.source_language, settings.languages
    _check_settings(settings)
    check_new(folder)
    cues = {tag: read_script(path) for tag, path in scripts.items()}
    rows = [] if writer else _rows(cues, scripts, source, languages)
    model = model_of(settings)
    for tag in languages:
        model.check_language(tag)
    film = Film.open(
        settings.film, model.size, limits=FILM_LIMITS, tone_map=settings.tone_map, track=settings.track,
        background=settings.background,
    )  # fmt: skip
    fit = line_fitter(settings.backbone)
    if writer:
        heard = transcript(settings.film, film.info.track, writer, source)
        cues = {source: split_cues(heard, model.size.seconds)}
        rows = _rows(cues, {source: settings.film}, source, languages)
    for tag in languages:
        rows = fit_rows(rows, tag, film.info.seconds, fit)
    if separator:
        with progress_bar("separate") as progress:
            background = separated_background(film, separator, folder / WORK, progress)
        settings = settings.model_copy(update={"background": background.relative_to(folder)})
        film = replace(film, background=background)
    with progress_bar("read") as progress:
        FilmProject.create(folder, settings, rows, film, progress)


def model_of(settings: ProjectSettings) -> ModelSource:
    """The model that a project is dubbed with.

    Raises:
        DubmillError: see `open_model`.
    """
    from dubmill.dubbing.open import open_model

    return open_model(settings.release, settings.adapter, settings.backbone, settings.params, settings.overlay_files)


def _check_settings(settings: ProjectSettings) -> None:
    from dubmill.dubbing.output import VIDEO_SUFFIXES
    from dubmill.dubbing.requests import FileDubRequest, check_file_request

    refuse_overlay(NAME, settings.adapter, settings.overlay_files)
    if settings.container not in VIDEO_SUFFIXES:
        what = f"no container ends in {settings.container}"
        raise UsageError(what, where=NAME, cure=f"give one of {', '.join(VIDEO_SUFFIXES)}")
    for tag in settings.languages:
        check_file_request(
            FileDubRequest(
                settings.film, "", tag, settings.consent, settings.seed, settings.tone_map, settings.face,
                settings.track, picture=settings.picture, quality=settings.quality, voice=settings.audio.get(tag), duck_db=settings.duck_db,
            )
        )  # fmt: skip


def _by_language(given: list[str], option: str, languages: tuple[str, ...], source: str = "") -> dict[str, Path]:
    """The files of a repeated option LANGUAGE=FILE; FILE alone is of the first language."""
    if not languages:
        raise UsageError("--to names no language", where=NAME, cure="give tags such as es,fr")
    known = [tag for tag in (source, *languages) if tag]
    files: dict[str, Path] = {}
    for text in given:
        tag, equals, name = text.partition("=")
        if not equals:
            tag, name = (*languages, "")[0], text
        if tag not in known or tag in files:
            trouble = "is given twice" if tag in files else "is no language of this project"
            raise UsageError(f"{tag!r} {trouble}", where=option, cure=f"use {', '.join(known)}")
        files[tag] = Path(name)
    return files


def _rows(cues: dict[str, list[Cue]], scripts: dict[str, Path], source: str, languages: tuple[str, ...]) -> list[Row]:
    """The table: times and speakers of the film's own script where there is one, else of the first."""
    from dubmill.dubbing.project import Target
    from dubmill.dubbing.project.project import match_targets
    from dubmill.dubbing.project.table import rows_of

    first = source if source in cues else next(iter(cues))
    rows = rows_of(cues[first])
    if first != source:
        rows = [replace(row, text="") for row in rows]
    words = {tag: match_targets(rows, cues[tag], tag, str(scripts[tag])) for tag in languages if tag in cues}
    return [
        replace(row, targets={tag: Target(words.get(tag, {}).get(row.id, "")) for tag in languages}) for row in rows
    ]
