"""Does a ten-minute film stay in sync to its end when nano dubs it chunk by chunk?

    python benchmarks/puppet_film.py [--minutes 10] [--steps 4]

A puppet says English digits for one second in every four; nano's base dubs it into Spanish. The pauses are not dubbed; each has
a click and a flash at the same moment. Prints how many frames and samples the dub has more or fewer than the source, the
largest distance between click and flash, and the LSE offset of the dubbed chunks in the first and the last minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.artifacts.store import Backbone
from dubmill.config import params
from dubmill.dubbing import longform
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.dubber import Dubber
from dubmill.faces import NO_DETECTION
from dubmill.media.clips import Clip
from dubmill.metrics.lipsync import lip_sync
from dubmill.nano import world
from dubmill.text.subtitles import Cue
from dubmill.worlds.materialize import materialize
from dubmill.worlds.nano import NanoWorld

ROOT = Path(__file__).parent.parent
RATE, RATE_HZ = Fraction(world.FRAME_RATE), world.SAMPLE_RATE_HZ
CYCLE_FRAMES, FLASH_FRAME = 50, 40  # four seconds; in the middle of the pause
CYCLE_SAMPLES, CLICK_SAMPLE = round(CYCLE_FRAMES / RATE * RATE_HZ), round(FLASH_FRAME / RATE * RATE_HZ)
CLICK = 0.4


def cycles(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (F, H, W, 3) and sound (N,) of each four seconds: words, then a still with one click and one flash."""
    who = world.puppet(3)
    for index in range(count):
        rng = np.random.default_rng(index)
        first, second = (world.Phrase("en", world.random_words("en", rng)) for _ in range(2))
        half = world.halves(world.film(who, (first, second), motion_seed=index))[0]
        frames = np.concatenate([half.frames_FHWC, np.repeat(half.frames_FHWC[-1:], CYCLE_FRAMES, axis=0)])
        frames = frames[:CYCLE_FRAMES].copy()
        frames[FLASH_FRAME, :8, :8] = 255
        sound = np.zeros(CYCLE_SAMPLES, np.float32)
        sound[: len(half.audio_N)] = half.audio_N
        sound[CLICK_SAMPLE : CLICK_SAMPLE + 16] = CLICK
        yield frames, sound


def write(path: Path, count: int) -> list[Cue]:
    """The film at `path`, an MP4; its Spanish script."""
    frames, sounds = zip(*cycles(count), strict=True)
    film = Clip(np.concatenate(frames), RATE, np.concatenate(sounds)[None], RATE_HZ)
    path.write_bytes(media.mp4_bytes(film))
    cycle_seconds, half_seconds = float(CYCLE_FRAMES / RATE), float(world.HALF_FRAMES / RATE)
    rng = np.random.default_rng(0)
    return [
        Cue(index * cycle_seconds, index * cycle_seconds + half_seconds, " ".join(world.random_words("es", rng)))
        for index in range(count)
    ]


def dub(source: Path, cues: list[Cue], out: Path, base: Backbone, steps: int) -> None:
    """Dub the film at `source` by nano's base."""
    committed = params.load(ROOT / "params.yaml").dub.sampling
    dubber = Dubber.load(base, None, sampling=committed.model_copy(update={"num_steps": steps}))
    size = ClipSize(world.HALF_FRAMES, world.FRAME_SIZE, world.FRAME_SIZE, RATE, RATE_HZ)
    film = longform.Film.open(source, size, limits=media.Limits(max_seconds=7200.0), tone_map=False)
    job = longform.FilmJob(dubber, "es", 0, base.digest, NO_DETECTION, "")
    longform.dub_film(film, cues, job, out, metadata={}, progress=lambda share: None)


def drift(path: Path, count: int, base: Backbone) -> tuple[int, int, float, list[float]]:
    """Frames and samples; the largest distance in ms of a click from its flash; LSE offsets of each dubbed chunk."""
    info, scorers = media.probe(path, limits=media.Limits(max_seconds=7200.0)), NanoWorld(base).scorers()
    frames = media.frames(path, info, frame_rate=RATE, height=world.FRAME_SIZE, width=world.FRAME_SIZE, tone_map=False)
    sound = np.concatenate(list(media.sound(path, sample_rate_hz=RATE_HZ, channels=1)))[:, 0]
    gaps, offsets, num_frames = [], [], 0
    for index in range(count):
        seen = np.stack(list(islice(frames, CYCLE_FRAMES)))
        num_frames += len(seen)
        heard = sound[index * CYCLE_SAMPLES : (index + 1) * CYCLE_SAMPLES]
        pause = round(world.HALF_SECONDS * RATE_HZ) + 4000
        flash = int(seen[:, 1:7, 1:7].mean(axis=(1, 2, 3)).argmax())
        click = pause + int(np.abs(heard[pause:]).argmax())
        gaps.append(abs(click / RATE_HZ - float(flash / RATE)) * 1000)
        half = round(world.HALF_SECONDS * RATE_HZ)
        offsets.append(lip_sync(scorers.sync_distances(seen[: world.HALF_FRAMES], heard[:half])).offset_frames)
    return num_frames + sum(1 for _ in frames), len(sound), max(gaps), offsets


def main() -> None:
    """Render, dub and measure the film."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    count = round(given.minutes * 60 / float(CYCLE_FRAMES / RATE))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = materialize(params.load(ROOT / "params.yaml").backbone, folder / "backbone")
        cues = write(folder / "in.mp4", count)
        started = time.monotonic()
        dub(folder / "in.mp4", cues, folder / "out.mp4", base, given.steps)
        seconds = time.monotonic() - started
        frames, samples, gap_ms, offsets = drift(folder / "out.mp4", count, base)
    per_minute = round(60 / float(CYCLE_FRAMES / RATE))
    first, last = (np.abs(some).mean() for some in (offsets[:per_minute], offsets[-per_minute:]))
    sys.stdout.write(
        f"{given.minutes:g} min, {count} chunks, {seconds:.0f} s: {frames - count * CYCLE_FRAMES:+d} frames, "
        f"{samples - count * CYCLE_SAMPLES:+d} samples, click to flash at most {gap_ms:.1f} ms (a frame is "
        f"{1000 / float(RATE):.0f} ms)\nmean LSE offset of nano's dubs: first minute {first:.2f}, last {last:.2f} frames\n"
    )


if __name__ == "__main__":
    main()
