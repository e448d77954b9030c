"""Who speaks in each segment of a film, and whose face moves with it.

Speakers are those of the script, or clusters of voice embeddings. Faces are followed from shot to shot by their embeddings. A
speaker's face is the one whose mouth opens as the sound does, over all of that speaker's segments together; a segment that does
not show it is spoken off screen. Pure arithmetic but for `observe`.

Axes: F frames, N samples, E embedding, 4 box edges as x0, y0, x1, y1 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dubmill import media
from dubmill.artifacts.manifest import read_manifest
from dubmill.artifacts.store import Backbone
from dubmill.config.params import load
from dubmill.dubbing.longform import Film
from dubmill.dubbing.longform.crops import resized
from dubmill.dubbing.longform.film import Progress, SlidingWindow
from dubmill.dubbing.project.project import ProjectSettings
from dubmill.dubbing.project.table import Row
from dubmill.errors import UsageError
from dubmill.faces import NOBODY, FaceDetector, people_in
from dubmill.metrics.lipsync import correlation
from dubmill.metrics.scorers import SAMPLE_RATE_HZ, Scorers
from dubmill.worlds import World, world_of

MIN_SYNC = 0.5  # chosen: mean correlation of mouth and sound from which a face is a speaker's
CROP_FACES = 2.0  # side of the square that the scorers see, in face sizes
_FOUND = "speaker "  # begins the names of speakers that the script does not name
NEAR_SHARE = 0.08  # of the picture's width: faces of one speaker that are nearer have one place in the table


@dataclass(frozen=True)
class SeenFace:
    """A face in a segment: its place as a share of the width, its embedding, and how its mouth follows the sound (-1 to 1)."""

    place: float
    identity_E: np.ndarray
    sync: float


@dataclass(frozen=True)
class Observation:
    """What is heard and seen in a segment."""

    voice_E: np.ndarray
    faces: tuple[SeenFace, ...]


@dataclass(frozen=True)
class SpeakerTools:
    """The models that find who speaks."""

    world: World
    detector: FaceDetector
    scorers: Scorers


def open_tools(settings: ProjectSettings) -> SpeakerTools:
    """The detector and scorers of the project's backbone, as its params name them.

    Raises:
        UsageError: the extra `faces` is not installed, or a model is missing, with the reason.
    """
    world = world_of(Backbone(settings.backbone, read_manifest(settings.backbone)))
    scorers = world.scorers(load(settings.params, *settings.overlay_files).scorers)
    for question in ("voice", "identity", "mouth", "opening"):
        if question in scorers.missing:
            what = f"nobody's {question} can be measured ({scorers.missing[question]})"
            raise UsageError(what, where="dubmill film speakers", cure="fill in the columns speaker and face by hand")
    return SpeakerTools(world, world.face_detector(), scorers)


def observe(
    film: Film, rows: Sequence[Row], detector: FaceDetector, scorers: Scorers, progress: Progress
) -> list[Observation]:
    """The voice and the faces of every segment, in one reading of the film."""
    reader = film.overview_reader()
    blocks = media.sound(film.path, sample_rate_hz=SAMPLE_RATE_HZ, channels=1, track=film.info.track, has_picture=True)
    sound, found = SlidingWindow(blocks), []
    for index, row in enumerate(rows):
        first, last = (round(second * film.size.frame_rate) for second in (row.start_seconds, row.end_seconds))
        last = max(last, first + 1)
        frames_FHWC = reader.frames.window(first, last)
        audio_N = sound.window(film.sample_at(first, SAMPLE_RATE_HZ), film.sample_at(last, SAMPLE_RATE_HZ))[:, 0]
        faces = tuple(_seen_faces(film, frames_FHWC, audio_N, detector, scorers))
        found.append(Observation(scorers.voice(audio_N), faces))
        progress((index + 1) / len(rows))
    return found


def assign_speakers(
    rows: Sequence[Row], observations: Sequence[Observation], *, same_voice: float, same_face: float
) -> list[Row]:
    """The rows with speaker and face filled in where they were empty.

    `same_voice` and `same_face` are cosines from which two embeddings are taken for one person's.
    """
    speakers = _named_speakers(rows, observations, same_voice)
    identities = _clusters([face.identity_E for one in observations for face in one.faces], same_face)
    numbers = iter(identities)
    faces_by_row = [[(next(numbers), face) for face in one.faces] for one in observations]
    owners = _owners(speakers, faces_by_row)
    places: dict[str, list[float]] = {}
    filled = []
    for row, speaker, faces in zip(rows, speakers, faces_by_row, strict=True):
        own = [face.place for identity, face in faces if identity == owners.get(speaker, -1)]
        face = _place_name(own[0], places.setdefault(speaker, [])) if own else NOBODY
        filled.append(replace(row, speaker=row.speaker or speaker, face=row.face or face))
    return filled


def _seen_faces(
    film: Film, frames_FHWC: np.ndarray, audio_N: np.ndarray, detector: FaceDetector, scorers: Scorers
) -> list[SeenFace]:
    if not len(frames_FHWC):
        return []
    rate, (height, width) = float(film.size.frame_rate), frames_FHWC.shape[1:3]
    heard_F = scorers.speech_opening(audio_N, len(frames_FHWC), rate)
    seen = []
    for person in people_in(detector.detect(frames_FHWC), (height, width)):
        boxes_K4 = np.stack([face.box_4 for face in person.values()])
        crop_FHWC = _square(frames_FHWC, boxes_K4.mean(axis=0), film)
        sync = correlation(scorers.mouth(crop_FHWC)[:, 0], heard_F)
        place = float(boxes_K4[:, [0, 2]].mean() / width)
        seen.append(SeenFace(place, scorers.identity(crop_FHWC), sync))
    return seen


def _square(frames_FHWC: np.ndarray, box_4: np.ndarray, film: Film) -> np.ndarray:
    """The square around a face, inside the picture, at the height of the model's picture."""
    height, width = frames_FHWC.shape[1:3]
    x0, y0, x1, y1 = box_4
    side = min(height, width, round(CROP_FACES * float(np.sqrt((x1 - x0) * (y1 - y0)))))
    top = min(max(0, round((y0 + y1 - side) / 2)), height - side)
    left = min(max(0, round((x0 + x1 - side) / 2)), width - side)
    size = replace(film.size, width=film.size.height)
    return np.stack([resized(frame_HWC[top : top + side, left : left + side], size) for frame_HWC in frames_FHWC])


