"""Does a dubbed dialogue move the right face? Two puppets in one wide frame, with exact truth.

    python benchmarks/who_speaks.py [--dialogues 8] [--lines 24]

In every line one of two puppets speaks, or somebody off screen; the others' mouths are closed. Each line is a shot of its own, in which
the puppets may have changed sides. `dubmill film speakers` finds speakers and faces by nano's scorers; a stand-in dubs (it
inverts the picture, so that every pixel it touches shows). Printed are the shares of lines in which only the right half of
the picture changed, and in which the other half is bit-equal, without names in the script and with them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from dubmill import media
from dubmill.artifacts.store import Backbone
from dubmill.config import params
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.longform import Film, FilmJob, FilmStore, dub_chunks, join, plan_film
from dubmill.dubbing.longform.chunk_dubs import chunk_dubs
from dubmill.dubbing.project import Row, Target
from dubmill.dubbing.project.speakers import assign_speakers, observe
from dubmill.faces import Face, FaceMasker, ScorerFaceDetector
from dubmill.media.clips import Clip
from dubmill.nano import difficulty, face, world
from dubmill.nano.puppets import motion, neutral
from dubmill.nano.scorers import NanoScorers
from dubmill.worlds.materialize import materialize
from dubmill.worlds.nano import NanoWorld

ROOT = Path(__file__).parent.parent
SIDE, RATE = world.FRAME_SIZE, Fraction(world.FRAME_RATE)
SIZE = ClipSize(world.HALF_FRAMES, SIDE, SIDE, RATE, world.SAMPLE_RATE_HZ)
PAUSE_FRAMES = 5
LINE_FRAMES = world.HALF_FRAMES + PAUSE_FRAMES
HEAD = SIDE // 4  # pixels from the edge of a puppet's picture to its face
SOURCES = ("voices", "script")
OFF_SCREEN, OFF_SCREEN_SHARE = 2, 0.2


class SideBySide:
    """Finds puppets beside each other by nano's own scorer of one puppet."""

    jitter_frames = 0

    def __init__(self, scorers: NanoScorers) -> None:
        self._single = ScorerFaceDetector(scorers)

    def detect(self, frames_FHWC: np.ndarray) -> list[list[Face]]:
        """Two faces a frame."""
        found: list[list[Face]] = [[] for _ in frames_FHWC]
        for left in (0, SIDE):
            part = np.ascontiguousarray(frames_FHWC[:, :, left : left + SIDE])
            box_4 = np.array([left + HEAD, HEAD, left + SIDE - HEAD, SIDE - HEAD], np.float32)
            for faces, singles in zip(found, self._single.detect(part), strict=True):
                faces += [Face(box_4, single.mouth_4 + np.array([left, 0, left, 0], np.float32)) for single in singles]
        return found


class Inverter:
    """Stands in for the model: the picture's negative under the same sound."""

    def dub(self, clip: Clip, **how: Any) -> Clip:
        """The negative."""
        return replace(clip, frames_FHWC=255 - clip.frames_FHWC)

    def follow_voice(self, clip: Clip, voice_CN: np.ndarray, **how: Any) -> Clip:
        """As `dub`."""
        return self.dub(clip)

    def check(self, line: object, room_seconds: float) -> str:
        """Nothing to warn of."""
        return ""


@dataclass(frozen=True)
class Dialogue:
    """A film with its lines: who speaks (0, 1 or OFF_SCREEN), and which puppet is on the left."""

    film: Film
    speakers: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def rows(self) -> list[Row]:
        """Its segments, without speakers."""
        starts = [float(index * LINE_FRAMES / RATE) for index in range(len(self.speakers))]
        seconds = float(world.HALF_FRAMES / RATE)
        return [
            Row(f"s{index}", start, start + seconds, targets={"es": Target(f"line {index}")})
            for index, start in enumerate(starts)
        ]


def closed_mouth(seed: int, motion_seed: int) -> np.ndarray:
    """Frames (F, H, W, 3) of a puppet that moves and does not speak."""
    rng, times_F = np.random.default_rng(motion_seed), np.arange(world.HALF_FRAMES) / world.FRAME_RATE
    still = difficulty.turn(world.EASY, rng, times_F), difficulty.hand(world.EASY, rng, times_F)
    closed_F3 = np.tile(np.array([0, 0.5, 0], np.float32), (len(times_F), 1))
    moves = motion(rng, times_F, *still).still()
    return face.draw(neutral(world.puppet(seed)), moves, closed_F3, times_F / world.CLIP_SECONDS)


def puppet_seeds(index: int) -> list[int]:
    """Seeds of three puppets with different voices."""
    seeds: list[int] = []
    for seed in range(100 * index, 100 * index + 100):
        if world.puppet(seed).voice not in {world.puppet(other).voice for other in seeds}:
            seeds.append(seed)
    return seeds[:3]


