"""The figures of the card: those of `dubmill.metrics.METRICS`, and some that need the ground truth of nano's world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dubmill.artifacts.rows import Line
from dubmill.metrics import METRICS, Observation, own_figures, paired_figures
from dubmill.metrics.lipsync import correlation
from dubmill.nano.world import Phrase, PuppetClip

Row = dict[str, float]
"""Figures of one clip by name; the entry PUPPET is the seed of its puppet."""
PUPPET = "puppet"

MEANINGS = {
    **{name: f"{metric.description} ({metric.better} is better)" for name, metric in METRICS.items()},
    "offset_within_one": "share of clips whose LSE offset is at most one frame",
    "unmasked_psnr_db": "PSNR against the source clip in the tokens that inpainting keeps, in dB",
    "psnr_db": "PSNR against the source clip, in dB",
    "mouth_psnr_db": "PSNR against the source clip inside the true mouth box, in dB",
    "eyes_psnr_db": "PSNR against the source clip inside the true boxes of both eyes, in dB",
    "iris_chroma": "colour of the eyes against the source's (1 is all of it)",
    "blink_r": "brightness of the eyes over time against the source's (Pearson r)",
    "mouth_seen_r": "mouth opening read from the picture against the true opening (Pearson r)",
    "mouth_heard_r": "mouth opening implied by the sound against the true opening (Pearson r)",
}


def lines_of(phrases: Sequence[Phrase]) -> list[Line]:
    """Returns one line per phrase."""
    return [Line(language=phrase.language, text=" ".join(phrase.words)) for phrase in phrases]


def own_row(observation: Observation, lines: Sequence[Line]) -> Row:
    """Returns the figures of a clip that need no other clip; it should say `lines`."""
    figures = own_figures(observation, *lines)
    return {**figures, "offset_within_one": float(figures["sync_offset_frames"] <= 1)}


def source_row(observation: Observation, source: Observation, mouth_boxes_F4: np.ndarray) -> Row:
    """Returns the figures of a clip against its source; the boxes are the source's, in pixels."""
    return paired_figures(observation, source, mouth_boxes_F4)


def truth_row(observation: Observation, film: PuppetClip) -> Row:
    """Returns how well the mouth that the scorers read agrees with the true mouth of `film`."""
    return {
        "mouth_seen_r": correlation(observation.opening_F, film.mouth_opening_F),
        "mouth_heard_r": correlation(observation.speech_opening_F, film.mouth_opening_F),
    }