def _named_speakers(rows: Sequence[Row], observations: Sequence[Observation], same_voice: float) -> list[str]:
    """The speaker of each row: the script's, else the nearest cluster of voices, "speaker 1" and so on."""
    clusters = _clusters([one.voice_E for one in observations], same_voice)
    names = {-1: ""}
    for row, cluster in zip(rows, clusters, strict=True):
        if row.speaker:
            names.setdefault(cluster, row.speaker)
    for cluster in clusters:
        names.setdefault(cluster, f"{_FOUND}{1 + sum(name.startswith(_FOUND) for name in names.values())}")
    return [row.speaker or names[cluster] for row, cluster in zip(rows, clusters, strict=True)]


def _clusters(embeddings: Sequence[np.ndarray], same: float) -> list[int]:
    """The number of each embedding's cluster, from 0 in order of appearance, by average linkage up to a mean cosine of `same`.

    Embeddings that are zero or NaN, since nobody was heard or seen, are -1.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    numbers = [-1] * len(embeddings)
    known = [index for index, one_E in enumerate(embeddings) if np.isfinite(one_E).all() and one_E.any()]
    if not known:
        return numbers
    labels = np.ones(1, int)
    if len(known) > 1:
        tree = linkage(np.stack([embeddings[index] for index in known]), method="average", metric="cosine")
        labels = fcluster(tree, 1.0 - same, criterion="distance")
    order = list(dict.fromkeys(labels.tolist()))
    for index, label in zip(known, labels.tolist(), strict=True):
        numbers[index] = order.index(label)
    return numbers


def _owners(speakers: Sequence[str], faces_by_row: Sequence[Sequence[tuple[int, SeenFace]]]) -> dict[str, int]:
    """The face of each speaker, best pairs first; a speaker whose mouth is never seen to move has none.

    Speakers of the script never share a face; those found by voice may, since one voice can fall into two clusters.
    """
    scores: dict[tuple[str, int], list[float]] = {}
    for speaker, faces in zip(speakers, faces_by_row, strict=True):
        for identity, face in faces:
            scores.setdefault((speaker, identity), []).append(face.sync)
    means = {pair: float(np.nanmean(values)) for pair, values in scores.items() if np.isfinite(values).any()}
    owners: dict[str, int] = {}
    for (speaker, identity), mean in sorted(means.items(), key=lambda item: -item[1]):
        is_free = speaker.startswith(_FOUND) or identity not in owners.values()
        if mean >= MIN_SYNC and speaker not in owners and is_free:
            owners[speaker] = identity
    return owners


def _place_name(place: float, known: list[float]) -> str:
    """A place such as `25%`; the one that the speaker had before, where that is near."""
    near = next((other for other in known if abs(other - place) <= NEAR_SHARE), None)
    if near is None:
        known.append(place)
    return f"{round(100 * (place if near is None else near))}%"
