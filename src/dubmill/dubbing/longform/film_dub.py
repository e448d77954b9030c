"""The dub of a whole film: analysis, chunks, checks, dubs, and joining."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dubmill import media
from dubmill.artifacts.rows import Line
from dubmill.dubbing.longform import join
from dubmill.dubbing.longform.chunk_dubs import (
    ChunkDub,
    FilmJob,
    check_lines,
    chunk_crops,
    chunk_dubs,
    chunk_masks,
    dub_chunks,
)
from dubmill.dubbing.longform.chunks import Chunk, cues_over_speech, plan_chunks
from dubmill.dubbing.longform.crops import Crop
from dubmill.dubbing.longform.film import Film, Progress, between, counted, no_progress
from dubmill.dubbing.longform.pieces import encode_pieces, plan_pieces
from dubmill.dubbing.longform.store import FilmStore
from dubmill.errors import DubmillError
from dubmill.faces import BlendMask, timed_sentences
from dubmill.text.languages import ISO_639_2
from dubmill.text.subtitles import Cue

_ANALYZED, _DUBBED, _ENCODED = 0.05, 0.85, 0.97  # share of the work done after each phase, as reported to `progress`


@dataclass(frozen=True)
class FilmDub:
    """The chunks of a film that were dubbed, the cues they say, and sentences for the user on the faces in them."""

    chunks: Sequence[Chunk]
    cues: Sequence[Cue]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FilmPlan:
    """The chunks of a film, with blend mask and crop of each, and the cues they say."""

    chunks: Sequence[Chunk]
    masks: Sequence[BlendMask]
    crops: Sequence[Crop]
    cues: Sequence[Cue]


def chunks_folder(out: Path) -> Path:
    """The folder in which finished chunks are kept until the film `out` is complete."""
    return out.with_name(f".{out.name}.chunks")


def plan_film(
    film: Film, words: Sequence[Cue] | Line, job: FilmJob, store: FilmStore, progress: Progress = no_progress
) -> FilmPlan:
    """What is to be dubbed, after all checks that need no model. A line without times is distributed over the film's speech.

    Raises:
        UnsupportedTextError: see `plan_chunks` and `check_lines`.
        UnreadableMediaError: nobody speaks; see `chunk_masks`.
        UsageError: see `chunk_masks`.
    """
    analysis = store.analysis(film, between(progress, 0.0, 0.5))
    cues = cues_over_speech(words, film, analysis) if isinstance(words, Line) else words
    chunks = plan_chunks(cues, analysis, film.size)
    check_lines(film, chunks, job)
    masks = chunk_masks(film, chunks, job, store, between(progress, 0.5, 1.0))
    return FilmPlan(chunks, masks, chunk_crops(film, chunks, masks, analysis.shots, job.picture), cues)


def dub_film(
    film: Film,
    words: Sequence[Cue] | Line,
    job: FilmJob,
    out: Path,
    *,
    metadata: Mapping[str, str],
    progress: Progress,
    quality: int | None = None,
    has_label: bool = False,
    duck_db: float = 0.0,
    store: FilmStore | None = None,
    before_handover: Callable[[Path], None] = lambda path: None,
) -> FilmDub:
    """Write `film` saying `words` to `out`, of the same frame rate, size and length; container by the ending of the name.

    Codec, pixel format, colour tags and bit rate follow the film; `quality` is a CRF without a bound on the bit rate;
    `has_label` burns the visible label in; `duck_db` lowers the film's background while the dub speaks.
    `before_handover` is called with the complete film before it is at `out`.

    Finished chunks are stored in a folder beside `out` until the film is complete: a run that was killed continues from
    there. With a `store` they stay in it: a later run of other words dubs only the chunks that changed.

    Raises:
        UnsupportedTextError, UnreadableMediaError, UsageError: see `plan_film` and `dub_chunks`.
        DiskFullError: the disk is full; finished chunks stay.
    """
    work = chunks_folder(out)
    store = store or FilmStore(work)
    plan = plan_film(film, words, job, store, between(progress, 0.0, _ANALYZED))
    coding = media.coding_like(film.info, out.suffix, quality=quality, tone_map=film.tone_map)
    carried = media.carried_streams(film.info, coding.container)
    progress(_ANALYZED)
    work.mkdir(parents=True, exist_ok=True)
    joined = work / f"film{out.suffix.lower()}"
    with _naming(store.takes):
        takes = dub_chunks(film, plan.chunks, plan.crops, job, store, between(progress, _ANALYZED, _DUBBED))
        dubs = chunk_dubs(film, plan.chunks, plan.masks, plan.crops, takes, job)
        share = between(progress, _DUBBED, _ENCODED)
        pieces = plan_pieces(film, dubs, coding, has_label=has_label)
        encoded = encode_pieces(film, dubs, pieces, coding, store, share, has_label=has_label)
        share = between(progress, _ENCODED, 1.0)
        _write_film(film, dubs, encoded, joined, coding, carried, metadata, job.language, duck_db, share)
        ends = (store.source_ends_path(piece.source_key) for piece in pieces)
        store.record_render(job.language, [*takes, *(path for path, _ in encoded), *ends])
        before_handover(joined)
    joined.replace(out)
    shutil.rmtree(work)
    notes = timed_sentences(note for mask in plan.masks for note in mask.notes)
    return FilmDub(plan.chunks, plan.cues, (*coding.notes, *carried.notes, *notes))


def _write_film(
    film: Film,
    dubs: Sequence[ChunkDub],
    pieces: Sequence[media.EncodedPiece],
    path: Path,
    coding: media.Coding,
    carried: media.CarriedStreams,
    metadata: Mapping[str, str],
    language: str,
    duck_db: float,
    progress: Progress,
) -> None:
    rate, channels, wav = film.info.sample_rate_hz, film.channels, path.with_name("sound.wav")
    num_blocks = math.ceil(film.info.seconds * rate / media.SOUND_BLOCK_SAMPLES)
    gain = join.gain_to_match(film, dubs)
    sound = counted(join.joined_sound(film, dubs, gain, duck_db), num_blocks, progress)
    media.write_sound(wav, sound, sample_rate_hz=rate, channels=channels)
    media.write_film(
        path,
        pieces,
        coding=coding,
        frame_rate=film.info.frame_rate,
        wav=wav,
        sound_codec=film.info.tracks[film.info.track].codec,
        sample_rate_hz=rate,
        channels=channels,
        metadata=metadata,
        source=film.path,
        carried=carried,
        language=ISO_639_2.get(language, ""),
    )


@contextmanager
def _naming(work: Path) -> Iterator[None]:
    """Adds to an error where the finished chunks are, so that their folder is known to somebody."""
    try:
        yield
    except DubmillError as error:
        if any(work.glob("*.nut")):
            cure = f"{error.cure}; finished chunks are kept in {work}, and the same command continues"
            raise type(error)(error.what, where=error.where, cure=cure) from error
        raise
