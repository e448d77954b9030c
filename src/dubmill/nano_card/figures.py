"""Figures of puppet clips, by nano's scorers: pixels and waveforms in, one number per question out."""

from __future__ import annotations

from collections.abc import Sequence

from dubmill.clips import Clip
from dubmill.metrics.picture import outside_psnr_db
from dubmill.metrics.speech import hearing
from dubmill.nano.figures import clip_figures, truth_figures
from dubmill.nano.scorers import Scorers
from dubmill.nano.world import Film, Phrase

Row = dict[str, float]

MEANINGS = {
    "words": "share of asked words heard, in order (edit distance)",
    "language": "share of asked words in whose place the right language was heard",
    "lips_r": "mouth opening seen in the pixels against the opening that the clip's own sound implies (Pearson r)",
    "offset_within_one": "share of clips whose LSE offset is within one frame",
    "lse_c": "LSE-C: median less least distance of sight and sound over offsets",
    "lse_d": "LSE-D: least distance of sight and sound over offsets (lower is better)",
    "identity": "cosine of the face to the source clip's",
    "voice": "cosine of the voice to the source clip's",
    "outside_psnr_db": "likeness to the source clip outside the mouth box, in dB",
    "unmasked_psnr_db": "PSNR to the source clip of the tokens that inpainting leaves as they are, in dB",
    "psnr_db": "PSNR to the source clip, in dB",
    "mouth_psnr_db": "PSNR to the source clip inside the true mouth box, in dB",
    "eyes_psnr_db": "PSNR to the source clip inside the box around both eyes, in dB",
    "iris_chroma": "share of the colour of the eyes that is left (regression of made on true colour differences)",
    "blink_r": "brightness of the eye box over time against the source clip's (Pearson r)",
    "mouth_seen_r": "mouth opening read from the pixels against the truth (Pearson r)",
    "mouth_heard_r": "mouth opening read from the sound against the truth (Pearson r)",
    "old_lips_r": "mouth opening against the source's: old lip motion left (lower is better; the truth is the bound)",
}


def alone(judge: Scorers, clip: Clip, phrases: Sequence[Phrase]) -> Row:
    """Words, language, lips against the clip's own sound, and sync."""
    return clip_figures(judge, clip.frames_FHWC, hearing(clip), phrases)


def against_source(judge: Scorers, clip: Clip, source: Clip, boxes_F4: Sequence[Sequence[float]]) -> Row:
    """Is it the same puppet, in the same picture, with other lips?"""
    from dubmill.metrics.lipsync import correlation

    openings = [judge.mouth(one.frames_FHWC)[:, 0] for one in (clip, source)]
    return {
        "identity": float(judge.identity(clip.frames_FHWC) @ judge.identity(source.frames_FHWC)),
        "voice": float(judge.voice(hearing(clip)) @ judge.voice(hearing(source))),
        "outside_psnr_db": outside_psnr_db(clip.frames_FHWC, source.frames_FHWC, boxes_F4),
        "old_lips_r": correlation(*openings),
    }


def against_truth(judge: Scorers, clip: Clip, film: Film) -> Row:
    """The mouth as it is read, against what the world knows of it."""
    read = truth_figures(judge, clip.frames_FHWC, hearing(clip), film.mouth_opening_F, film.mouth_box_F4)
    return {name: read[name] for name in ("mouth_seen_r", "mouth_heard_r")}
