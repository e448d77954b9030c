"""Dubs the chunks of a film and stores each on disk as soon as it is made, so that a killed run continues.

Axes: N samples, C channels, F frames at the model's rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.artifacts.files import digest_of, sha256_of, write_atomically
from dubmill.artifacts.rows import Line
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.longform.chunks import Chunk
from dubmill.dubbing.longform.crops import Crop, CropReader, centre_crop, face_crop
from dubmill.dubbing.longform.film import Film, Progress, counted, level_dbfs, loud_spans, no_progress
from dubmill.dubbing.longform.recording import ChunkVoice, check_segment_recordings, chunk_voices
from dubmill.dubbing.longform.store import FilmStore, clip_key
from dubmill.errors import UnreadableMediaError, UnsupportedTextError, UsageError
from dubmill.faces import FACE, BlendMask, FaceMasker
from dubmill.media.clips import Clip, cut_or_pad
from dubmill.text.timing import clock


@dataclass(frozen=True)
class FilmJob:
    """What every chunk of a film is dubbed with.

    `release` is a digest that distinguishes the stored dubs of one model from another's. `masker` detects faces in every
    chunk, `face` says which of several is dubbed, and `speaker` who that is; `picture` as in `faces.check_picture_choice`.
    `voice` is a recording on the film's clock that the lips follow; none: the model speaks. A segment's own recording replaces it.
    """

    dubber: ClipDubber
    language: str
    seed: int
    release: str
    masker: FaceMasker
    face: str
    speaker: str = ""
    picture: str = FACE
    voice: Path | None = None

    def line(self, chunk: Chunk) -> Line:
        """The line that is said in a chunk."""
        return Line(language=self.language, text=chunk.text)

    def seed_of(self, chunk: Chunk) -> int:
        """The seed of a chunk's dub."""
        return self.seed if chunk.seed is None else chunk.seed

    def speaker_in(self, chunk: Chunk) -> str:
        """Who speaks in a chunk, for the caption: whoever was described for the whole film, else the script's name."""
        return self.speaker or chunk.speaker


@dataclass(frozen=True)
class ChunkDub:
    """A chunk with the file of its dub.

    Attributes:
        chunk: the chunk.
        path: the file of its dub.
        sound_path: the file of its sound: the same, or its part of a recorded voice.
        speech: when it speaks, in seconds of the film: its cues, and all other speech detected in the dub.
        mask: the blend mask of its picture.
        crop: the part of the film's picture that the model saw.
    """

    chunk: Chunk
    path: Path
    sound_path: Path
    speech: tuple[tuple[float, float], ...]
    mask: BlendMask
    crop: Crop

    def sound(self, film: Film, sample_rate_hz: int) -> np.ndarray:
        """Its sound (N, C) at another sample rate, exactly as long as the chunk is in the film."""
        first, last = (film.sample_at(frame, sample_rate_hz) for frame in (self.chunk.first, self.chunk.last))
        blocks = list(media.sound(self.sound_path, sample_rate_hz=sample_rate_hz, channels=film.channels))
        return cut_or_pad(np.concatenate(blocks).T, last - first).T


def check_lines(film: Film, chunks: Sequence[Chunk], job: FilmJob) -> None:
    """Refuse lines that cannot be said, all of them at once and before anything is dubbed.

    Raises:
        UnsupportedTextError: the model cannot say the lines of some chunks, or not in their time; the message lists all times.
    """
    faults: dict[tuple[str, str], list[str]] = {}
    for chunk in chunks:
        try:
            job.dubber.check(job.line(chunk), film.seconds_at(chunk.last - chunk.first))
        except UnsupportedTextError as error:
            faults.setdefault((error.what, error.cure), []).append(clock(chunk.cues[0][0]))
    if faults:
        sentences = [f"the words at {', '.join(times)}: {what}" for (what, _), times in faults.items()]
        raise UnsupportedTextError("; ".join(sentences), cure=", ".join(dict.fromkeys(cure for _, cure in faults)))


