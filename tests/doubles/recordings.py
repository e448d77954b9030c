"""A folder of recordings with its manifest: puppets of nano's world, filmed to MP4."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

from dubmill import media
from dubmill.media.clips import Clip
from dubmill.nano import world

ENGLISH, SPANISH = ("one two three", "four five six"), ("uno dos tres", "cuatro cinco seis")
LANGUAGES = {ENGLISH: "en", SPANISH: "es"}
COLUMNS = ("video", "language", "text", "speaker", "consent", "content", "split", "dub_language", "dub_text")


def film(path: Path, texts: tuple[str, str], *, seed: int = 5, is_half: bool = False) -> None:
    """Write a puppet that says both texts, or the first alone, in a clip of half the length."""
    phrases = [world.Phrase(LANGUAGES[texts], tuple(text.split())) for text in texts]
    whole = world.film(world.puppet(seed), (phrases[0], phrases[1]), motion_seed=seed)
    shown = world.halves(whole)[0] if is_half else whole
    clip = Clip(shown.frames_FHWC, Fraction(world.FRAME_RATE), shown.audio_N[None], world.SAMPLE_RATE_HZ)
    path.write_bytes(media.mp4_bytes(clip))


def manifest(folder: Path, rows: list[dict[str, str]]) -> Path:
    """Write the manifest of `rows`; columns that a row lacks are empty."""
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def row(video: str, **changes: str) -> dict[str, str]:
    """A line of the manifest that is in order, with `changes`."""
    line = {
        "video": video,
        "language": "en",
        "text": " | ".join(ENGLISH),
        "speaker": "Ana, a woman",
        "consent": "Ana agrees to be dubbed",
        "dub_language": "es",
        "dub_text": " | ".join(SPANISH),
    }
    return line | changes
