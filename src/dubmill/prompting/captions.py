"""The sentence that names who speaks which language, and the exact words."""

from __future__ import annotations

from dubmill.artifacts.rows import Line, Prompt
from dubmill.errors import UnsayableText
from dubmill.text.languages import language

ANYBODY = "A person"


def dub_caption(speaker: str, line: Line) -> str:
    """`<speaker> is speaking Spanish, saying: "uno tres seis"`, the caption that a dubbing adapter is trained and asked with.

    Raises:
        UnsayableText: the language is not in the table.
    """
    return f'{speaker or ANYBODY} is speaking {language(line.language).name}, saying: "{line.text}"'


def switch_caption(speaker: str, first: Line, second: Line) -> str:
    """`dub_caption` of the first half, going on to the second: in another language, or in the same one.

    Raises:
        UnsayableText: a language is not in the table.
    """
    turn = "goes on in" if first.language == second.language else "switches to"
    return f'{dub_caption(speaker, first)}, then {turn} {language(second.language).name}, saying: "{second.text}"'


def over_articulated(caption: str, prompt: Prompt) -> str:
    """One of the captions of `prompt`, told so that the mouth shapes every syllable (lip augmentation).

    The wording follows one reader's account of the paper: UNVERIFIED.

    Raises:
        UnsayableText: the prompt is of the nano world, whose captions know no manner of speaking.
    """
    if prompt.source == "grammar":
        raise UnsayableText(
            "prompts of the grammar have no words for an over-articulated way of speaking",
            where="inpaint.lip_augmentation_share",
            cure="set it to 0, or use prompts.source bank or llm on the real model",
        )
    return f"{caption} The speaker talks in an exaggerated, over-articulated way, and the mouth shapes every syllable clearly."
