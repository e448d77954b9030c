"""The commands `dubmill film`: a film's dub as a project that is corrected segment by segment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dubmill.cli.dub import progress_bar, refuse_unused
from dubmill.cli.film_new import model_of, new
from dubmill.errors import UsageError

if TYPE_CHECKING:
    from dubmill.dubbing.project import FilmProject, Row
    from dubmill.dubbing.project.work import ProjectWork

app = typer.Typer(help="Dub a film as a project: correct one segment, and pay for one segment.", no_args_is_help=True)
Project = Annotated[Path, typer.Argument(help="the project's folder")]
SegmentName = Annotated[str, typer.Argument(help="the segment's id in segments.csv")]
Languages = Annotated[str, typer.Option("--language", help="one of the project's languages; empty: all")]

app.command()(new)


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
    to: Annotated[
        str,
        typer.Option(help="language of --text and --audio: a target, or of a text the film's; empty: the only target"),
    ] = "",
    audio: Annotated[
        str | None,
        typer.Option(
            help="a recording of its words, which begins with it: the lips follow; empty: none", show_default=False
        ),
    ] = None,
    speaker: Annotated[str | None, typer.Option(help="who speaks", show_default=False)] = None,
    face: Annotated[
        str | None, typer.Option(help="whose face moves: left, right, a number, all or none", show_default=False)
    ] = None,
    start: Annotated[str | None, typer.Option(help="seconds, or 0:01:02.5", show_default=False)] = None,
    end: Annotated[str | None, typer.Option(help="seconds, or 0:01:02.5", show_default=False)] = None,
) -> None:
    """Change a segment in the table; nothing is dubbed."""
    from dubmill.dubbing.open import line_fitter
    from dubmill.dubbing.project import FilmProject
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
        if text is not None or audio is not None:
            row = _with_words(row, opened, to, text, audio)
        elif not changes and not times:
            raise UsageError("nothing was changed", where="dubmill film edit", cure="give --text, --speaker or a time")
        opened = opened.edited(row, line_fitter(settings.backbone))
        opened.save()
    typer.echo(f"film: segment {segment} is changed; `dubmill film status {project}` shows what that costs")
    for tag in settings.languages:
        if note := opened.row(segment).targets[tag].note:
            typer.echo(f"{segment} in {tag}: {note}", err=True)


def _with_words(row: Row, project: FilmProject, to: str, text: str | None, audio: str | None) -> Row:
    """The row with other words in the language `to`, another recording of them, or both."""
    from dubmill.dubbing.longform import check_segment_recording

    settings = project.settings
    tag = to or (settings.languages[0] if len(settings.languages) == 1 else "")
    if tag == settings.source_language not in settings.languages and audio is None:
        return replace(row, text=" ".join((text or "").split()))
    if tag not in settings.languages:
        known = ", ".join(settings.languages if audio else (*settings.languages, settings.source_language))
        where, what = str(project.folder), f"--to {tag!r} is no language of this project"
        raise UsageError(what if text is not None else f"{what} that is dubbed", where=where, cure=f"use {known}")
    words = row.targets[tag].without_fitting
    if text is not None:
        words = replace(words, text=" ".join(text.split()))
    if audio is not None:
        words = replace(words, recording=Path(audio).absolute() if audio else None)
    if audio:
        check_segment_recording(Path(audio), row.end_seconds - row.start_seconds)
    return replace(row, targets={**row.targets, tag: words})


@app.command()
def fit(
    project: Project,
    by: Annotated[str, typer.Option("--with", help="provider of shorter translations; empty: none is requested")] = "",
    model: Annotated[str, typer.Option(help="the provider's model")] = "",
    url: Annotated[str, typer.Option(help="base URL of the provider's API; it receives the words")] = "",
    attempts: Annotated[int, typer.Option(min=1, help="requests for each translation that is too long")] = 3,
) -> None:
    """Make words fit their time: speech rate, the pause after them, a shorter translation; exit code 1 if some do not fit."""
    from dubmill import providers
    from dubmill.dubbing.open import line_fitter
    from dubmill.dubbing.project import FilmProject
    from dubmill.dubbing.project.fitting import DOES_NOT_FIT, fit_rows, shorten_rows
    from dubmill.dubbing.project.project import locked

    if not by:
        refuse_unused(
            "dubmill film fit",
            "without --with",
            {"--model": model, "--url": url},
            "give --with, or leave out the others",
        )
    with locked(project):
        opened = FilmProject.open(project)
        rows, settings, seconds = list(opened.rows), opened.settings, opened.film_seconds
        fitter = line_fitter(settings.backbone)
        for tag in settings.languages:
            if not by:
                rows = fit_rows(rows, tag, seconds, fitter)
                continue
            translator = providers.translator(by, model=model, url=url)
            rows = shorten_rows(
                rows, tag, seconds, fitter, translator=translator, source=settings.source_language, attempts=attempts
            )
        opened.with_rows(rows).save()
    notes = [(row.id, tag, row.targets[tag].note) for row in rows for tag in settings.languages]
    for name, tag, note in notes:
        if note:
            typer.echo(f"{name} in {tag}: {note}")
    if any(note.startswith(DOES_NOT_FIT) for *_, note in notes):
        raise typer.Exit(1)


@app.command()
def speakers(project: Project) -> None:
    """Find who speaks in each segment and whose face moves, and fill in what is empty of the columns speaker and face."""
    from dubmill.dubbing.project.project import locked
    from dubmill.dubbing.project.speakers import assign_speakers, observe, open_tools

    with locked(project), progress_bar("speakers") as progress:
        work = _open(project)
        tools = open_tools(work.project.settings)
        rows = work.project.rows
        observations = observe(work.film, rows, tools.detector, tools.scorers, progress)
        same = {"same_voice": tools.world.same_voice_cosine, "same_face": tools.world.same_face_cosine}
        rows = assign_speakers(rows, observations, **same)
        work.project.with_rows(rows).save()
    for row in rows:
        typer.echo(f"{row.id}  {row.start_seconds:.2f} to {row.end_seconds:.2f} s  {row.speaker}  face {row.face}")
    typer.echo("film: correct it with `dubmill film edit PROJECT SEGMENT --speaker NAME --face PLACE`")


@app.command()
def redo(
    project: Project,
    segment: SegmentName,
    seed: Annotated[int | None, typer.Option(min=0, help="its seed; default: one more", show_default=False)] = None,
) -> None:
    """Dub a segment again with another seed; the film is not joined."""
    from dubmill.dubbing.project.project import locked

    with locked(project), progress_bar("redo") as progress:
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
    with locked(project, is_shared=True), progress_bar("dub") as progress:
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
            with progress_bar(f"render {tag}") as progress:
                out, result = work.render(tag, progress)
            for note in result.notes:
                typer.echo(note, err=True)
            typer.echo(f"film: {out} (machine-generated, and marked so in the file)")


@app.command()
def clean(
    project: Project,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="count the files, and leave them")] = False,
) -> None:
    """Remove stored files that neither the present table nor the last render of a language uses."""
    from dubmill.dubbing.project.project import locked
    from dubmill.serving.projects import DUB, REQUEST

    place = project.resolve()
    is_served = place.name == DUB and (place.parent / REQUEST).is_file()
    if is_served:  # its languages may have adapters that it does not name
        cure = "leave it: the server removes what is no longer used when it renders"
        raise UsageError("this is the project of a server", where=str(project), cure=cure)
    with locked(project):
        work = _open(project)
        work.project.store.sweep()
        sizes = work.clean(removes=not dry_run)
    how = "could be removed" if dry_run else "removed"
    typer.echo(f"film: {len(sizes)} file(s), {sum(sizes) / 1e6:.1f} MB, {how}")


def _open(folder: Path) -> ProjectWork:
    from dubmill.dubbing.open import film_service
    from dubmill.dubbing.project import FilmProject
    from dubmill.dubbing.project.work import ProjectWork

    project = FilmProject.open(folder)
    model = model_of(project.settings)
    service, languages = film_service(project.settings.backbone, model), project.settings.languages
    return ProjectWork(project, project.film(model.size), service, languages)


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
