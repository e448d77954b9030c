"""One held-out clip in all its takes: source, every method, and the true dub."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.metrics import Observation
from dubmill.metrics.scorers import SAMPLE_RATE_HZ
from dubmill.metrics.speech import normalised, scorer_audio
from dubmill.report.stills import contact_sheet, data_uri, poster, spectrogram

TITLES = {
    "source": "source",
    "adapter": "dub by the adapter",
    "base": "dub by the base alone",
    "cascade": "cascade: new speech, old picture",
    "truth": "truth: the same take in the other language",
}


@dataclass(frozen=True)
class Take:
    """One clip as it was seen and heard; `line` is what it should say."""

    key: str  # source | a method | truth
    line: Line
    mp4: bytes
    seen: Observation
    mouth_boxes_F4: np.ndarray

    @property
    def title(self) -> str:
        """What it is, for a person."""
        return TITLES.get(self.key, self.key)

    @property
    def colour(self) -> str:
        """The name of its CSS variable."""
        return {"truth": "oracle"}.get(self.key, self.key if self.key in TITLES else "other")

    @cached_property
    def heard(self) -> list[tuple[str, str, bool]]:
        """(word, language, whether it was asked for at this place) of what was recognised."""
        asked = [normalised(word) for word in self.line.text.split()]
        matcher = SequenceMatcher(None, asked, [normalised(word) for _, word in self.seen.words], autojunk=False)
        right = {at for block in matcher.get_matching_blocks() for at in range(block.b, block.b + block.size)}
        return [(word, language, at in right) for at, (language, word) in enumerate(self.seen.words)]

    @cached_property
    def video(self) -> str:
        """The MP4 as a data URI."""
        return data_uri(self.mp4, "video/mp4")

    @cached_property
    def captions(self) -> str:
        """WebVTT with the words that the clip should say, as a data URI."""
        seconds = self.seen.clip.seconds
        text = f"WEBVTT\n\n00:00.000 --> {int(seconds // 60):02d}:{seconds % 60:06.3f}\n{self.line.text}\n"
        return "data:text/vtt;base64," + base64.b64encode(text.encode()).decode()

    @cached_property
    def poster(self) -> str:
        """The middle frame."""
        return poster(self.seen.clip)

    @cached_property
    def sheet(self) -> str:
        """Frames over mouths."""
        return contact_sheet(self.seen.clip, self.mouth_boxes_F4)

    @cached_property
    def spectrogram(self) -> str:
        """What is heard, on the strip's time axis."""
        return spectrogram(scorer_audio(self.seen.clip), SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class Show:
    """All takes of one pair, and where it stands among the others."""

    pair_id: str
    rank: int  # 1 is the clip that the adapter did best
    num_ranked: int
    takes: list[Take]

    @property
    def source(self) -> Take:
        """The clip that was to be dubbed."""
        return self.takes[0]

    @property
    def asked(self) -> Line:
        """The words that every dub should say."""
        return self.takes[-1].line

    def curve(self, take: Take, which: str) -> str:
        """SVG points of the mouth opening, `seen` or `heard`, in a box of 1000 x 100; one scale for all takes."""
        tracks = [_track(one, which) for one in self.takes]
        top = max((float(np.nanmax(track)) for track in tracks if np.isfinite(track).any()), default=1.0)
        return _points(_track(take, which) / max(top, 1e-6))


def _track(take: Take, which: str) -> np.ndarray:
    return np.asarray(take.seen.opening_F if which == "seen" else take.seen.speech_opening_F, dtype=np.float64)


def _points(track_F: np.ndarray) -> str:
    """The track as polyline points, each over the middle of its frame; frames without a mouth are left out."""
    width = 1000 / max(1, len(track_F))
    known = [(at, value) for at, value in enumerate(track_F) if np.isfinite(value)]
    return " ".join(f"{(at + 0.5) * width:.0f},{96 - 90 * min(1.0, max(0.0, value)):.0f}" for at, value in known)


def spread_ranks(num_ranked: int, num_shown: int) -> list[int]:
    """Ranks from 1 to `num_ranked`, evenly spaced, the best and the worst among them."""
    return sorted({int(rank) for rank in np.linspace(1, num_ranked, min(num_shown, num_ranked)).round()})


def ranked(values: Sequence[tuple[str, Sequence[float]]]) -> list[str]:
    """Ids from best to worst by their values in order of weight (higher is better, NaN worst); ties keep their order."""
    return [
        name for name, _ in sorted(values, key=lambda one: [-value if value == value else np.inf for value in one[1]])
    ]