def chunk_masks(
    film: Film, chunks: Sequence[Chunk], job: FilmJob, store: FilmStore, progress: Progress = no_progress
) -> list[BlendMask]:
    """The blend mask of each chunk; faces are detected in all of them before anything is dubbed.

    Raises:
        UnreadableMediaError: several faces are in a chunk and none was chosen.
        UsageError: the choice matches nobody there.
    """
    overview = None
    masks = []
    for chunk in counted(chunks, len(chunks), progress):
        overview = overview or film.overview_reader()
        masks.append(chunk_mask(film, chunk, job, store, partial(overview.clip, chunk.first, chunk.last)))
    return masks


def chunk_mask(film: Film, chunk: Chunk, job: FilmJob, store: FilmStore, read: Callable[[], Clip]) -> BlendMask:
    """The blend mask of one chunk; `read` returns its clip, where faces were not detected before.

    Raises:
        UnreadableMediaError: several faces are in it and none was chosen.
        UsageError: the choice matches nobody there.
    """
    choice, start = chunk.face or job.face, film.seconds_at(chunk.first)
    if not job.masker.needs_frames(choice, job.picture):
        span = (0.0, film.info.seconds) if choice == job.face else (start, film.seconds_at(chunk.last))
        return job.masker.mask_without_detection(choice, span, job.picture)
    found = store.faces(film, chunk, job.masker, read)
    try:
        return job.masker.mask_of(found, choice, start_seconds=start, picture=job.picture)
    except (UnreadableMediaError, UsageError) as error:
        raise type(error)(error.what, where=_place(chunk), cure=error.cure) from error


def chunk_crops(
    film: Film, chunks: Sequence[Chunk], masks: Sequence[BlendMask], shots: Sequence[int], picture: str
) -> list[Crop]:
    """The part of the picture that the model sees in each chunk: around the face, or the middle of the picture."""
    if picture != FACE:
        return [centre_crop(film)] * len(chunks)
    return [face_crop(film, chunk, mask, shots) for chunk, mask in zip(chunks, masks, strict=True)]


def dub_chunks(
    film: Film,
    chunks: Sequence[Chunk],
    crops: Sequence[Crop],
    job: FilmJob,
    store: FilmStore,
    progress: Callable[[float], None],
) -> list[Path]:
    """The files of the chunks' dubs; those that are in the store already are not made again.

    Raises:
        UnreadableMediaError: the film is silent where a voice is to be dubbed, or the model returned another size.
        UnsupportedTextError: the model cannot say the words of a chunk.
        UsageError: a segment's recording is not there, or lasts longer than the segment.
        DiskFullError: the disk is full.
    """
    keys = take_keys(film, chunks, crops, job)
    missing = [index for index, key in enumerate(keys) if not store.take(key).is_file()]
    check_segment_recordings([chunks[index] for index in missing])
    unread = [index for index in missing if not store.has_clip(film, chunks[index], crops[index])]
    clips = _clips(film, [chunks[index] for index in unread], [crops[index] for index in unread])
    voices = chunk_voices(film, job.voice, [chunks[index] for index in missing])
    for num_done, index in enumerate(missing):
        chunk, started = chunks[index], time.monotonic()
        clip = store.clip(film, chunk, crops[index], partial(next, clips)).lasting(film.size.num_frames)
        dubbed = _dub_clip(
            clip, chunk, job, next(voices), lambda share, done=num_done: progress((done + share) / len(missing))
        )
        seconds = time.monotonic() - started
        store.write_take(keys[index], dubbed.cut(0, chunk.last - chunk.first), chunk.text, seconds)
        progress((num_done + 1) / len(missing))
    return [store.take(key) for key in keys]


def chunk_dubs(
    film: Film, chunks: Sequence[Chunk], masks: Sequence[BlendMask], crops: Sequence[Crop], takes: Sequence[Path],
    job: FilmJob,
) -> list[ChunkDub]:  # fmt: skip
    """The chunks with their dubs, ready to be joined; each one's part of a recorded voice is written beside its dub."""
    dubs, voices = [], chunk_voices(film, job.voice, chunks)
    for chunk, mask, crop, path in zip(chunks, masks, crops, takes, strict=True):
        voice = next(voices)
        sound_path = path if voice is None else path.with_suffix(".wav")
        if voice is not None:
            write_atomically(sound_path, voice.wav)
        dub = ChunkDub(chunk, path, sound_path, chunk.cues, mask, crop)
        dubs.append(replace(dub, speech=(*chunk.cues, *_speech_in(film, dub))))
    return dubs


