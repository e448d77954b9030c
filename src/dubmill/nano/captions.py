"""The one sentence that tells a clip: who speaks, which language, which words, and where the language switches."""

from __future__ import annotations

from collections.abc import Sequence

from dubmill.nano.lexicon import LANGUAGE_NAMES
from dubmill.nano.world import Phrase


def caption(speaker: str, phrases: Sequence[Phrase]) -> str:
    """`speaker` (for example `A person`) saying the phrases; neighbours of one language are told as one."""
    spoken = list(phrases[:1])
    for phrase in phrases[1:]:
        if phrase.language == spoken[-1].language:
            spoken[-1] = Phrase(phrase.language, spoken[-1].words + phrase.words)
        else:
            spoken.append(phrase)
    told = [f'{LANGUAGE_NAMES[phrase.language]}, saying: "{" ".join(phrase.words)}"' for phrase in spoken]
    return f"{speaker} is speaking " + ", then switches to ".join(told)
