"""Videos of any length, dubbed clip by clip and joined again at their own rate and size.

A first look finds pauses and shot changes; a plan divides the script's cues over clips of the model's length; words and
faces are checked in all of them; every dub is kept on disk as soon as it is made; joining reads film and dubs once from
start to end. Memory does not grow with the length. What is not in the script goes through as it is, but encoded again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dubmill import media
from dubmill.artifacts.rows import Line
from dubmill.dubbing.longform import join, takes
from dubmill.dubbing.longform.film import Film, Look, speech_spans
from dubmill.dubbing.longform.plan import Chunk, plan, shared_out
from dubmill.dubbing.longform.size import ClipSize, Dubbing, told_of
from dubmill.dubbing.longform.takes import Job
from dubmill.faces import told
from dubmill.text.subtitles import Cue

__all__ = ["Chunk", "ClipSize", "Dubbing", "Film", "Job", "Look", "Made", "dub_film", "plan", "speech_spans", "told_of"]

_LOOKED, _DUBBED = 0.05, 0.85  # shares of the work that are done by then, as told to `progress`


@dataclass(frozen=True)
class Made:
    """What became of a film: the chunks that were dubbed, the cues they say, and what to tell of the faces in them."""

    chunks: Sequence[Chunk]
    cues: Sequence[Cue]
    notes: tuple[str, ...]


def dub_film(
    film: Film,
    words: Sequence[Cue] | Line,
    job: Job,
    out: Path,
    *,
    marks: Mapping[str, str],
    progress: Callable[[float], None],
) -> Made:
    """Write `film` saying `words` to `out`, an MP4 of the same frames a second, size and length.

    A line without times is shared out over the speech of the film. Finished chunks lie in a folder beside `out` until
    the film is whole: a run that is killed goes on from there.

    Raises:
        UnsayableText: see `plan` and `takes.check_words`.
        UnreadableMedia: nobody speaks; see `takes.watched` and `takes.make`.
        UsageError: see `takes.watched`.
        OutOfRoom: the disk is full; what is finished stays.
    """
    look = film.look()
    cues = shared_out(words, film, look) if isinstance(words, Line) else words
    chunks = plan(cues, look, film.size)
    takes.check_words(film, chunks, job)
    keeps = takes.watched(film, chunks, job)
    progress(_LOOKED)
    work = out.with_name(f".{out.name}.chunks")
    work.mkdir(parents=True, exist_ok=True)
    made = takes.make(film, chunks, keeps, job, work, lambda share: progress(_LOOKED + (_DUBBED - _LOOKED) * share))
    gain, how = join.gain_to_match(film, made), {"sample_rate_hz": film.info.sample_rate_hz, "channels": film.channels}
    media.write_sound(work / "sound.wav", join.sound(film, made, gain), **how)
    frames = join.picture(film, made, lambda share: progress(_DUBBED + (1 - _DUBBED) * share))
    how |= {"frame_rate": film.info.frame_rate, "wav": work / "sound.wav", "metadata": marks}
    media.write_film(work / "film.mp4", frames, **how)
    (work / "film.mp4").replace(out)
    shutil.rmtree(work)
    return Made(chunks, cues, told(fact for keep in keeps for fact in keep.facts))
