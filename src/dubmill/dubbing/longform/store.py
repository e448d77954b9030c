"""The folder that keeps what was computed from a film: analysis, detected faces, source clips, and the dubs of its chunks.

Every file is named by a digest of all that it depends on, is written atomically, and never changes. Languages, later
versions of the script and several processes share them.

Axes: F frames, K faces.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from dubmill import media
from dubmill.artifacts.files import PARTIAL_FILES, digest_of, write_atomically
from dubmill.dubbing.longform.chunks import Chunk
from dubmill.dubbing.longform.crops import Crop
from dubmill.dubbing.longform.film import Film, FilmAnalysis, Progress, no_progress
from dubmill.faces import Face, FaceMasker, FacesInClip
from dubmill.media.clips import Clip


@dataclass(frozen=True)
class FilmStore:
    """A folder of a film's files. `keeps_source`: not only dubs but all that was read from the film, so that it is decoded once."""

    folder: Path
    keeps_source: bool = False

    @property
    def takes(self) -> Path:
        """The folder of the chunks' dubs."""
        return self.folder / "takes"

    def sweep(self) -> None:
        """Remove what killed writers left; no other process may be writing."""
        for folder in ("", "takes", "clips", "faces", "pieces", "frames"):
            for path in (self.folder / folder).glob(PARTIAL_FILES):
                path.unlink(missing_ok=True)

    def analysis(self, film: Film, progress: Progress = no_progress) -> FilmAnalysis:
        """The film's analysis, made on first use."""
        if not self.keeps_source:
            return film.analyze(progress)
        path = self.analysis_path(film)
        if not path.is_file():
            analysis = film.analyze(progress)
            _write_arrays(path, levels_F=analysis.levels_F, shots=np.array(analysis.shots, np.int64))
        with np.load(path) as arrays:
            return FilmAnalysis(arrays["levels_F"], tuple(arrays["shots"].tolist()))

    def analysis_path(self, film: Film) -> Path:
        """The file of the film's analysis, whether it is there or not."""
        return self.folder / f"analysis-{film.digest[:16]}.npz"

    def has_faces(self, film: Film, chunk: Chunk, masker: FaceMasker) -> bool:
        """Whether the faces in a chunk were detected before."""
        return self.faces_path(film, chunk, masker).is_file()

    def faces(self, film: Film, chunk: Chunk, masker: FaceMasker, read: Callable[[], Clip]) -> FacesInClip:
        """The faces in a chunk; on first use they are detected in the clip that `read` returns."""
        if not self.keeps_source:
            return masker.detect(read())
        path = self.faces_path(film, chunk, masker)
        if not path.is_file():
            found = masker.detect(read())
            rows = [[*face.box_4, *face.mouth_4] for faces in found.faces for face in faces]
            _write_arrays(
                path,
                counts_F=np.array([len(faces) for faces in found.faces], np.int64),
                boxes_K8=np.array(rows, np.float32).reshape(-1, 8),
                frame_size=np.array(found.frame_size, np.int64),
                jitter_frames=np.array(found.jitter_frames, np.int64),
            )
        with np.load(path) as arrays:
            faces = [Face(row_8[:4], row_8[4:]) for row_8 in arrays["boxes_K8"]]
            ends_F = np.cumsum(arrays["counts_F"]).tolist()
            by_frame = [faces[start:end] for start, end in zip([0, *ends_F], ends_F, strict=False)]
            height, width = arrays["frame_size"].tolist()
            return FacesInClip(by_frame, (height, width), float(film.size.frame_rate), int(arrays["jitter_frames"]))

    def clip(self, film: Film, chunk: Chunk, crop: Crop, read: Callable[[], Clip]) -> Clip:
        """What the model sees of a chunk; `read` reads it from the film on first use."""
        if not self.keeps_source:
            return read()
        path, size = self.clip_path(film, chunk, crop), film.size
        if not path.is_file():
            clip = read()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, media.lossless_bytes(clip))
            return clip
        return media.read_lossless(
            path,
            sides=(size.height, size.width),
            frame_rate=size.frame_rate,
            sample_rate_hz=size.sample_rate_hz,
            channels=film.channels,
        )

    def has_clip(self, film: Film, chunk: Chunk, crop: Crop) -> bool:
        """Whether `clip` needs no reading of the film."""
        return self.keeps_source and self.clip_path(film, chunk, crop).is_file()

    def clip_path(self, film: Film, chunk: Chunk, crop: Crop) -> Path:
        """The file of what the model sees of a chunk, whether it is there or not."""
        return self.folder / "clips" / f"{clip_key(film, chunk, crop)}.nut"

    def write_take(self, key: str, dubbed: Clip, words: str, seconds: float) -> None:
        """Write a chunk's dub, and beside it its words and how many seconds it took."""
        self.takes.mkdir(parents=True, exist_ok=True)
        note = json.dumps({"words": words, "seconds": round(seconds, 3)}, ensure_ascii=False)
        write_atomically(self.takes / f"{key}.json", note.encode() + b"\n")
        write_atomically(self.take(key), media.lossless_bytes(dubbed))

    def take(self, key: str) -> Path:
        """The file of a chunk's dub, whether it is there or not."""
        return self.takes / f"{key}.nut"

    @property
    def pieces(self) -> Path:
        """The folder of the encoded pieces of the dubbed picture."""
        return self.folder / "pieces"

    def piece(self, key: str) -> Path:
        """The file of an encoded piece, whether it is there or not."""
        return self.pieces / f"{key}.mov"

    def source_ends_path(self, key: str) -> Path:
        """The file with the digests of the first and the last of some frames of the film."""
        return self.folder / "frames" / f"{key}.txt"

    def source_ends(self, key: str) -> str:
        """The digests in that file; empty where those frames were not read yet."""
        path = self.source_ends_path(key)
        return path.read_text() if path.is_file() else ""

    def record_render(self, language: str, paths: Sequence[Path]) -> None:
        """Write down which files of the store the film in `language` was joined from, or is found by."""
        names = sorted(path.relative_to(self.folder).as_posix() for path in paths)
        write_atomically(self.folder / f"render-{language}.json", json.dumps(names, indent=0).encode())

    def clean(self, needed: Iterable[Path], *, removes: bool) -> list[int]:
        """Remove all files but `needed` and those of the last render of each language; returns the sizes in bytes.

        A file is needed with all files of its folder that have its name before the ending. Without `removes` they stay.
        """
        records = list(self.folder.glob("render-*.json"))
        rendered = [self.folder / name for record in records for name in json.loads(record.read_text())]
        kept = {path.with_suffix("") for path in (*needed, *rendered)}
        folders = (self.folder / name for name in ("takes", "pieces", "clips", "faces", "frames"))
        files = [*self.folder.glob("analysis-*.npz"), *(path for folder in folders for path in folder.glob("*.*"))]
        surplus = [path for path in files if path.with_suffix("") not in kept]
        sizes = [path.stat().st_size for path in surplus]
        for path in surplus if removes else ():
            path.unlink()
        return sizes

    def take_seconds(self, keys: Iterable[str]) -> float | None:
        """The median of the seconds that the dubs `keys` took; of all that are stored where none of these is."""
        notes = [path for key in keys if (path := self.take(key).with_suffix(".json")).is_file()]
        known = [json.loads(path.read_text())["seconds"] for path in notes or self.takes.glob("*.json")]
        return median(known) if known else None

    def faces_path(self, film: Film, chunk: Chunk, masker: FaceMasker) -> Path:
        """The file of the faces in a chunk, whether it is there or not."""
        key = digest_of([film.digest, chunk.first, chunk.last, type(masker.detector).__name__])
        return self.folder / "faces" / f"{key}.npz"


def clip_key(film: Film, chunk: Chunk, crop: Crop) -> str:
    """Returns a digest of what the model sees of a chunk."""
    return digest_of(
        [film.digest, chunk.first, chunk.last, film.size.num_frames, crop.height, crop.width, list(crop.places)]
    )


def _write_arrays(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    write_atomically(path, stream.getvalue())
