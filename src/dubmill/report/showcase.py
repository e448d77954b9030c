"""One held-out pair as the report shows it: the source, the dub of every method, and the true dub."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Literal

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.metrics import Observation
from dubmill.metrics.scorers import SAMPLE_RATE_HZ
from dubmill.metrics.speech import scorer_audio
from dubmill.report.stills import contact_sheet, data_uri, poster, spectrogram
from dubmill.text.spelling import spelling, words_of

Modality = Literal["picture", "sound"]
TITLES = {
    "source": "source",
    "adapter": "dub by the adapter",
    "base": "dub by the base without adapter",
    "cascade": "cascade: new speech, unchanged picture",
    "truth": "true dub: the same clip rendered in the other language",
}


@dataclass(frozen=True)
class ShowcaseClip:
    """One clip with its observation; it should say `line`."""

    key: str  # source | a method | truth
    line: Line
    mp4: bytes
    observation: Observation
    mouth_boxes_F4: np.ndarray

    @property
    def title(self) -> str:
        """Returns the title on the page."""
        return TITLES.get(self.key, self.key)

    @property
    def colour(self) -> str:
        """Returns the name of its CSS variable."""
        return {"truth": "oracle"}.get(self.key, self.key if self.key in TITLES else "other")

    @cached_property
    def recognised(self) -> list[tuple[str, str, bool]]:
        """Returns (word, language, whether it is right) of every recognised word."""
        requested, words = words_of(self.line.text, self.line.language), self.observation.words or []
        matcher = SequenceMatcher(None, requested, [spelling(word) for _, word in words], autojunk=False)
        right = {at for block in matcher.get_matching_blocks() for at in range(block.b, block.b + block.size)}
        return [(word, language, at in right) for at, (language, word) in enumerate(words)]

    @cached_property
    def video(self) -> str:
        """Returns the MP4 as a data URI."""
        return data_uri(self.mp4, "video/mp4")

    @cached_property
    def captions(self) -> str:
        """Returns WebVTT with the words that the clip should say, as a data URI."""
        seconds = self.observation.clip.seconds
        text = f"WEBVTT\n\n00:00.000 --> {int(seconds // 60):02d}:{seconds % 60:06.3f}\n{self.line.text}\n"
        return "data:text/vtt;base64," + base64.b64encode(text.encode()).decode()

    @cached_property
    def poster(self) -> str:
        """Returns the middle frame as a data URI."""
        return poster(self.observation.clip)

    @cached_property
    def sheet(self) -> str:
        """Returns frames in a row over mouth close-ups, as a data URI."""
        return contact_sheet(self.observation.clip, self.mouth_boxes_F4)

    @cached_property
    def spectrogram(self) -> str:
        """Returns the spectrogram on the time axis of the frames, as a data URI."""
        return spectrogram(scorer_audio(self.observation.clip), SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class ShowcasePair:
    """All clips of one pair, and its rank among the held-out pairs."""

    pair_id: str
    rank: int  # 1: the adapter's best dub
    num_ranked: int
    clips: list[ShowcaseClip]  # source, dubs, truth where there is one

    @property
    def source(self) -> ShowcaseClip:
        """Returns the clip to be dubbed."""
        return self.clips[0]

    @property
    def requested(self) -> Line:
        """Returns the words that every dub should say."""
        return self.clips[-1].line

    def curve(self, clip: ShowcaseClip, modality: Modality) -> str:
        """Returns SVG points of the mouth opening in picture or sound, in 1000 x 100; one scale for all clips."""
        tracks = [_track(each, modality) for each in self.clips]
        top = max((float(np.nanmax(track)) for track in tracks if np.isfinite(track).any()), default=1.0)
        return _points(_track(clip, modality) / max(top, 1e-6))


def _track(clip: ShowcaseClip, modality: Modality) -> np.ndarray:
    openings = {"picture": clip.observation.opening_F, "sound": clip.observation.speech_opening_F}
    return np.asarray(openings[modality], dtype=np.float64)


def _points(track_F: np.ndarray) -> str:
    """Returns the track as polyline points, one at the middle of each frame that has a mouth."""
    width = 1000 / max(1, len(track_F))
    known = [(at, value) for at, value in enumerate(track_F) if np.isfinite(value)]
    return " ".join(f"{(at + 0.5) * width:.0f},{96 - 90 * min(1.0, max(0.0, value)):.0f}" for at, value in known)


def spread_ranks(num_ranked: int, num_shown: int) -> list[int]:
    """Returns evenly spaced ranks from 1 to `num_ranked`; the best and the worst are among them."""
    return sorted({int(rank) for rank in np.linspace(1, num_ranked, min(num_shown, num_ranked)).round()})


def ranked(values: Sequence[tuple[str, Sequence[float]]]) -> list[str]:
    """Returns ids from best to worst by their values, the first value first (higher is better, NaN is worst)."""
    return [
        name for name, _ in sorted(values, key=lambda item: [-value if value == value else np.inf for value in item[1]])
    ]
