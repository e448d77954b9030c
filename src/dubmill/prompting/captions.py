"""Captions that name the speaker and the language and quote the exact words."""

from __future__ import annotations

from dubmill.artifacts.rows import Line, Prompt
from dubmill.errors import UnsupportedTextError
from dubmill.text.languages import language
from dubmill.text.speakers import ANYBODY


def dub_caption(speaker: str, line: Line) -> str:
    """Returns `<speaker> is speaking Spanish, saying: "uno tres seis"`, the caption of training and of inference.

    Raises:
        UnsupportedTextError: the language is not in the table.
    """
    return f'{speaker or ANYBODY} is speaking {language(line.language).name}, saying: "{line.text}"'


def switch_caption(speaker: str, first: Line, second: Line) -> str:
    """Returns the caption of a clip whose two halves say `first` and `second`, in two languages or in one.

    Raises:
        UnsupportedTextError: a language is not in the table.
    """
    turn = "goes on in" if first.language == second.language else "switches to"
    return f'{dub_caption(speaker, first)}, then {turn} {language(second.language).name}, saying: "{second.text}"'


def over_articulated(caption: str, prompt: Prompt) -> str:
    """Returns `caption` with a request for exaggerated articulation (the paper's lip augmentation).

    The paper does not publish its wording; this one follows a secondary source and is UNVERIFIED.

    Raises:
        UnsupportedTextError: the prompt is of the nano world, whose captions cannot describe a manner of speaking.
    """
    if prompt.source == "grammar":
        raise UnsupportedTextError(
            "captions of the grammar cannot ask for exaggerated articulation",
            where="inpaint.lip_augmentation_share",
            cure="set it to 0, or use prompts.source bank or llm on the real model",
        )
    return f"{caption} The speaker talks in an exaggerated, over-articulated way, and the mouth shapes every syllable clearly."
