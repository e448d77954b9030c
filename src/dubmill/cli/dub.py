"""The command `dubmill dub`: a video file dubbed on this machine, as one clip or as a film."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dubmill.errors import UsageError

if TYPE_CHECKING:
    from dubmill.dubbing.longform.film import Progress
    from dubmill.dubbing.requests import FileDubResult
    from dubmill.providers import Separator

PARAMS, RELEASE, BACKBONE = Path("params.yaml"), Path("work/release"), Path("work/backbone")
NO_OVERLAYS: list[Path] = []


Track = Annotated[
    int | None,
    typer.Option(
        help="number of the sound track to dub, from 1; default: the file's default track", show_default=False
    ),
]
Face = Annotated[
    str,
    typer.Option(
        help="which of several faces to dub: left, right or a number from the left; all: generate the whole picture"
    ),
]


Picture = Annotated[
    str, typer.Option(help="what shows of the dub's picture: face, whole (of a single face), or keep: sound alone")
]
Quality = Annotated[
    int | None,
    typer.Option(help="CRF of the picture, 0 to 51; else 16 with a bound on the bit rate", show_default=False),
]
Endpoint = Annotated[
    str,
    typer.Option(help="dub on a served release at this URL, not here; DUBMILL_API_KEY holds its key, if it has any"),
]


Audio = Annotated[
    Path | None,
    typer.Option(
        help="a recorded voice on the video's clock: it is the dub's sound, and the lips follow", show_default=False
    ),
]

Background = Annotated[
    Path | None,
    typer.Option(
        help="a film's music and effects without speech, on its clock and at its level: they stay under the dub's speech",
        show_default=False,
    ),
]
Separate = Annotated[
    str,
    typer.Option(
        help="instead of --background: provider that finds the speech in a film's sound, sherpa-onnx; empty: none"
    ),
]
SeparationModel = Annotated[
    str,
    typer.Option(
        help="its model: a UVR .onnx file, or a folder with Spleeter's two; @SHA256 behind it refuses any other"
    ),
]
Duck = Annotated[float, typer.Option(help="dB by which the background is lowered while the dub speaks")]


@dataclass(frozen=True, kw_only=True)
class DubOptions:
    """The options of `dubmill dub`."""

    video: Path
    out: Path
    to: str
    text: str
    script: Path | None
    audio: Path | None
    background: Path | None
    separate: str
    separation_model: str
    duck: float
    tone_map: bool
    track: int | None
    consent: str
    seed: int
    face: str
    speaker: str
    picture: str
    label: bool
    endpoint: str
    quality: int | None
    captions: Path | None
    force: bool
    release: Path
    adapter: Path | None
    params: Path
    overlay: list[Path]
    backbone: Path


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A progress bar with the time left, and the callback that moves it, 0 to 1."""
    with typer.progressbar(length=1000, label=label, file=sys.stderr) as bar:
        yield lambda share: bar.update(int(1000 * share) - bar.pos)


def refuse_unused(where: str, reason: str, options: Mapping[str, object], cure: str) -> None:
    """Refuse options that would be ignored because of `reason`; `cure` says what to do instead.

    Raises:
        UsageError: some of `options` (by name) have a value.
    """
    if given := [name for name, value in options.items() if value]:
        raise UsageError(f"{' and '.join(given)} {reason}", where=where, cure=cure)


def open_separator(where: str, background: Path | None, name: str, model: str, duck_db: float) -> Separator | None:
    """The separator that makes a film's background, after a check of the options of its music and effects; None: none is wanted.

    Raises:
        UsageError: they do not fit together, or there is no such separator or model.
    """
    from dubmill import providers

    if not name:
        refuse_unused(where, "without --separate", {"--separation-model": model}, "give --separate, or leave it out")
    if not name and background is None:
        refuse_unused(where, "without a background", {"--duck": duck_db}, "give --background or --separate")
    if name:
        refuse_unused(where, "beside --separate", {"--background": background}, "give one of the two")
    return providers.separator(name, model=model) if name else None


def refuse_overlay(where: str, adapter: Path | None, overlay: list[Path]) -> None:
    """Refuse an overlay that would be ignored, since a release holds its own values.

    Raises:
        UsageError: there is one, and no adapter.
    """
    if adapter is None:
        cure = "leave --overlay out, or give --adapter"
        refuse_unused(where, "without --adapter", {"--overlay": overlay}, cure)


