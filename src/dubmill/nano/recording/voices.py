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
    Speaker("am_adam", 0.3, 104, 0.87),
    Speaker("af_bella", 0.3, 192, 1.0),
    Speaker("am_puck", 0.3, 122, 0.92),
    Speaker("bf_emma", 0.3, 205, 1.04),
    Speaker("am_onyx", 0.3, 88, 0.84),
    Speaker("af_sky", 0.3, 228, 1.08),
    Speaker("bm_george", 0.3, 112, 0.9),
    Speaker("ef_dora", 0.3, 178, 0.97),
    Speaker("em_alex", 0.3, 132, 0.88),
    Speaker("ff_siwis", 1.0, 212, 1.0),
    Speaker("im_nicola", 0.3, 98, 0.94),
    Speaker("if_sara", 0.3, 245, 1.06),
    Speaker("am_fenrir", 0.3, 142, 0.86),
    Speaker("af_nova", 0.3, 170, 1.02),
    Speaker("pm_alex", 0.3, 118, 0.82),
    Speaker("pf_dora", 0.3, 198, 0.94),
    Speaker("bm_lewis", 0.3, 94, 0.89),
    Speaker("af_heart", 0.3, 262, 1.12),
    Speaker("am_michael", 0.3, 126, 0.96),
    Speaker("bf_isabella", 0.3, 184, 1.06),
    Speaker("hm_omega", 0.3, 136, 0.93),
    Speaker("af_sarah", 0.3, 216, 0.98),
    Speaker("am_liam", 0.3, 108, 0.98),
    Speaker("hf_alpha", 0.3, 236, 1.02),
    Speaker("am_echo", 0.3, 148, 0.9),
    Speaker("bf_lily", 0.3, 224, 1.1),
    Speaker("jm_kumo", 0.3, 100, 0.85),
    Speaker("zf_xiaoni", 0.3, 204, 1.1),
)
"""Candidates; their places are the voice numbers of captions."""