def dialogue(path: Path, index: int, num_lines: int) -> Dialogue:
    """Writes a dialogue to `path`, losslessly."""
    rng, seeds = np.random.default_rng(index), puppet_seeds(index)
    speakers, lefts, frames, sounds = [], [], [], []
    for number in range(num_lines):
        speaker = OFF_SCREEN if rng.random() < OFF_SCREEN_SHARE else int(rng.integers(2))
        motion_seed = 1000 * index + number
        phrase = world.Phrase("en", world.random_words("en", rng))
        spoken = world.halves(world.film(world.puppet(seeds[speaker]), (phrase, phrase), motion_seed=motion_seed))[0]
        pictures = [closed_mouth(seed, motion_seed + 500 * place) for place, seed in enumerate(seeds[:2])]
        if speaker != OFF_SCREEN:
            pictures[speaker] = spoken.frames_FHWC
        left = int(rng.integers(2))
        both = np.concatenate([pictures[left], pictures[1 - left]], axis=2)
        frames += [both, np.repeat(both[-1:], PAUSE_FRAMES, axis=0)]
        num_samples = round(LINE_FRAMES / RATE * world.SAMPLE_RATE_HZ)
        sounds.append(np.pad(spoken.audio_N, (0, num_samples - len(spoken.audio_N))))
        speakers.append(speaker)
        lefts.append(left)
    clip = Clip(np.concatenate(frames), RATE, np.concatenate(sounds)[None], world.SAMPLE_RATE_HZ)
    path.write_bytes(media.lossless_bytes(clip))
    film = Film.open(path, SIZE, limits=media.Limits(max_seconds=3600.0), tone_map=False)
    return Dialogue(film, tuple(speakers), tuple(lefts))


def changed_halves(talk: Dialogue, rows: list[Row], masker: FaceMasker, folder: Path) -> list[tuple[bool, bool]]:
    """Whether a dub of `rows` changed any pixel of the left and of the right half, by line."""
    store, job = FilmStore(folder), FilmJob(cast(ClipDubber, Inverter()), "es", 0, "stand-in", masker, "")
    plan = plan_film(talk.film, [row.segment("es") for row in rows], job, store)
    takes = dub_chunks(talk.film, plan.chunks, plan.crops, job, store, lambda share: None)
    dubs = chunk_dubs(talk.film, plan.chunks, plan.masks, plan.crops, takes, job)
    layout = talk.film.info.layout
    changed = np.zeros((len(rows), 2), bool)
    whole = 0, talk.film.info.num_frames
    dubbed = join.picture(talk.film, dubs, layout, talk.film.source_frames(layout, *whole))
    pairs = zip(talk.film.source_frames(layout, *whole), dubbed, strict=True)
    for index, (before, after) in enumerate(pairs):
        for before_HW, after_HW in zip(layout.planes(before), layout.planes(after), strict=True):
            halves = np.split(before_HW != after_HW, 2, axis=1)
            changed[index // LINE_FRAMES] |= [half.any() for half in halves]
    return [(bool(left), bool(right)) for left, right in changed]


def judge(talk: Dialogue, rows: list[Row], masker: FaceMasker, folder: Path) -> np.ndarray:
    """For each line (L, 2): whether exactly the right face changed, and whether all other pixels are bit-equal."""
    verdicts = []
    changes = changed_halves(talk, rows, masker, folder)
    for speaker, left, change in zip(talk.speakers, talk.lefts, changes, strict=True):
        wanted = (speaker == left, speaker == 1 - left)
        is_right = change == wanted
        is_equal = not any(changed and not own for changed, own in zip(change, wanted, strict=True))
        verdicts.append((is_right, is_equal))
    return np.array(verdicts)


def measure(
    base: Backbone, num_dialogues: int, num_lines: int, folder: Path, sources: Sequence[str] = SOURCES
) -> dict[str, np.ndarray]:
    """The verdicts over all dialogues, by where the speakers' names come from."""
    nano = NanoWorld(base)
    scorers = nano.scorers()
    detector = SideBySide(scorers)
    same = {"same_voice": nano.same_voice_cosine, "same_face": nano.same_face_cosine}
    verdicts: dict[str, list[np.ndarray]] = {source: [] for source in sources}
    for index in range(num_dialogues):
        talk = dialogue(folder / f"{index}.nut", index, num_lines)
        observations = observe(talk.film, talk.rows, detector, scorers, lambda share: None)
        for source in verdicts:
            names = ["" if source == "voices" else f"person {speaker}" for speaker in talk.speakers]
            rows = [replace(row, speaker=name) for row, name in zip(talk.rows, names, strict=True)]
            rows = assign_speakers(rows, observations, **same)
            verdicts[source].append(judge(talk, rows, FaceMasker(detector, ""), folder / f"{index}-{source}"))
    return {source: np.concatenate(found) for source, found in verdicts.items()}


def main() -> None:
    """Render, assign, dub and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=8)
    parser.add_argument("--lines", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = materialize(params.load(ROOT / "params.yaml").backbone, Path(scratch) / "backbone")
        found = measure(base, options.dialogues, options.lines, Path(scratch))
    for source, verdicts_L2 in found.items():
        right, equal = verdicts_L2.sum(axis=0)
        sys.stdout.write(
            f"names by {source}: {right} of {len(verdicts_L2)} lines on the right face ({100 * right / len(verdicts_L2):.1f} %), "
            f"other pixels bit-equal in {equal}\n"
        )


if __name__ == "__main__":
    main()