def dub(
    video: Annotated[Path, typer.Argument(help="the video file to dub")],
    out: Annotated[Path, typer.Option(help="the video file to write: .mp4, .m4v, .mov, .mkv or .webm")],
    to: Annotated[str, typer.Option(help="language to dub into, a BCP-47 tag")] = "",
    text: Annotated[str, typer.Option(help="the words to say; in a film they are distributed over its speech")] = "",
    script: Annotated[
        Path | None, typer.Option(help="SRT or WebVTT of the words to say, for any length", show_default=False)
    ] = None,
    audio: Audio = None,
    background: Background = None,
    separate: Separate = "",
    separation_model: SeparationModel = "",
    duck: Duck = 0.0,
    captions: Annotated[
        Path | None, typer.Option(help="write the dubbed words here, as SRT or WebVTT", show_default=False)
    ] = None,
    tone_map: Annotated[bool, typer.Option("--tone-map", help="convert an HDR video to standard range")] = False,
    track: Track = None,
    consent: Annotated[str, typer.Option(help="who agreed to be dubbed, in one sentence")] = "",
    face: Face = "",
    speaker: Annotated[str, typer.Option(help="who speaks, such as 'a woman'; empty: not specified")] = "",
    picture: Picture = "face",
    quality: Quality = None,
    label: Annotated[bool, typer.Option("--label", help="burn the visible label AI DUB into the picture")] = False,
    force: Annotated[bool, typer.Option("--force", help="overwrite existing output files")] = False,
    release: Annotated[Path, typer.Option(help="the promoted release to dub with")] = RELEASE,
    adapter: Annotated[
        Path | None,
        typer.Option(help="instead of a release: a sealed adapter, trained or imported", show_default=False),
    ] = None,
    params: Annotated[Path, typer.Option(help="with --adapter: values of the sections dub and synthesize")] = PARAMS,
    overlay: Annotated[
        list[Path],
        typer.Option(
            help="with --adapter: preset name, or YAML file with values that replace those of --params; may be repeated"
        ),
    ] = NO_OVERLAYS,
    backbone: Annotated[Path, typer.Option(help="sealed backbone")] = BACKBONE,
    seed: Annotated[int, typer.Option(min=0, help="seed of the dub")] = 0,
    endpoint: Endpoint = "",
) -> None:
    """Dub a video file into another language: a clip, or a film chunk by chunk where it is longer or has a script."""
    options = DubOptions(**locals())
    result = _dub(options)
    if captions is not None:
        from dubmill.text import subtitles

        subtitles.write_cues(captions, subtitles.captions(result.cues, to))
    for note in result.notes:
        typer.echo(note, err=True)
    typer.echo(f"dub: {out} (machine-generated, and marked so in the file)")


def _check(options: DubOptions) -> None:
    """Refuse options that do not fit together and files that cannot be written, before any work."""
    from dubmill.dubbing.output import check_outputs

    if options.text and options.script is not None:
        raise UsageError("--text beside --script", where="dubmill dub", cure="give the words in the script")
    required = (("--to", options.to), ("--text or --script", options.text or options.script))
    missing = [name for name, value in required if not value]
    if missing:
        what = f"{' and '.join(missing)} missing"
        raise UsageError(what, where="dubmill dub", cure="name the language and the words to say")
    check_outputs(
        source=options.video,
        out=options.out,
        captions=options.captions,
        script=options.script,
        sounds=[path for path in (options.audio, options.background) if path is not None],
        force=options.force,
    )


def _dub(options: DubOptions) -> FileDubResult:
    """Dub the video as a film where it is longer than one clip of the model or has a script, else as one clip."""
    _check(options)
    if options.endpoint:
        return _dub_on_endpoint(options)
    refuse_overlay("dubmill dub", options.adapter, options.overlay)
    separator = open_separator(
        "dubmill dub", options.background, options.separate, options.separation_model, options.duck
    )
    from dubmill.dubbing.open import dub_clip_file, dub_film_file, is_film, open_model, with_separated_background
    from dubmill.dubbing.requests import FileDubRequest, check_file_request
    from dubmill.text.languages import base_tag
    from dubmill.text.subtitles import read_cues

    request = FileDubRequest(
        path=options.video,
        words=options.text if options.script is None else read_cues(options.script),
        language=base_tag(options.to),
        consent=options.consent,
        seed=options.seed,
        tone_map=options.tone_map,
        track=options.track,
        face=options.face,
        speaker=options.speaker,
        picture=options.picture,
        quality=options.quality,
        has_label=options.label,
        voice=options.audio,
        background=options.background,
        duck_db=options.duck,
    )
    check_file_request(request)
    source = open_model(options.release, options.adapter, options.backbone, options.params, options.overlay)
    has_chunks = is_film(request, source.size)
    if not has_chunks:
        cure = "leave it out, or give --script, which dubs the video as a film"
        unused = {"--background": options.background, "--separate": separator}
        refuse_unused("dubmill dub", "beside a clip", unused, cure)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if separator is not None:
        with progress_bar("separate") as progress:
            request = with_separated_background(request, options.out, source, separator, progress)
    dub_file = dub_film_file if has_chunks else dub_clip_file
    with progress_bar("dub") as progress:
        return dub_file(request, options.out, source=source, backbone=options.backbone, progress=progress)


def _dub_on_endpoint(options: DubOptions) -> FileDubResult:
    """Submits a job to a served release, and writes its result."""
    from dubmill.artifacts.files import write_atomically
    from dubmill.client import DubClient
    from dubmill.dubbing.requests import FileDubResult

    local = {
        "--captions": options.captions,
        "--adapter": options.adapter,
        "--overlay": options.overlay,
        "--quality": options.quality is not None,
        "--audio": options.audio,
        "--background": options.background,
        "--separate": options.separate,
        "--separation-model": options.separation_model,
        "--duck": options.duck,
        "--picture": options.picture != "face",
        "--release": options.release != RELEASE,
        "--backbone": options.backbone != BACKBONE,
        "--params": options.params != PARAMS,
    }
    refuse_unused("dubmill dub", "beside --endpoint", local, "leave --endpoint out, or the others")
    client = DubClient(options.endpoint, timeout_seconds=24 * 3600.0, api_key=os.environ.get("DUBMILL_API_KEY", ""))
    job = client.submit(
        options.video,
        language=options.to,
        text=options.text,
        script="" if options.script is None else options.script.read_text(),
        consent=options.consent,
        seed=options.seed,
        face=options.face,
        speaker=options.speaker,
        tone_map=options.tone_map,
        track=options.track,
        label=options.label,
    )
    with progress_bar("dub") as progress:
        job = client.wait(job["id"], progress)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, client.result(job["id"]))
    return FileDubResult(tuple(job["result"]["notes"]), ())
