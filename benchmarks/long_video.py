"""Does peak memory stay the same when a video is ten minutes long instead of ten seconds?

    python benchmarks/long_video.py [--side 64]

Each length is planned, dubbed by a stand-in that gives back what it is given, and joined, in a process of its own; prints
the peak resident memory of that process, and of the largest FFmpeg it started, as the ratio of the two lengths. A child
begins as a copy of its parent, so FFmpeg's figure is never below Python's: with small pictures it tells no more than that.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import cast

from dubmill import media
from dubmill.dubbing import longform
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.clip_size import ClipSize
from dubmill.faces import NO_DETECTION
from dubmill.media.clips import Clip
from dubmill.text.subtitles import Cue

SECONDS = (10, 600)
SIZE = ClipSize(num_frames=97, height=128, width=128, frame_rate=Fraction(24), sample_rate_hz=16000)


class Echo:
    """Stands in for the model."""

    def dub(self, clip: Clip, *, line: object, seed: int, progress: object = None, speaker: str = "") -> Clip:
        """The clip itself."""
        return clip

    def check(self, line: object, room_seconds: float) -> str:
        """Nothing to warn of."""
        return ""


def film(path: Path, seconds: int, side: int) -> None:
    """A test picture at 30000/1001 frames a second over a tone that pauses."""
    picture = f"testsrc=s={side}x{side}:r=30000/1001:d={seconds}"
    sound = f"aevalsrc=0.3*sin(2*PI*220*t)*lt(mod(t\\,5)\\,3):s=16000:d={seconds}"
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "pcm_s16le"]
    subprocess.run([media.executable(), "-v", "error", *inputs, *codecs, str(path)], check=True)


def dub(source: Path) -> dict[str, float]:
    """Dub `source`; the peak memory in MiB of this process and of the largest child, and the seconds it took."""
    started = time.monotonic()
    opened = longform.Film.open(source, SIZE, limits=media.Limits(max_seconds=3600.0), tone_map=False)
    cues = [Cue(at, at + 3.0, "words") for at in range(0, int(opened.info.seconds) - 3, 5)]
    job = longform.FilmJob(cast(ClipDubber, Echo()), "es", 0, "stand-in", NO_DETECTION, "")
    longform.dub_film(opened, cues, job, source.with_name("out.mp4"), metadata={}, progress=lambda share: None)
    kinds = {"python": resource.RUSAGE_SELF, "ffmpeg": resource.RUSAGE_CHILDREN}
    peaks = {name: resource.getrusage(kind).ru_maxrss / 1024 for name, kind in kinds.items()}
    return peaks | {"seconds": time.monotonic() - started}


def main() -> None:
    """Dub both lengths, each in its own process, and print their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--one", type=Path, help="dub this file only, and print its figures as JSON")
    given = parser.parse_args()
    if given.one:
        sys.stdout.write(json.dumps(dub(given.one)))
        return
    found = {}
    for seconds in SECONDS:
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "in.mov"
            film(source, seconds, given.side)
            command = [sys.executable, __file__, "--one", str(source)]
            found[seconds] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    short, long = (found[seconds] for seconds in SECONDS)
    for name in ("python", "ffmpeg"):
        ratio = long[name] / short[name]
        sys.stdout.write(
            f"peak memory of {name}, {SECONDS[1]} s / {SECONDS[0]} s of video: {ratio:.3f} ({long[name]:.0f} MiB)\n"
        )
    sys.stdout.write(f"{SECONDS[1] / long['seconds']:.1f} seconds of video a second\n")


if __name__ == "__main__":
    main()
