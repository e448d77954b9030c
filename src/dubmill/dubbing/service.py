"""The dubbing service without any network protocol: read the video, record consent, dub, and mark the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dubmill import __version__, media
from dubmill.artifacts.files import hash_file
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Release
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.clip_size import release_info
from dubmill.dubbing.consent import ConsentLedger, DubRecord
from dubmill.dubbing.longform import (
    Chunk,
    Film,
    FilmJob,
    dub_chunks,
    dub_film,
    plan_film,
)
from dubmill.dubbing.longform.film import Progress
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.requests import (
    FileDubRequest,
    FileDubResult,
    check_file_request,
)
from dubmill.errors import InvalidArtifactError
from dubmill.faces import (
    KEEP,
    FaceMasker,
)
from dubmill.media.clips import Clip
from dubmill.text.subtitles import Cue

SELFTEST_SEED = 0
_NO_BACKGROUND = ["music and effects under the dubbed words are the model's too"]


@dataclass(frozen=True)
class DubbingService:
    """A loaded dubber with the source of its model, a face masker, and the consent ledger."""

    source: ModelSource
    dubber: ClipDubber
    masker: FaceMasker
    ledger: ConsentLedger
    limits: media.Limits

    def selftest(self, release: Release) -> float:
        """Dub the clip that the release was sealed with, roughly; returns the seconds that a whole dub is estimated to take.

        Raises:
            InvalidArtifactError: there is none, or its dub has another size, or is silent.
        """
        clip, line = selftest_clip(release)
        dubbed, dub_seconds = self.dubber.quick_dub(clip, line=line, seed=SELFTEST_SEED)
        peak = np.abs(dubbed.audio_CN).max(initial=0.0)
        if dubbed.frames_FHWC.shape != clip.frames_FHWC.shape or not peak > media.SILENCE:  # `not >`: NaN fails too
            trouble = "is silent" if dubbed.frames_FHWC.shape == clip.frames_FHWC.shape else "has another size"
            raise InvalidArtifactError(f"its self-test dub {trouble}", where=str(release.path), cure="promote another")
        media.mp4_bytes(dubbed)
        return dub_seconds

    def dub_film(self, request: FileDubRequest, out: Path, progress: Progress) -> FileDubResult:
        """Write the dub of a video of any length to `out`; its consent is checked before the model runs, and recorded with the dub.

        Raises:
            DubmillError: consent, language, words, media, faces or ledger are not in order.
        """
        film = self.open_film(request)

        def record(joined: Path) -> None:
            self.ledger.record(
                request.consent,
                DubRecord(
                    source_sha256=film.sha256,
                    dub_sha256=hash_file(joined),
                    language=request.language,
                    release=self.source.digest,
                ),
            )

        return self.render_film(film, request, out, progress, before_handover=record)

    def render_film(
        self,
        film: Film,
        request: FileDubRequest,
        out: Path,
        progress: Progress,
        *,
        before_handover: Callable[[Path], None],
    ) -> FileDubResult:
        """Write the dub of `open_film(request)` to `out`, marked as machine-generated; the ledger is up to `before_handover`.

        Raises:
            DubmillError: words or faces are not in order.
        """
        metadata = {**carried_metadata(request.path), **self._marks(film.sha256, request.language)}
        dubbed = dub_film(
            film,
            self._words(request),
            self.film_job(request),
            out,
            metadata=metadata,
            progress=progress,
            quality=request.quality,
            has_label=request.has_label,
            duck_db=request.duck_db,
            store=request.store,
            before_handover=before_handover,
        )
        notes = (*_film_notes(film, dubbed.chunks, request), *dubbed.notes, *self._release_notes())
        return FileDubResult(notes, dubbed.cues)

    def dub_film_chunks(
        self,
        request: FileDubRequest,
        progress: Progress,
        *,
        is_wanted: Callable[[int, Chunk], bool],
    ) -> int:
        """Dub the chunks that `is_wanted` (number and chunk) into the request's store, without joining; returns their number.

        Raises:
            DubmillError: as `dub_film`.
        """
        assert request.store is not None, "without a store the dubs would be lost"
        film, job = self.open_film(request), self.film_job(request)
        plan = plan_film(film, self._words(request), job, request.store)
        pairs = list(zip(plan.chunks, plan.crops, strict=True))
        wanted = [pair for index, pair in enumerate(pairs) if is_wanted(index, pair[0])]
        chunks, crops = [chunk for chunk, _ in wanted], [crop for _, crop in wanted]
        dub_chunks(film, chunks, crops, job, request.store, progress)
        return len(wanted)

    def film_job(self, request: FileDubRequest) -> FilmJob:
        """What every chunk of the request's film is dubbed with."""
        return FilmJob(
            dubber=self.dubber,
            language=request.language,
            seed=request.seed,
            release=self.source.digest,
            masker=self.masker,
            face=request.face,
            speaker=request.speaker,
            picture=request.picture,
            voice=request.voice,
        )

    def open_film(self, request: FileDubRequest) -> Film:
        """The film of a request, after all checks that do not need the model.

        Raises:
            DubmillError: consent, language, media or ledger are not in order.
        """
        check_file_request(request)
        self.source.check_language(request.language)
        film = request.film or Film.open(
            request.path, self.source.size, limits=self.limits, tone_map=request.tone_map, track=request.track,
            background=request.background,
        )  # fmt: skip
        self.ledger.check_writable()
        return film

    def _words(self, request: FileDubRequest) -> Sequence[Cue] | Line:
        words = request.words
        return Line(language=request.language, text=words) if isinstance(words, str) else words

    def _marks(self, source_sha256: str, language: str) -> Mapping[str, str]:
        """The metadata that marks a dub as machine-generated."""
        source = self.source
        kind = "release" if source.is_released else "unreleased model"
        return {
            "comment": f"machine-generated dub by dubmill {__version__}, model {source.name} {source.version}, "
            f"{kind} sha256 {source.digest}, source sha256 {source_sha256}, language {language}"
        }

    def _release_notes(self) -> tuple[str, ...]:
        if self.source.is_released:
            return ()
        return (f"the adapter {self.source.name} was never released: nobody has measured how well it dubs",)