def take_keys(film: Film, chunks: Sequence[Chunk], crops: Sequence[Crop], job: FilmJob) -> list[str]:
    """A digest for each chunk of everything that its dub depends on.

    Raises:
        UsageError: a segment's recording is not there.
    """
    return [
        digest_of(
            [
                clip_key(film, chunk, crop),
                chunk.text,
                job.language,
                job.speaker_in(chunk),
                job.seed_of(chunk),
                job.release,
                _voice_key(chunk, job),
            ]
        )
        for chunk, crop in zip(chunks, crops, strict=True)
    ]


def _clips(film: Film, chunks: Sequence[Chunk], crops: Sequence[Crop]) -> Iterator[Clip]:
    """Each chunk's clip as the model sees it; where it always sees the middle, FFmpeg scales it."""
    if all(crop == centre_crop(film) for crop in crops):
        reader = film.clip_reader()
        yield from (reader.clip(chunk.first, chunk.last) for chunk in chunks)
        return
    crop_reader = CropReader(film, chunks, crops)
    yield from (crop_reader.clip(index) for index in range(len(chunks)))


def _voice_key(chunk: Chunk, job: FilmJob) -> str | list[tuple[float, str]]:
    """What a chunk's dub depends on beside its words where they are recorded; empty where the model speaks.

    Raises:
        UsageError: a segment's recording is not there.
    """
    if missing := [path for path in chunk.recordings if not path.is_file()]:
        cure = "put it back, or name another with `dubmill film edit`"
        raise UsageError(f"the recording of {_place(chunk)} is not there", where=str(missing[0]), cure=cure)
    if chunk.recordings:
        starts = [start for start, _ in chunk.cues]
        return list(zip(starts, map(sha256_of, chunk.recordings), strict=True))
    return "" if job.voice is None else sha256_of(job.voice)


def _place(chunk: Chunk) -> str:
    return f"the words at {clock(chunk.cues[0][0])}"


def _dub_clip(
    clip: Clip, chunk: Chunk, job: FilmJob, voice: ChunkVoice | None, progress: Callable[[float], None]
) -> Clip:
    if np.abs(clip.audio_CN).max(initial=0.0) < media.SILENCE:
        raise UnreadableMediaError(
            "the film is silent there", where=_place(chunk), cure="give a script whose times are those of the film"
        )
    dubber, line = job.dubber, job.line(chunk)
    try:
        if voice is None:
            dubbed = dubber.dub(
                clip, line=line, seed=job.seed_of(chunk), progress=progress, speaker=job.speaker_in(chunk)
            )
        else:
            dubbed = dubber.follow_voice(
                clip,
                voice.audio_CN,
                line=line,
                seed=job.seed_of(chunk),
                progress=progress,
                speaker=job.speaker_in(chunk),
            )
    except UnsupportedTextError as error:
        raise UnsupportedTextError(error.what, where=_place(chunk), cure=error.cure) from error
    if dubbed.frames_FHWC.shape != clip.frames_FHWC.shape:
        raise UnreadableMediaError(
            "the model returned a dub of another size", where=_place(chunk), cure="promote another release"
        )
    return dubbed


def _speech_in(film: Film, dub: ChunkDub) -> list[tuple[float, float]]:
    """The speech detected in a dub, in seconds of the film."""
    rate, first = film.size.sample_rate_hz, dub.chunk.first
    sound_NC, start_sample = dub.sound(film, rate), film.sample_at(first, rate)
    edges = (film.sample_at(frame, rate) - start_sample for frame in range(first, dub.chunk.last + 1))
    levels_F = np.fromiter((level_dbfs(sound_NC[slice(*pair)]) for pair in pairwise(edges)), np.float32)
    spans = loud_spans(levels_F, film.size.frame_rate)
    return [(film.seconds_at(first + start), film.seconds_at(first + stop)) for start, stop in spans]
