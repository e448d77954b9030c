"""The picture of a dubbed film in pieces, of which only those that changed are encoded.

A piece is named by a digest of all that its picture depends on: frames of the film, coding, and the dubs that show in it. Where the
film was read before, its frames are found by seeking, and are compared with what the first reading gave.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import chain, islice, pairwise

import numpy as np

from dubmill import __version__, media
from dubmill.artifacts.files import digest_of, write_atomically
from dubmill.dubbing.longform import join
from dubmill.dubbing.longform.chunk_dubs import ChunkDub
from dubmill.dubbing.longform.film import Film
from dubmill.dubbing.longform.label import label_layer
from dubmill.dubbing.longform.store import FilmStore

PIECE_SECONDS = 5  # a keyframe so often costs little, and a changed word encodes one or two pieces


@dataclass(frozen=True)
class Piece:
    """Frames `start` up to `stop` of a film at its own rate; `source_key` names them, `key` also what is made of them."""

    start: int
    stop: int
    source_key: str
    key: str


def encode_pieces(
    film: Film,
    dubs: Sequence[ChunkDub],
    pieces: Sequence[Piece],
    coding: media.Coding,
    store: FilmStore,
    progress: Callable[[float], None],
    *,
    has_label: bool = False,
) -> list[media.EncodedPiece]:
    """The encoded `pieces` of a film's dubbed picture, planned by `plan_pieces`; those that are in the store already are not made again.

    With `has_label` each frame has the visible label.

    Raises:
        DiskFullError: the disk is full.
        UnreadableMediaError: the film cannot be decoded.
    """
    writer = _PieceWriter(film, dubs, coding, store, progress, has_label)
    for folder in (store.pieces, store.source_ends_path("").parent):
        folder.mkdir(parents=True, exist_ok=True)
    if film.info.can_seek:
        for run in _runs(
            [piece for piece in pieces if writer.is_missing(piece) and store.source_ends(piece.source_key)]
        ):
            writer.write(run, seeks=True)
    if missing := [piece for piece in pieces if writer.is_missing(piece)]:
        writer.write([piece for piece in pieces if missing[0].start <= piece.start <= missing[-1].start], seeks=False)
    progress(1.0)
    return [(store.piece(piece.key), piece.stop - piece.start) for piece in pieces]


def plan_pieces(film: Film, dubs: Sequence[ChunkDub], coding: media.Coding, *, has_label: bool = False) -> list[Piece]:
    """The pieces in order: their edges depend on the film alone, so that no change moves them."""
    num_frames, step = film.info.num_frames, max(1, round(PIECE_SECONDS * film.info.frame_rate))
    edges = [*range(0, max(1, num_frames - step + 1), step), num_frames]
    form = [__version__, media.version(), film.digest, str(film.info.frame_rate), str(film.info.picture.pixel_aspect)]
    form += [*astuple(film.colour), coding.codec, *astuple(coding.layout), dict(coding.video_options), has_label]
    spans = [_shown_span(film, dub) for dub in dubs]
    pieces = []
    for start, stop in pairwise(edges):
        shown = [
            _identity(dub) for dub, (first, last) in zip(dubs, spans, strict=True) if first < stop and start < last
        ]
        source = [film.digest, *astuple(coding.layout), start, stop]
        pieces.append(Piece(start, stop, digest_of(source), digest_of([form, start, stop, shown])))
    return pieces


@dataclass(frozen=True)
class _PieceWriter:
    film: Film
    dubs: Sequence[ChunkDub]
    coding: media.Coding
    store: FilmStore
    progress: Callable[[float], None]
    has_label: bool

    def is_missing(self, piece: Piece) -> bool:
        return not self.store.piece(piece.key).is_file()

    def write(self, run: Sequence[Piece], *, seeks: bool) -> None:
        """Encode what is missing of neighbouring pieces; with `seeks`, only as long as the frames are those read before."""
        start, stop = run[0].start, run[-1].stop
        frames = self.film.source_frames(self.coding.layout, start, stop, seeks=seeks)
        for piece in run:
            part = islice(frames, piece.stop - piece.start)
            if not self.is_missing(piece):
                deque(part, maxlen=0)
            elif not self._encode(piece, part, seeks):
                return
            self.progress(piece.stop / self.film.info.num_frames)

    def _encode(self, piece: Piece, frames: Iterator[np.ndarray], seeks: bool) -> bool:
        """Encode one piece; False where its frames are not those that were read before."""
        ends: list[str] = []
        path = self.store.piece(piece.key)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        layout = self.coding.layout
        picture = join.picture(self.film, self.dubs, layout, _with_ends(frames, ends), piece.start)
        if self.has_label:
            label = [label_layer(layout)]
            picture = (join.composite(frame, label, layout) for frame in picture)
        media.write_piece(
            partial,
            picture,
            coding=self.coding,
            colour=self.film.colour,
            frame_rate=self.film.info.frame_rate,
            pixel_aspect=self.film.info.picture.pixel_aspect,
        )
        found = " ".join(ends)
        if seeks and found != self.store.source_ends(piece.source_key):
            partial.unlink()
            return False
        if not seeks:
            write_atomically(self.store.source_ends_path(piece.source_key), found.encode())
        partial.replace(path)
        return True


def _shown_span(film: Film, dub: ChunkDub) -> tuple[float, float]:
    """Where a dub may show, in frames of the film's own rate; an empty span where its mask is closed."""
    if not dub.mask.opacity_F.any():
        return 0.0, 0.0
    scale = film.info.frame_rate / film.size.frame_rate
    return float(dub.chunk.first * scale), float(dub.chunk.last * scale)


def _identity(dub: ChunkDub) -> list[object]:
    """Plain data on which a dub's picture depends."""
    chunk, mask, crop = dub.chunk, dub.mask, dub.crop
    boxes = [array.tolist() for array in (mask.opacity_F, mask.face_boxes_F4, *mask.other_boxes)]
    return [
        dub.path.stem,
        chunk.first,
        chunk.last,
        chunk.fade_in,
        chunk.fade_out,
        astuple(crop),
        boxes,
        mask.frame_size,
    ]


def _runs(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """The pieces in groups of neighbours."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if runs and runs[-1][-1].stop == piece.start:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


def _with_ends(frames: Iterator[np.ndarray], ends: list[str]) -> Iterator[np.ndarray]:
    """The frames; digests of the first and the last are appended to `ends`."""
    first = next(frames, None)
    last = first
    for last in chain([] if first is None else [first], frames):
        yield last
    ends += [hashlib.sha256(frame.tobytes()).hexdigest() for frame in (first, last) if frame is not None]
