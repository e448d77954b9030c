"""A segment of a film: a cue with who says it, whose face moves with it, and a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dubmill.text.subtitles import Cue


@dataclass(frozen=True)
class Segment(Cue):
    """A cue of a film.

    Attributes:
        id: names it for a person; empty: it has no name.
        face: as in `faces.check_face_choice`; empty: the face that is chosen for the whole film.
        seed: of its dub; None: the seed of the whole film.
        recording: of its words, which begins with the segment; None: the film's recorded voice, or the model speaks.
    """

    id: str = ""
    face: str = ""
    seed: int | None = None
    recording: Path | None = None

    @property
    def voice(self) -> tuple[str, str, bool]:
        """Who speaks, whose face moves, and whether it is recorded: segments of different voices are not dubbed together."""
        return self.speaker, self.face, self.recording is not None


def segments_of(cues: Sequence[Cue]) -> list[Segment]:
    """The cues with words as segments, in order of time."""
    segments = [
        cue if isinstance(cue, Segment) else Segment(cue.start_seconds, cue.end_seconds, cue.text, cue.speaker)
        for cue in cues
        if cue.text.strip()
    ]
    return sorted(segments, key=lambda segment: segment.start_seconds)
