"""The commands `transcribe` and `translate`, which write a script for a dub; a person checks and corrects it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dubmill.providers import Transcriber
    from dubmill.text.subtitles import Cue

Out = Annotated[Path, typer.Option("--out", help="the script to write, .srt or .vtt")]
With = Annotated[str, typer.Option("--with", help="name of the provider; there is no default")]
Model = Annotated[str, typer.Option(help="whisper: folder of the model; endpoint: the model's name")]
Url = Annotated[
    str, typer.Option(help="endpoint: base URL of an OpenAI-compatible API; it receives the sound or the words")
]


def transcribe(
    clip: Annotated[Path, typer.Argument(help="the video to transcribe")],
    language: Annotated[str, typer.Option(help="language that is spoken, a BCP-47 tag")],
    by: With,
    model: Model,
    out: Out,
    url: Url = "",
) -> None:
    """Transcribe a video with a local Whisper or an endpoint; check the result before you use it."""
    from dubmill import media, providers
    from dubmill.errors import UnreadableMediaError
    from dubmill.text import subtitles
    from dubmill.text.languages import language as known

    known(language)
    writer = providers.transcriber(by, model=model, url=url)
    info = media.probe(clip, limits=media.Limits(max_seconds=24 * 3600.0))
    if not info.has_audio:
        raise UnreadableMediaError(
            "there is no sound in it", where=str(clip), cure="give a video in which somebody speaks"
        )
    cues = transcript(clip, info.track, writer, language)
    subtitles.write_cues(out, cues)
    typer.echo(f"transcribe: {out}, {len(cues)} machine-made cues: check them against the clip")


def transcript(video: Path, track: int, writer: Transcriber, language: str) -> list[Cue]:
    """The cues that a transcriber hears in a video's sound track."""
    import numpy as np

    from dubmill import media, providers

    rate = providers.SAMPLE_RATE_HZ
    blocks = media.sound(video, sample_rate_hz=rate, channels=1, track=track, has_picture=True)
    return writer.transcribe(np.concatenate(list(blocks))[:, 0], language=language)


def translate(
    script: Annotated[Path, typer.Argument(help="the script to translate, SRT or WebVTT")],
    source: Annotated[str, typer.Option("--from", help="its language, a BCP-47 tag")],
    target: Annotated[str, typer.Option("--to", help="language to translate into, a BCP-47 tag")],
    by: With,
    model: Model,
    out: Out,
    url: Url = "",
    attempts: Annotated[
        int, typer.Option(min=1, help="requests for a cue whose translation is missing or too long")
    ] = 3,
) -> None:
    """Translate a script cue by cue so that it fits each cue's time; exit code 1 if cues need a correction by hand."""
    from dubmill import providers
    from dubmill.text import subtitles

    cues = subtitles.read_cues(script)
    translator = providers.translator(by, model=model, url=url)
    translation = providers.translate(cues, translator, source=source, target=target, attempts=attempts)
    subtitles.write_cues(out, translation.cues)
    for flag in translation.flags:
        typer.echo(flag, err=True)
    typer.echo(f"translate: {out}, {len(cues)} machine-made cues, {len(translation.flags)} of them to correct by hand")
    if translation.flags:
        raise typer.Exit(1)
