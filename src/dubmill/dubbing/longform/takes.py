"""The dubs of a film's chunks, each kept on disk as soon as it is made, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.artifacts.files import digest_of, write_atomically
from dubmill.artifacts.rows import Line
from dubmill.dubbing.longform.film import Film, level_dbfs, speech_spans
from dubmill.dubbing.longform.plan import Chunk
from dubmill.dubbing.longform.size import Dubbing
from dubmill.errors import UnreadableMedia, UnsayableText, UsageError
from dubmill.faces import Keep, Watch
from dubmill.media.clips import Clip, fit
from dubmill.text.timing import clock


@dataclass(frozen=True)
class Job:
    """What every chunk is dubbed with; `release` is the digest that tells one model's takes from another's.

    `watch` looks for faces in every chunk, and `face` says which of several is dubbed.
    """

    dubber: Dubbing
    language: str
    seed: int
    release: str
    watch: Watch
    face: str

    def line(self, chunk: Chunk) -> Line:
        """What is said in a chunk."""
        return Line(language=self.language, text=chunk.text)


@dataclass(frozen=True)
class Take:
    """A chunk, the file of its dub, and when in the film it speaks: its cues, and whatever else is heard to speak in it.

    `keep` is how much of its picture is shown.
    """

    chunk: Chunk
    path: Path
    spoken: tuple[tuple[float, float], ...]
    keep: Keep

    def sound(self, film: Film, sample_rate_hz: int) -> np.ndarray:
        """Its sound (N, C) at another sample rate, exactly as long as the chunk is in the film."""
        first, last = (film.sample_at(frame, sample_rate_hz) for frame in (self.chunk.first, self.chunk.last))
        blocks = list(media.sound(self.path, sample_rate_hz=sample_rate_hz, channels=film.channels))
        return fit(np.concatenate(blocks).T, last - first).T


def check_words(film: Film, chunks: Sequence[Chunk], job: Job) -> None:
    """Refuse words that cannot be said, all of them at once and before anything is dubbed.

    Raises:
        UnsayableText: the model cannot say the words of some chunks, or not in their time; each is named by its time.
    """
    faults: dict[tuple[str, str], list[str]] = {}
    for chunk in chunks:
        try:
            job.dubber.check(job.line(chunk), float((chunk.last - chunk.first) / film.size.frame_rate))
        except UnsayableText as error:
            faults.setdefault((error.what, error.cure), []).append(clock(chunk.cues[0][0]))
    if faults:
        said = [f"the words at {', '.join(times)}: {what}" for (what, _), times in faults.items()]
        raise UnsayableText("; ".join(said), cure=", ".join(dict.fromkeys(cure for _, cure in faults)))


def watched(film: Film, chunks: Sequence[Chunk], job: Job) -> list[Keep]:
    """How much of each chunk's dub will be shown: faces are looked for in all of them before anything is dubbed.

    Raises:
        UnreadableMedia: several faces are in a chunk and none was chosen.
        UsageError: the choice names nobody there.
    """
    if not job.watch.looks(job.face):
        return [job.watch.blind(job.face, (0.0, film.info.seconds))] * len(chunks)
    shown, keeps = film.shown(), []
    for chunk in chunks:
        clip, start = shown.clip(chunk.first, chunk.last), float(chunk.first / film.size.frame_rate)
        try:
            keeps.append(job.watch.keep(clip, job.face, start_seconds=start))
        except (UnreadableMedia, UsageError) as error:
            raise type(error)(error.what, where=f"the words at {clock(chunk.cues[0][0])}", cure=error.cure) from error
    return keeps


def make(
    film: Film,
    chunks: Sequence[Chunk],
    keeps: Sequence[Keep],
    job: Job,
    folder: Path,
    progress: Callable[[float], None],
) -> list[Take]:
    """A take of every chunk, those found in `folder` reused.

    Raises:
        UnreadableMedia: nobody is heard where a voice is to be dubbed, or the model gave another size than it was given.
        UnsayableText: the model cannot say the words of a chunk.
        OutOfRoom: the disk is full.
    """
    shown, takes = film.shown(), []
    for index, (chunk, keep) in enumerate(zip(chunks, keeps, strict=True)):
        clip = shown.clip(chunk.first, chunk.last).lasting(film.size.num_frames)
        path = folder / f"{_key(clip, chunk, job)}.nut"
        if not path.is_file():
            dubbed = _dubbed(clip, chunk, job, lambda share, done=index: progress((done + share) / len(chunks)))
            write_atomically(path, media.lossless_bytes(dubbed.cut(0, chunk.last - chunk.first)))
        take = Take(chunk, path, chunk.cues, keep)
        takes.append(replace(take, spoken=(*chunk.cues, *_heard(film, take))))
        progress((index + 1) / len(chunks))
    return takes


def _key(clip: Clip, chunk: Chunk, job: Job) -> str:
    source = hashlib.sha256(np.ascontiguousarray(clip.frames_FHWC).data)
    source.update(clip.audio_CN.data)
    return digest_of([source.hexdigest(), chunk.last - chunk.first, chunk.text, job.language, job.seed, job.release])


def _dubbed(clip: Clip, chunk: Chunk, job: Job, progress: Callable[[float], None]) -> Clip:
    where = f"the words at {clock(chunk.cues[0][0])}"
    if np.abs(clip.audio_CN).max(initial=0.0) < media.SILENCE:
        raise UnreadableMedia(
            "the film is silent there", where=where, cure="give a script whose times are those of the film"
        )
    try:
        dubbed = job.dubber.dub(clip, line=job.line(chunk), seed=job.seed, progress=progress)
    except UnsayableText as error:
        raise UnsayableText(error.what, where=where, cure=error.cure) from error
    if dubbed.frames_FHWC.shape != clip.frames_FHWC.shape:
        raise UnreadableMedia("the model gave a dub of another size", where=where, cure="promote another release")
    return dubbed


def _heard(film: Film, take: Take) -> list[tuple[float, float]]:
    rate, first, frame_rate = film.size.sample_rate_hz, take.chunk.first, film.size.frame_rate
    sound_NC, begin = take.sound(film, rate), film.sample_at(first, rate)
    places = (film.sample_at(frame, rate) - begin for frame in range(first, take.chunk.last + 1))
    levels_F = np.fromiter((level_dbfs(sound_NC[slice(*pair)]) for pair in pairwise(places)), np.float32)
    spans = speech_spans(levels_F, frame_rate)
    return [(float((first + start) / frame_rate), float((first + stop) / frame_rate)) for start, stop in spans]
