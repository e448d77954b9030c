"""Draws docs/images/film-frames.webp: a face of a 1080p film at pixel scale, before and after nano's base dubbed it.

python docs/draw_film_frames.py [OUT.webp]
"""

from __future__ import annotations

import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from dubmill import media
from dubmill.artifacts.store import Backbone
from dubmill.config import params
from dubmill.dubbing import longform
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.dubber import Dubber
from dubmill.faces import Face, FaceMasker
from dubmill.media.clips import Clip
from dubmill.nano import world
from dubmill.text.subtitles import Cue
from dubmill.worlds.materialize import materialize

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/film-frames.webp"
HEIGHT, WIDTH = 1080, 1920
SIDE, LEFT = HEIGHT, (WIDTH - HEIGHT) // 2  # the puppet is as high as the film, in its middle
SHOWN, SHOWN_TOP, SHOWN_LEFT = 420, 400, 430  # pixels of the film that are shown, as they are
HEAD = 0.36  # of `SIDE`: the wall behind the puppet has a fine pattern farther from its middle
RATE = Fraction(world.FRAME_RATE)


class Place:
    """Finds the puppet where it was put; YuNet does not detect drawn faces."""

    jitter_frames = 0

    def detect(self, frames_FHWC: np.ndarray) -> list[list[Face]]:
        """One face a frame."""
        scale = frames_FHWC.shape[1] / HEIGHT
        corner_4 = np.array([LEFT, 0, LEFT, 0], np.float32)
        box_4, mouth_4 = ((corner_4 + SIDE * np.array(part, np.float32)) * scale for part in (
            (0.25, 0.2, 0.75, 0.8), (0.38, 0.6, 0.62, 0.78),
        ))  # fmt: skip
        return [[Face(box_4, mouth_4)] for _ in frames_FHWC]


def film(path: Path) -> None:
    """Write the film: a puppet before a wall with a fine pattern, with grain over the whole picture."""
    phrase = world.Phrase("en", world.random_words("en", np.random.default_rng(0)))
    half = world.halves(world.film(world.puppet(3), (phrase, phrase), motion_seed=0))[0]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    is_wall_HW = np.hypot(x - WIDTH / 2, y - HEIGHT / 2) > HEAD * SIDE
    pattern_HW = 40 * np.sin(x) * np.sin(y) * is_wall_HW
    rng, frames = np.random.default_rng(1), []
    for frame_HWC in half.frames_FHWC:
        picture = np.full((HEIGHT, WIDTH, 3), 110.0)
        puppet = Image.fromarray(frame_HWC).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture[:, LEFT : LEFT + SIDE] = np.asarray(puppet)
        picture += pattern_HW[..., None]
        frames.append(np.clip(picture + rng.normal(0, 8, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8))
    path.write_bytes(media.mp4_bytes(Clip(np.stack(frames), RATE, half.audio_N[None], world.SAMPLE_RATE_HZ)))


def dub(source: Path, out: Path, base: Backbone, picture: str) -> None:
    """Dub the film by nano's base; `picture` as `--picture`."""
    dubber = Dubber.load(base, None, sampling=params.load(ROOT / "params.yaml").dub.sampling)
    size = ClipSize(world.HALF_FRAMES, world.FRAME_SIZE, world.FRAME_SIZE, RATE, world.SAMPLE_RATE_HZ)
    opened = longform.Film.open(source, size, limits=media.Limits(), tone_map=False)
    job = longform.FilmJob(dubber, "es", 0, base.digest, FaceMasker(Place(), ""), "", picture=picture)
    words = " ".join(world.random_words("es", np.random.default_rng(0)))
    cue = Cue(0.0, opened.info.seconds, words)
    longform.dub_film(opened, [cue], job, out, metadata={}, progress=lambda share: None)


def shown(path: Path, index: int) -> np.ndarray:
    """The part of one frame that is shown."""
    info = media.probe(path)
    frames = media.frames(path, info, frame_rate=RATE, height=HEIGHT, width=WIDTH)
    frame_HWC = [frame for frame, _ in zip(frames, range(index + 1), strict=False)][-1]
    return frame_HWC[SHOWN_TOP : SHOWN_TOP + SHOWN, SHOWN_LEFT : SHOWN_LEFT + SHOWN]


def main() -> None:
    """Film, dub twice, and draw three frames side by side."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = materialize(params.load(ROOT / "params.yaml").backbone, folder / "backbone")
        film(folder / "in.mp4")
        for picture in ("whole", "face"):
            dub(folder / "in.mp4", folder / f"{picture}.mp4", base, picture)
        frames = [shown(folder / name, 9) for name in ("in.mp4", "whole.mp4", "face.mp4")]
    gap = np.full((SHOWN, 8, 3), 255, np.uint8)
    sheet = np.concatenate([frames[0], gap, frames[1], gap, frames[2]], axis=1)
    Image.fromarray(sheet).save(sys.argv[1] if len(sys.argv) > 1 else PICTURE, quality=82, method=6)


if __name__ == "__main__":
    main()
