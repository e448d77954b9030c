"""The sentence that names who speaks which language, and the exact words."""

from __future__ import annotations

from dubmill.languages import language
from dubmill.rows import Line

ANYBODY = "A person"


def dub_caption(speaker: str, line: Line) -> str:
    """`<speaker> is speaking Spanish, saying: "uno tres"`, the caption that a dubbing adapter is trained and asked with.

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
