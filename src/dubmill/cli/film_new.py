"""The command `dubmill film new`: reads a film once, and makes a project of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dubmill.cli.dub import NO_OVERLAYS, PARAMS, Face, Picture, Quality, Track
from dubmill.errors import UsageError

if TYPE_CHECKING:
    from dubmill.dubbing.project import Row

NO_SCRIPTS: list[str] = []


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """The options of `dubmill film new`."""

    film: Path
    to: str
    script: list[str]
    project: Path | None
    source: str
    consent: str
    tone_map: bool
    track: int | None
    face: str
    picture: str
    quality: int | None
    container: str
    release: Path
    adapter: Path | None
    params: Path
    overlay: list[Path]
    backbone: Path
    seed: int


def new(
    film: Annotated[Path, typer.Argument(help="the film to dub")],
    to: Annotated[str, typer.Option(help="languages to dub into, BCP-47 tags with commas between them")],
    script: Annotated[
        list[str],
        typer.Option(help="SRT, WebVTT or CSV as LANGUAGE=FILE, or FILE for the first language; may be repeated"),
    ] = NO_SCRIPTS,
    project: Annotated[
        Path | None, typer.Option(help="the project's folder; default: the film's name with .dub", show_default=False)
    ] = None,
    source: Annotated[str, typer.Option("--from", help="language that is spoken in the film, a BCP-47 tag")] = "en",
    consent: Annotated[str, typer.Option(help="who agreed to be dubbed, in one sentence")] = "",
    tone_map: Annotated[bool, typer.Option("--tone-map", help="convert an HDR film to standard range")] = False,
    track: Track = None,
    face: Face = "",
    picture: Picture = "face",
    quality: Quality = None,
    container: Annotated[str, typer.Option(help="ending of the dubbed film: .mp4, .m4v, .mov, .mkv or .webm")] = ".mp4",
    release: Annotated[Path, typer.Option(help="the promoted release to dub with")] = Path("work/release"),
    adapter: Annotated[
        Path | None, typer.Option(help="instead of a release: a sealed adapter", show_default=False)
    ] = None,
    params: Annotated[Path, typer.Option(help="with --adapter: values of the sections dub and synthesize")] = PARAMS,
    overlay: Annotated[
        list[Path], typer.Option(help="with --adapter: values that replace those of --params")
    ] = NO_OVERLAYS,
    backbone: Annotated[Path, typer.Option(help="sealed backbone")] = Path("work/backbone"),
    seed: Annotated[int, typer.Option(min=0, help="seed of every segment that has none of its own")] = 0,
) -> None:
    """Make a project: read the film once, and write the table of its segments."""
    options = NewOptions(**locals())
    typer.echo(f"film: {_create(options)}, whose segments.csv may be edited")


def _create(options: NewOptions) -> Path:
    """Check the options, read the film, and write the project; returns its folder."""
    from dubmill.dubbing.longform import Film
    from dubmill.dubbing.open import FILM_LIMITS, line_fitter, open_model
    from dubmill.dubbing.project import FilmProject, ProjectSettings
    from dubmill.dubbing.project.fitting import fit_rows
    from dubmill.dubbing.project.project import check_new
    from dubmill.text.languages import base_tag

    source = base_tag(options.source)
    languages = tuple(dict.fromkeys(base_tag(tag.strip()) for tag in options.to.split(",") if tag.strip()))
    _check_new_options(options, languages)
    folder = options.project or options.film.with_name(f"{options.film.stem}.dub")
    check_new(folder)
    rows = _rows(_scripts(options.script, source, languages), source, languages)
    model = open_model(options.release, options.adapter, options.backbone, options.params, options.overlay)
    for tag in languages:
        model.check_language(tag)
    settings = ProjectSettings(
        film=options.film.absolute(),
        source_language=source,
        languages=languages,
        consent=options.consent,
        release=options.release.absolute(),
        adapter=options.adapter.absolute() if options.adapter else None,
        params=options.params.absolute(),
        overlay=tuple(str(path.absolute()) if path.is_file() else str(path) for path in options.overlay),
        backbone=options.backbone.absolute(),
        seed=options.seed,
        tone_map=options.tone_map,
        track=options.track,
        face=options.face,
        picture=options.picture,
        quality=options.quality,
        container=options.container,
    )
    film = Film.open(options.film, model.size, limits=FILM_LIMITS, tone_map=options.tone_map, track=options.track)
    fit = line_fitter(options.backbone)
    for tag in languages:
        rows = fit_rows(rows, tag, film.info.seconds, fit)
    FilmProject.create(folder, settings, rows, film)
    return folder


def _check_new_options(options: NewOptions, languages: tuple[str, ...]) -> None:
    from dubmill.dubbing.output import VIDEO_SUFFIXES
    from dubmill.dubbing.requests import FileDubRequest, check_file_request

    if not languages or options.container not in VIDEO_SUFFIXES:
        what = f"no container ends in {options.container}" if languages else "--to names no language"
        raise UsageError(what, where="dubmill film new", cure=f"give languages, and one of {', '.join(VIDEO_SUFFIXES)}")
    for tag in languages:
        check_file_request(
            FileDubRequest(
                options.film, "", tag, options.consent, options.seed, options.tone_map, options.face, options.track,
                picture=options.picture, quality=options.quality,
            )
        )  # fmt: skip


def _scripts(given: list[str], source: str, languages: tuple[str, ...]) -> dict[str, Path]:
    """The scripts by language."""
    scripts: dict[str, Path] = {}
    for text in given:
        tag, equals, name = text.partition("=")
        if not equals:
            tag, name = languages[0], text
        if tag not in (source, *languages) or tag in scripts:
            trouble = "has two scripts" if tag in scripts else "is no language of this project"
            raise UsageError(f"{tag!r} {trouble}", where="--script", cure=f"use {', '.join((source, *languages))}")
        scripts[tag] = Path(name)
    if not scripts:
        cure = "give --script; `dubmill transcribe` and `dubmill translate` write scripts"
        raise UsageError("there is no script", where="dubmill film new", cure=cure)
    return scripts


def _rows(scripts: dict[str, Path], source: str, languages: tuple[str, ...]) -> list[Row]:
    """The table: times and speakers of the film's own script where there is one, else of the first."""
    from dubmill.dubbing.project import Target
    from dubmill.dubbing.project.project import match_targets
    from dubmill.dubbing.project.table import read_script, rows_of

    cues = {tag: read_script(path) for tag, path in scripts.items()}
    first = source if source in cues else next(iter(cues))
    rows = rows_of(cues[first])
    if first != source:
        rows = [replace(row, text="") for row in rows]
    words = {tag: match_targets(rows, cues[tag], tag, str(scripts[tag])) for tag in languages if tag in cues}
    return [
        replace(row, targets={tag: Target(words.get(tag, {}).get(row.id, "")) for tag in languages}) for row in rows
    ]