def _film_notes(film: Film, chunks: Sequence[Chunk], request: FileDubRequest) -> tuple[str, ...]:
    size, info = film.size, film.info
    num_frames = sum(chunk.fade_out[1] - chunk.fade_in[0] for chunk in chunks)
    notes = [
        f"{len(chunks)} chunk(s), {float(num_frames / size.frame_rate):.1f} of {info.seconds:.1f} s, are dubbed; "
        "the rest is unchanged",
    ]
    stored = info.picture
    notes += _NO_BACKGROUND if film.background is None and request.voice is None else []
    is_scaled = (stored.width, stored.height, info.frame_rate) != (size.width, size.height, size.frame_rate)
    if request.picture != KEEP and is_scaled:
        notes.append(
            f"the model's picture has {size.width}x{size.height} pixels and {float(size.frame_rate):g} frames a second; it was "
            f"scaled to its place in {stored.width}x{stored.height} and {float(info.frame_rate):g}"
        )
    if info.picture.is_interlaced:
        notes.append("the picture was interlaced, and is progressive now")
    if info.channels > film.channels:
        notes.append(f"{info.channels} channels of sound were mixed down to {film.channels}")
    if info.hdr:
        notes.append(f"the picture was converted from HDR ({info.hdr}) to standard range")
    return tuple(notes)


def carried_metadata(path: Path) -> dict[str, str]:
    """Returns the source's metadata, such as its title, that MP4 can hold; its comment is replaced by the dub's."""
    kept = set(media.METADATA_KEYS) - {"comment"}
    return {key: value for key, value in media.metadata(path).items() if key in kept}


def selftest_clip(release: Release) -> tuple[Clip, Line]:
    """The clip and the line of a release's self-test.

    Raises:
        InvalidArtifactError: the release has none.
    """
    line = release_info(release, "selftest")
    return Clip.from_bytes(release.file("selftest.clip").read_bytes()), Line(
        language=line["language"], text=line["text"]
    )
