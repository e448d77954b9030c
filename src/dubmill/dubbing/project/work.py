"""What is done with a project: the state of its segments, dubs of single segments, and rendering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dubmill.dubbing.longform import Chunk, Film, plan_chunks
from dubmill.dubbing.longform.chunk_dubs import FilmJob, chunk_crops, chunk_mask, take_keys
from dubmill.dubbing.longform.crops import Crop
from dubmill.dubbing.longform.film import Progress
from dubmill.dubbing.project.project import FilmProject
from dubmill.dubbing.requests import FileDubRequest, FileDubResult
from dubmill.dubbing.service import DubbingService
from dubmill.errors import DubmillError
from dubmill.media.clips import Clip

NO_WORDS, TO_DUB, DUBBED, REFUSED = "no words", "to dub", "dubbed", "refused"


@dataclass(frozen=True)
class SegmentState:
    """One segment in one language: `state`, and a sentence on it where there is something to say."""

    id: str
    language: str
    state: str
    note: str = ""


@dataclass(frozen=True)
class ProjectState:
    """The segments' states, the number of chunks that are to be dubbed, and the seconds that takes where known."""

    segments: tuple[SegmentState, ...]
    num_to_dub: int
    seconds_left: float | None


@dataclass(frozen=True)
class ProjectWork:
    """A project with its film and the service of the model that dubs it into `languages`, all of them or some."""

    project: FilmProject
    film: Film
    service: DubbingService
    languages: tuple[str, ...]

    def state(self) -> ProjectState:
        """The state of every segment in the languages, without decoding the film or loading the model."""
        states: list[SegmentState] = []
        num_to_dub, keys = 0, set()
        shots = self.project.store.analysis(self.film).shots
        for language in self.languages:
            job = self.service.film_job(self.request(language))
            by_id = {}
            for chunk in self._chunks(language):
                state, note, key = self._chunk_state(chunk, job, shots)
                num_to_dub += state == TO_DUB
                keys.add(key)
                by_id |= dict.fromkeys(chunk.ids, (state, note))
            for row in self.project.rows:
                state, note = by_id.get(row.id, (NO_WORDS, ""))
                notes = [part for part in (note, row.targets[language].note) if part]
                states.append(SegmentState(row.id, language, state, "; ".join(notes)))
        seconds = self.project.store.take_seconds(keys)
        return ProjectState(tuple(states), num_to_dub, None if seconds is None else seconds * num_to_dub)

    def redo(self, name: str, seed: int | None, progress: Progress) -> tuple[FilmProject, int, int]:
        """Dub a segment again with another seed; returns the changed project, the seed, and the number of new dubs.

        The seed is that of all languages of the project. Segments that share a chunk with it get the same seed. Without `seed` it is one more than the last.

        Raises:
            UsageError: there is no such segment.
            DubmillError: see `DubbingService.dub_film_chunks`.
        """
        project, row = self.project, self.project.row(name)
        if seed is None:
            seed = (project.settings.seed if row.seed is None else row.seed) + 1
        together = {
            other
            for language in self.languages
            for chunk in self._chunks(language)
            if name in chunk.ids
            for other in chunk.ids
        }
        rows = [replace(row, seed=seed) for row in project.rows if row.id in together | {name}]
        project = project.with_rows(rows)
        project.save()
        changed = replace(self, project=project)
        return project, seed, changed.dub(self.languages, progress, lambda _, chunk: name in chunk.ids)

    def dub(
        self, languages: Sequence[str], progress: Progress, is_wanted: Callable[[int, Chunk], bool] = lambda *_: True
    ) -> int:
        """Make the dubs that are missing, without joining; `is_wanted` chooses by number and chunk. Returns how many are there.

        Raises:
            DubmillError: see `DubbingService.dub_film_chunks`.
        """
        languages = [tag for tag in languages if self.project.segments(tag)]
        total = 0
        for place, language in enumerate(languages):
            part = _part(progress, place, len(languages))
            total += self.service.dub_film_chunks(self.request(language), part, is_wanted=is_wanted)
        return total

    def render(self, language: str, progress: Progress) -> tuple[Path, FileDubResult]:
        """Dub what is missing in a language and join the film; returns its file. The caller holds the project's lock alone.

        Raises:
            DubmillError: see `DubbingService.dub_film`.
        """
        settings = self.project.settings
        out = self.project.folder / "renders" / f"{settings.film.stem}.{language}{settings.container}"
        out.parent.mkdir(exist_ok=True)
        self.project.remember_background()
        return out, self.service.dub_film(self.request(language), out, progress)

    def clean(self, *, removes: bool) -> list[int]:
        """Remove what neither the present table nor the last render of a language uses; returns the files' sizes in bytes.

        Without `removes` the files stay. No other process may work on the project, which has no other languages.
        """
        return self.project.store.clean(self.used_files(), removes=removes)

    def used_files(self) -> list[Path]:
        """The stored files that the present table uses in the languages; some may not be there yet."""
        store, film = self.project.store, self.film
        shots, needed = store.analysis(film).shots, [store.analysis_path(film)]
        for language in self.languages:
            job = self.service.film_job(self.request(language))
            for chunk in self._chunks(language):
                needed.append(store.faces_path(film, chunk, job.masker))
                with suppress(DubmillError):  # its faces or words are refused, so there is no dub of it
                    if place := self._place(chunk, job, shots):
                        key, crop = place
                        needed += [store.take(key), store.clip_path(film, chunk, crop)]
        return needed

    def request(self, language: str) -> FileDubRequest:
        """The request for the film in one language."""
        settings = self.project.settings
        return FileDubRequest(
            path=settings.film,
            words=self.project.segments(language),
            language=language,
            consent=settings.consent,
            seed=settings.seed,
            tone_map=settings.tone_map,
            has_label=settings.label,
            track=settings.track,
            face=settings.face,
            picture=settings.picture,
            quality=settings.quality,
            voice=settings.audio.get(language),
            duck_db=settings.duck_db,
            store=self.project.store,
            film=self.film,
        )

    def seconds_to_dub(self, segment: str = "") -> float:
        """Seconds of the chunks that a redo of a segment dubs, or without one of those that are missing, in the languages."""
        shots, seconds = self.project.store.analysis(self.film).shots, 0.0
        for language in self.languages:
            job = self.service.film_job(self.request(language))
            for chunk in self._chunks(language):
                is_meant = segment in chunk.ids if segment else self._chunk_state(chunk, job, shots)[0] == TO_DUB
                seconds += self._seconds(chunk) * is_meant
        return seconds

    def _seconds(self, chunk: Chunk) -> float:
        return self.film.seconds_at(chunk.last - chunk.first)

    def _chunks(self, language: str) -> list[Chunk]:
        segments = self.project.segments(language)
        if not segments:
            return []
        return plan_chunks(segments, self.project.store.analysis(self.film), self.film.size)

    def _chunk_state(self, chunk: Chunk, job: FilmJob, shots: Sequence[int]) -> tuple[str, str, str]:
        """The state of a chunk, what a person should know of its words, and the key of its dub, empty while unknown."""
        store = self.project.store
        try:
            note = job.dubber.check(job.line(chunk), self._seconds(chunk))
            place = self._place(chunk, job, shots)
        except DubmillError as error:
            return REFUSED, error.sentence, ""
        key = place[0] if place else ""
        return (DUBBED if key and store.take(key).is_file() else TO_DUB), note, key

    def _place(self, chunk: Chunk, job: FilmJob, shots: Sequence[int]) -> tuple[str, Crop] | None:
        """The key of a chunk's dub and its crop; None before its faces were detected.

        Raises:
            DubmillError: see `chunk_mask`.
        """
        store, film = self.project.store, self.film
        needs_frames = job.masker.needs_frames(chunk.face or job.face, job.picture)
        if needs_frames and not store.has_faces(film, chunk, job.masker):
            return None
        mask = chunk_mask(film, chunk, job, store, _never_read)
        crops = chunk_crops(film, [chunk], [mask], shots, job.picture)
        (key,) = take_keys(film, [chunk], crops, job)
        return key, crops[0]


def _never_read() -> Clip:
    raise AssertionError("the faces of this chunk are stored")


def _part(progress: Progress, place: int, count: int) -> Progress:
    return lambda share: progress((place + share) / count)
