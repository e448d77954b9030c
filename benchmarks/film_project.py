"""What does one changed word of a film cost, and does a film that is killed at random end with the same bytes?

    python benchmarks/film_project.py [--minutes 10] [--chunk-seconds 5] [--kills 20] [--shards 8]

A stand-in takes `--chunk-seconds` for a chunk, since the model does not matter here. Prints how often it was called for one changed
word and the seconds of that by the seconds of a chunk, without joining; then kills a shorter film `--kills` times at
random moments, renders it to its end, does the same in shards of random order, and compares all takes and the film
with those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from dubmill import media
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.consent import ConsentLedger
from dubmill.dubbing.longform import Film
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.project import FilmProject, ProjectSettings, Row, Target
from dubmill.dubbing.project.project import locked
from dubmill.dubbing.project.work import ProjectWork
from dubmill.dubbing.service import DubbingService
from dubmill.faces import NO_DETECTION
from dubmill.media.clips import Clip

SIZE = ClipSize(num_frames=97, height=128, width=128, frame_rate=Fraction(24), sample_rate_hz=16000)
LIMITS = media.Limits(max_seconds=24 * 3600.0)
KILLED_MINUTES, KILLED_CHUNK_SECONDS = 1.0, 0.2
CUE_SECONDS, PERIOD_SECONDS = 3.5, 5.0


class StandIn:
    """Gives a clip back, half as loud, after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.num_calls = seconds, 0

    def dub(self, clip: Clip, **how: Any) -> Clip:
        """The clip under its own sound, half as loud."""
        self.num_calls += 1
        time.sleep(self.seconds)
        return clip.with_audio(clip.audio_CN / 2)

    def follow_voice(self, clip: Clip, voice_CN: Any, **how: Any) -> Clip:
        """As `dub`."""
        return self.dub(clip)

    def check(self, line: object, room_seconds: float) -> str:
        """Nothing to warn of."""
        return ""


def opened(folder: Path, dubber: StandIn) -> ProjectWork:
    """The project in `folder` with a stand-in for its model."""
    project = FilmProject.open(folder)
    source = ModelSource(
        name="stand-in", version="1", digest="stand-in", adapter=folder, backbone="", size=SIZE, sampling={},
        strength=1.0, languages=(), is_released=False,
    )  # fmt: skip
    service = DubbingService(
        source, cast(ClipDubber, dubber), NO_DETECTION, ConsentLedger(folder.parent / "consent.jsonl"), LIMITS
    )
    return ProjectWork(project, project.film(SIZE), service, ("es",))


def make(folder: Path, minutes: float) -> float:
    """A project of a film with a line every five seconds; the seconds that `FilmProject.create` and the first reading took."""
    path = folder.with_suffix(".mov")
    picture, sound = "testsrc=s=64x64:r=24", "aevalsrc=0.3*sin(2*PI*220*t)*lt(mod(t\\,5)\\,3):s=16000"
    inputs = [part for graph in (picture, sound) for part in ("-f", "lavfi", "-i", f"{graph}:d={60 * minutes}")]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "pcm_s16le"]
    if not path.is_file():
        subprocess.run([media.executable(), "-v", "error", *inputs, *codecs, str(path)], check=True)
    count = int(60 * minutes / PERIOD_SECONDS)
    rows = [
        Row(f"s{n}", n * PERIOD_SECONDS, n * PERIOD_SECONDS + CUE_SECONDS, targets={"es": Target(f"line {n}")})
        for n in range(count)
    ]
    nowhere = Path("stand-in")
    settings = ProjectSettings(
        film=path, source_language="en", languages=("es",), consent="Ana Ruiz, the speaker, agrees", release=nowhere,
        adapter=None, params=nowhere, overlay=(), backbone=nowhere, seed=0, tone_map=False, track=None, face="",
        picture="face", quality=None, container=".mp4",
    )  # fmt: skip
    started = time.monotonic()
    FilmProject.create(folder, settings, rows, Film.open(path, SIZE, limits=LIMITS, tone_map=False))
    return time.monotonic() - started


def render(folder: Path, dubber: StandIn) -> None:
    """Render the project as `dubmill film render` does."""
    with locked(folder):
        work = opened(folder, dubber)
        work.project.store.sweep()
        work.render("es", lambda share: None)


def measure_change(folder: Path, minutes: float, chunk_seconds: float) -> str:
    """A sentence on one changed word."""
    made_seconds = make(folder, minutes)
    fast = StandIn(0.0)
    count = opened(folder, fast).dub(["es"], lambda share: None)
    before = contents(folder / "work" / "takes")
    slow = StandIn(chunk_seconds)
    started = time.monotonic()
    work = opened(folder, slow)
    row = work.project.rows[len(work.project.rows) // 2]
    project = work.project.with_rows([replace(row, targets={"es": Target("another line")})])
    project.save()
    opened(folder, slow).dub(["es"], lambda share: None)
    seconds = time.monotonic() - started
    after = contents(folder / "work" / "takes")
    is_same = all(after[name] == data for name, data in before.items())
    return (
        f"{minutes:g} min, {count} chunks, made in {made_seconds:.0f} s: one changed word calls the model {slow.num_calls} time(s) "
        f"and takes {seconds:.2f} s, {seconds / chunk_seconds:.2f} chunks of {chunk_seconds:g} s; other takes keep their "
        f"bytes: {is_same}\n"
    )


def kill_at_random(folder: Path, kills: int, rng: random.Random) -> int:
    """Kill renders of `folder` at random moments; the number that were running when they were killed."""
    num_running = 0
    for _ in range(kills):
        child = subprocess.Popen([sys.executable, __file__, "--render", str(folder)], stderr=subprocess.DEVNULL)
        try:
            child.wait(timeout=rng.uniform(0.5, 12.0))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            num_running += 1
            child.wait()
    return num_running


def contents(folder: Path) -> dict[str, bytes]:
    """The takes and films in a folder by name."""
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in (".nut", ".mp4")}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--chunk-seconds", type=float, default=5.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--render", type=Path, help="render this project only")
    options = parser.parse_args()
    if options.render:
        render(options.render, StandIn(KILLED_CHUNK_SECONDS))
        return
    rng = random.Random(13)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sys.stdout.write(measure_change(folder / "long", options.minutes, options.chunk_seconds))
        results = {}
        (folder / "film").mkdir()
        for kind in ("whole", "killed", "shards"):
            project = folder / "film" / "project"
            make(project, KILLED_MINUTES)
            if kind == "killed":
                num_running = kill_at_random(project, options.kills, rng)
            if kind == "shards":
                for shard in rng.sample(range(options.shards), options.shards):
                    opened(project, StandIn(0.0)).dub(
                        ["es"], lambda share: None, lambda index, _, shard=shard: index % options.shards == shard
                    )
            render(project, StandIn(0.0))
            results[kind] = contents(project / "work" / "takes") | contents(project / "renders")
            project.rename(folder / kind)
    sys.stdout.write(
        f"{len(results['whole']) - 1} chunks, killed {options.kills} times, {num_running} of them at work: same bytes "
        f"{results['killed'] == results['whole']}; {options.shards} shards in random order: same bytes {results['shards'] == results['whole']}\n"
    )


if __name__ == "__main__":
    main()
