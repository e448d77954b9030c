"""The commands `dubmill film`: a film's dub as a project that is corrected segment by segment."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dubmill.cli.dub import NO_OVERLAYS, PARAMS, Face, Picture, Quality, Track
from dubmill.errors import UsageError

if TYPE_CHECKING:
    from dubmill.dubbing.project import FilmProject, Row
    from dubmill.dubbing.project.work import ProjectWork

app = typer.Typer(help="Dub a film as a project: correct one segment, and pay for one segment.", no_args_is_help=True)
Project = Annotated[Path, typer.Argument(help="the project's folder")]
SegmentName = Annotated[str, typer.Argument(help="the segment's id in segments.csv")]
Languages = Annotated[str, typer.Option("--language", help="one of the project's languages; empty: all")]
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


@app.command()
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
    from dubmill.dubbing.open import FILM_LIMITS, open_model
    from dubmill.dubbing.project import FilmProject, ProjectSettings
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


@app.command()
def status(
    project: Project,
    price: Annotated[
        float, typer.Option(min=0, help="US dollars for an hour of the machine; 0: no cost is shown")
    ] = 0.0,
) -> None:
    """List the segments with their state, and what is left to do in time and cost."""
    work = _open(project)
    state = work.state()
    for row in work.project.rows:
        typer.echo(f"{row.id}  {row.start_seconds:.2f} to {row.end_seconds:.2f} s  {row.speaker}".rstrip())
        for segment in (one for one in state.segments if one.id == row.id):
            note = f" ({segment.note})" if segment.note else ""
            typer.echo(f"    {segment.language}  {segment.state:8}  {row.targets[segment.language].text}{note}")
    left = "unknown before the first dub" if state.seconds_left is None else f"about {state.seconds_left:.0f} s"
    if price and state.seconds_left is not None:
        left += f" and {price * state.seconds_left / 3600:.2f} US dollars"
    typer.echo(f"{state.num_to_dub} chunks are to be dubbed: {left}; joining a film takes another pass over it")


@app.command()
def edit(
    project: Project,
    segment: SegmentName,
    text: Annotated[str | None, typer.Option(help="its words; empty: it is not dubbed", show_default=False)] = None,
    to: Annotated[str, typer.Option(help="language of --text: a target, or the film's; empty: the only target")] = "",
    speaker: Annotated[str | None, typer.Option(help="who speaks", show_default=False)] = None,
    face: Annotated[
        str | None, typer.Option(help="whose face moves: left, right, a number, all or none", show_default=False)
    ] = None,
    start: Annotated[str | None, typer.Option(help="seconds, or 0:01:02.5", show_default=False)] = None,
    end: Annotated[str | None, typer.Option(help="seconds, or 0:01:02.5", show_default=False)] = None,
) -> None:
    """Change a segment in the table; nothing is dubbed."""
    from dubmill.dubbing.project import FilmProject, Target
    from dubmill.dubbing.project.project import locked
    from dubmill.dubbing.project.table import seconds_of

    with locked(project):
        opened = FilmProject.open(project)
        row, settings = opened.row(segment), opened.settings
        changes = {"speaker": speaker, "face": face}
        changes = {name: value.strip() for name, value in changes.items() if value is not None}
        times = {
            f"{name}_seconds": seconds_of(value, name, "dubmill film edit")
            for name, value in (("start", start), ("end", end))
            if value is not None
        }
        row = replace(row, **changes, **times)
        if text is not None:
            text = " ".join(text.split())
            tag = to or (settings.languages[0] if len(settings.languages) == 1 else "")
            if tag in settings.languages:
                row = replace(row, targets={**row.targets, tag: Target(text)})
            elif tag == settings.source_language:
                row = replace(row, text=text)
            else:
                known = ", ".join((*settings.languages, settings.source_language))
                raise UsageError(
                    f"--to {tag!r} is no language of this project", where=str(project), cure=f"use {known}"
                )
        elif not changes and not times:
            raise UsageError("nothing was changed", where="dubmill film edit", cure="give --text, --speaker or a time")
        opened.with_rows([row]).save()
    typer.echo(f"film: segment {segment} is changed; `dubmill film status {project}` shows what that costs")


@app.command()
def redo(
    project: Project,
    segment: SegmentName,
    seed: Annotated[int | None, typer.Option(min=0, help="its seed; default: one more", show_default=False)] = None,
) -> None:
    """Dub a segment again with another seed; the film is not joined."""
    from dubmill.dubbing.project.project import locked

    with locked(project), _bar("redo") as progress:
        _, seed, count = _open(project).redo(segment, seed, progress)
    typer.echo(f"film: {count} chunk(s) with segment {segment} dubbed with seed {seed}")


@app.command()
def dub(
    project: Project,
    language: Languages = "",
    shard: Annotated[str, typer.Option(help="K/N: every Nth chunk from the Kth, 1/N to N/N in any order")] = "1/1",
) -> None:
    """Make the dubs that are missing, without joining; several processes may do a shard each."""
    from dubmill.dubbing.project.project import locked

    number, count = _shard(shard)
    with locked(project, is_shared=True), _bar("dub") as progress:
        work = _open(project)
        done = work.dub(_languages(work.project, language), progress, lambda index, _: index % count == number - 1)
    typer.echo(f"film: {done} chunk(s) of shard {shard} are dubbed")


@app.command()
def render(project: Project, language: Languages = "") -> None:
    """Make the dubs that are missing, and write the dubbed film of each language."""
    from dubmill.dubbing.project.project import locked

    with locked(project):
        work = _open(project)
        work.project.store.sweep()
        for tag in _languages(work.project, language):
            with _bar(f"render {tag}") as progress:
                out, result = work.render(tag, progress)
            for note in result.notes:
                typer.echo(note, err=True)
            typer.echo(f"film: {out} (machine-generated, and marked so in the file)")


def _open(folder: Path) -> ProjectWork:
    from dubmill.dubbing.open import film_service, open_model
    from dubmill.dubbing.project import FilmProject
    from dubmill.dubbing.project.work import ProjectWork

    project = FilmProject.open(folder)
    settings = project.settings
    overlay = [Path(name) for name in settings.overlay]
    model = open_model(settings.release, settings.adapter, settings.backbone, settings.params, overlay)
    film = project.film(model.size)
    return ProjectWork(project, film, film_service(settings.backbone, model))


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
    from dubmill.dubbing.project.table import rows_of
    from dubmill.text.subtitles import read_cues

    cues = {tag: read_cues(path) for tag, path in scripts.items()}
    first = source if source in cues else next(iter(cues))
    rows = rows_of(cues[first])
    if first != source:
        rows = [replace(row, text="") for row in rows]
    words = {tag: match_targets(rows, cues[tag], tag, str(scripts[tag])) for tag in languages if tag in cues}
    return [
        replace(row, targets={tag: Target(words.get(tag, {}).get(row.id, "")) for tag in languages}) for row in rows
    ]


def _languages(project: FilmProject, language: str) -> list[str]:
    known = project.settings.languages
    if language and language not in known:
        raise UsageError(
            f"{language!r} is no language of this project", where="--language", cure=f"use {', '.join(known)}"
        )
    return [language] if language else [tag for tag in known if project.segments(tag)] or list(known[:1])


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UsageError(f"{text[:40]!r} is no shard", where="--shard", cure="give 1/8 to 8/8")
    return int(number), int(count)


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Callable[[float], None]]:
    """A progress bar with the time left."""
    with typer.progressbar(length=1000, label=label, file=sys.stderr) as bar:
        yield lambda share: bar.update(int(1000 * share) - bar.pos)
