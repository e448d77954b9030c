"""The caption of a puppet clip: one sentence with the speaker, the languages, the words, and where the language switches."""

from __future__ import annotations

from collections.abc import Sequence

from dubmill.nano.lexicon import LANGUAGE_NAMES
from dubmill.nano.world import Phrase


def caption(speaker: str, phrases: Sequence[Phrase]) -> str:
    """Returns the caption in which `speaker` (such as `A person`) says the phrases; neighbours in one language are joined."""
    joined = list(phrases[:1])
    for phrase in phrases[1:]:
        if phrase.language == joined[-1].language:
            joined[-1] = Phrase(phrase.language, joined[-1].words + phrase.words)
        else:
            joined.append(phrase)
    parts = [f'{LANGUAGE_NAMES[phrase.language]}, saying: "{" ".join(phrase.words)}"' for phrase in joined]
    return f"{speaker} is speaking " + ", then switches to ".join(parts)
