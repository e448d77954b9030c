"""What does a 1080p film cost beside its model: processor time, memory, offset of sound and picture, one changed word?

    python benchmarks/film_bounds.py [--minutes 1 10] [--height 1080] [--rate 24]

A stand-in dubs in no time. Each film has a flash and a click together every second; half of it is dubbed, in the whole picture,
at the film's own `--rate` of frames: a low one measures memory and offset of a long film in less time. Every phase runs in a process of its own; prints its processor time with that of
its FFmpegs for each second of film, peak memory of Python and of the largest FFmpeg, and the largest offset of click and flash
within each minute. Wall time is not measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from dubmill import media
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.longform import Film, FilmJob, FilmStore, dub_film
from dubmill.faces import NO_DETECTION
from dubmill.media.clips import Clip
from dubmill.text.subtitles import Cue

LIMITS = media.Limits(max_seconds=7200.0)
PERIOD_SECONDS, CUE_SECONDS = 8, 3.5
PHASES = ("dub", "word", "nothing")


class Echo:
    """Gives a clip back with a darker corner."""

    def dub(self, clip: Clip, **how: Any) -> Clip:
        """The clip with a corner at half brightness."""
        frames = clip.frames_FHWC.copy()
        frames[:, -64:, -64:] //= 2
        return replace(clip, frames_FHWC=frames)

    def follow_voice(self, clip: Clip, voice_CN: Any, **how: Any) -> Clip:
        """As `dub`."""
        return self.dub(clip)

    def check(self, line: object, room_seconds: float) -> str:
        """Nothing to warn of."""
        return ""


def size_at(rate: int) -> ClipSize:
    """Four seconds of the model's picture."""
    return ClipSize(num_frames=4 * rate + 1, height=352, width=640, frame_rate=Fraction(rate), sample_rate_hz=24000)


def make(path: Path, minutes: float, height: int, rate: int) -> None:
    """A moving test picture, scaled up, that flashes and clicks at every full second."""
    size, flash = f"{height * 16 // 9}:{height}", f"lt(mod(n\\,{rate})\\,{max(1, rate // 12)})"
    picture = f"testsrc2=s=480x270:r={rate},drawbox=h=ih/8:c=white:t=fill:enable={flash},scale={size}:flags=bilinear"
    sound = "aevalsrc=0.02*sin(2*PI*200*t)+0.7*sin(2*PI*1000*t)*lt(mod(t+1e-9\\,1)\\,0.02):s=48000"
    inputs = [part for graph in (picture, sound) for part in ("-f", "lavfi", "-i", graph)]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k"]
    seconds = str(60 * minutes)
    command = [media.executable(), "-v", "error", *inputs, "-t", seconds, "-threads", "1", *codecs, str(path)]
    subprocess.run(command, check=True)


def run_phase(folder: Path, phase: str, rate: int) -> dict[str, float]:
    """Dub the film in `folder`, in phase `word` with another word in its middle; the figures of this process."""
    film = Film.open(folder / "in.mp4", size_at(rate), limits=LIMITS, tone_map=False)
    starts = range(2, int(film.info.seconds) - PERIOD_SECONDS, PERIOD_SECONDS)
    cues = [Cue(at, at + CUE_SECONDS, f"line {at}") for at in starts]
    if phase != "dub":
        middle = len(cues) // 2
        cues[middle] = replace(cues[middle], text="another line")
    job = FilmJob(cast(ClipDubber, Echo()), "es", 0, "stand-in", NO_DETECTION, "")
    store = FilmStore(folder / "work", keeps_source=True)
    dub_film(film, cues, job, folder / "out.mp4", metadata={}, progress=lambda share: None, store=store)
    kinds = {"python": resource.RUSAGE_SELF, "ffmpeg": resource.RUSAGE_CHILDREN}
    usages = {name: resource.getrusage(kind) for name, kind in kinds.items()}
    peaks = {f"{name} MiB": usage.ru_maxrss / 1024 for name, usage in usages.items()}
    return peaks | {f"{name} s": usage.ru_utime + usage.ru_stime for name, usage in usages.items()}


def offsets(path: Path) -> list[float]:
    """The largest distance of a click from its flash in each minute, in milliseconds."""
    info = media.probe(path, limits=LIMITS)
    small = media.frames(path, info, frame_rate=info.frame_rate, height=36, width=64)
    is_lit_F = np.array([frame[:3].mean() > 200 for frame in small])
    sound_N = np.concatenate(list(media.sound(path, sample_rate_hz=16000, channels=1, has_picture=True)))[:, 0]
    loud = np.flatnonzero(np.abs(sound_N) > 0.15)
    clicks = loud[np.diff(loud, prepend=-16000) > 4000] / 16000
    flashes = np.flatnonzero(np.diff(is_lit_F.astype(int), prepend=0) == 1) / float(info.frame_rate)
    assert len(clicks) == len(flashes) == round(info.seconds), "a flash or a click is missing"
    return [float(np.abs(clicks - flashes)[start : start + 60].max() * 1000) for start in range(0, len(flashes), 60)]


def main() -> None:
    """Run all phases of all films, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--rate", type=int, default=24)
    parser.add_argument("--phase", nargs=2, metavar=("FOLDER", "PHASE"), help="run one phase, and print JSON")
    options = parser.parse_args()
    if options.phase:
        sys.stdout.write(json.dumps(run_phase(Path(options.phase[0]), options.phase[1], options.rate)))
        return
    for minutes in options.minutes:
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch) / "in.mp4", minutes, options.height, options.rate)
            for phase in PHASES:
                command = [sys.executable, __file__, "--rate", str(options.rate), "--phase", scratch, phase]
                found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                seconds = found["python s"] + found["ffmpeg s"]
                sys.stdout.write(
                    f"{minutes:g} min, {phase}: {seconds:.1f} s of processor time, {seconds / 60 / minutes:.3f} for each second; "
                    + ", ".join(f"{name} {value:.0f}" for name, value in found.items())
                    + "\n"
                )
                sys.stdout.flush()
            found_offsets = ", ".join(f"{offset_ms:.1f}" for offset_ms in offsets(Path(scratch) / "out.mp4"))
            sys.stdout.write(f"{minutes:g} min: largest offset in each minute, in ms: {found_offsets}\n")


if __name__ == "__main__":
    main()
