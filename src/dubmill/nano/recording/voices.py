"""The speakers of the world, each a fixed mixture of Kokoro's voices with its own pitch and length of throat.

A Kokoro voice speaks the languages it was trained on, so a speaker of all four languages is mixed from one voice of its own
and `ff_siwis`, the French voice, which speaks the other three well too. The mixture is the same in every language: one
speaker is one voice everywhere. `formants` plays the sound faster or slower while its tempo and pitch are held, which
moves the resonances as a shorter or longer throat does. Which of these candidates ship was decided by a recogniser.
"""

from __future__ import annotations

from dataclasses import dataclass

BRIDGE = "ff_siwis"


@dataclass(frozen=True)
class Speaker:
    """`share` of the voice `own`, the rest of `BRIDGE`; mean pitch in Hz; resonances times `formants`."""

    own: str
    share: float
    pitch_hz: float
    formants: float


SPEAKERS: tuple[Speaker, ...] = (
    Speaker("am_adam", 0.4, 104, 0.87),
    Speaker("af_bella", 0.4, 192, 1.0),
    Speaker("am_puck", 0.4, 122, 0.92),
    Speaker("bf_emma", 0.4, 205, 1.04),
    Speaker("am_onyx", 0.4, 88, 0.84),
    Speaker("af_sky", 0.4, 228, 1.08),
    Speaker("bm_george", 0.4, 112, 0.9),
    Speaker("ef_dora", 0.4, 178, 0.97),
    Speaker("em_alex", 0.4, 132, 0.88),
    Speaker("ff_siwis", 1.0, 212, 1.0),
    Speaker("im_nicola", 0.4, 98, 0.94),
    Speaker("if_sara", 0.4, 245, 1.06),
    Speaker("am_fenrir", 0.4, 142, 0.86),
    Speaker("af_nova", 0.4, 170, 1.02),
    Speaker("pm_alex", 0.4, 118, 0.82),
    Speaker("pf_dora", 0.4, 198, 0.94),
    Speaker("bm_lewis", 0.4, 94, 0.89),
    Speaker("af_heart", 0.4, 262, 1.12),
    Speaker("am_michael", 0.4, 126, 0.96),
    Speaker("bf_isabella", 0.4, 184, 1.06),
    Speaker("hm_omega", 0.4, 136, 0.93),
    Speaker("af_sarah", 0.4, 216, 0.98),
    Speaker("am_liam", 0.4, 108, 0.98),
    Speaker("hf_alpha", 0.4, 236, 1.02),
    Speaker("am_echo", 0.4, 148, 0.9),
    Speaker("bf_lily", 0.4, 224, 1.1),
    Speaker("jm_kumo", 0.4, 100, 0.85),
    Speaker("zf_xiaoni", 0.4, 204, 1.1),
)
"""Candidates; their places are the voice numbers of captions."""
