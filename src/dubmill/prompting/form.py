"""Checks the form of a prompt: captions are one paragraph in prose that quotes the exact words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dubmill.artifacts.rows import Line, Prompt
from dubmill.text import timing
from dubmill.text.languages import LANGUAGES, is_in_script

MAX_CAPTION_WORDS = 200  # LTX-2's own limit
MAX_LINE_WORDS = 20  # as many as fit into five seconds of fast speech
MAX_LENGTH_RATIO = (
    2.0  # a much longer translation loses words in the time of its source, a much shorter one leaves silence
)

LINES = ("first", "second", "first_dubbed", "second_dubbed")
FORBIDDEN = {
    "a line break": re.compile(r"[\r\n]"),
    "a heading": re.compile(r"^\s*#"),
    "markdown": re.compile(r"\*\*|__|`|\]\("),
    "a list": re.compile(r"(^|\s)([-*•]|\d+[.)])\s"),
    "a timestamp": re.compile(
        r"\b\d{1,2}:\d{2}\b|\b\d+(\.\d+)?\s*(s|sec|seconds?)\b|\[\d|\bseconds?\s+\d", re.IGNORECASE
    ),
    "a label": re.compile(r"(^|[.!?]\s+)[A-Z][A-Za-z ]{2,20}:\s"),
    "a cut": re.compile(r"\b(cuts? to|jump cut|cross-?fades?|next scene)\b", re.IGNORECASE),
}
QUOTED = re.compile(r'"([^"]*)"')


def faults(prompt: Prompt) -> list[str]:
    """Returns the violations of the form, one phrase each; empty for a valid prompt."""
    return [*_language_faults(prompt), *_line_faults(prompt), *_caption_faults(prompt)]


def _language_faults(prompt: Prompt) -> Iterator[str]:
    for line in (prompt.first, prompt.second, prompt.first_dubbed, prompt.second_dubbed):
        if line.language not in LANGUAGES:
            yield f"unknown language {line.language!r}"
    if prompt.first.language == prompt.second.language:
        yield "both halves are in the same language"
    if (prompt.first_dubbed.language, prompt.second_dubbed.language) != (prompt.second.language, prompt.first.language):
        yield "a dubbed half is not in the other half's language"


def _line_faults(prompt: Prompt) -> Iterator[str]:
    for name in LINES:
        line: Line = getattr(prompt, name)
        if not any(character.isalpha() for character in line.text) or line.text != line.text.strip():
            yield f"{name} has no words, or leading or trailing blanks"
        if '"' in line.text:
            yield f"{name} contains a double quote"
        if len(line.text.split()) > MAX_LINE_WORDS:
            yield f"{name} has more than {MAX_LINE_WORDS} words"
        if line.language in LANGUAGES and not is_in_script(line.text, line.language):
            yield f"{name} is not in the script of {LANGUAGES[line.language].name}"
    for name in ("first", "second"):
        original, dubbed = getattr(prompt, name).text, getattr(prompt, f"{name}_dubbed").text
        if max(len(original), len(dubbed)) > MAX_LENGTH_RATIO * max(1, min(len(original), len(dubbed))):
            yield f"{name} and its translation differ in length by more than a factor of {MAX_LENGTH_RATIO:g}"


def time_faults(prompt: Prompt, line_seconds: float) -> list[str]:
    """Returns one phrase for each line that cannot be spoken in `line_seconds`; its languages must be known."""
    fits = {name: timing.fit(getattr(prompt, name), line_seconds) for name in LINES}
    return [f"{name}: {fit.message}" for name, fit in fits.items() if fit.verdict == "cannot"]


def _caption_faults(prompt: Prompt) -> Iterator[str]:
    halves = {
        "caption": (prompt.first, prompt.second),
        "caption_first_dubbed": (prompt.first_dubbed, prompt.second),
        "caption_second_dubbed": (prompt.first, prompt.second_dubbed),
    }
    for name, lines in halves.items():
        yield from (f"{name} {fault}" for fault in caption_faults(getattr(prompt, name), lines))


def caption_faults(caption: str, lines: tuple[Line, ...]) -> Iterator[str]:
    """Yields the violations of the form in one caption that should quote `lines` in order."""
    # one quotation may hold both lines: nano's captions merge neighbouring lines of one language
    if " ".join(QUOTED.findall(caption)) != " ".join(line.text for line in lines):
        yield f"does not quote exactly {' and '.join(line.text for line in lines)}"
    if len(caption.split()) > MAX_CAPTION_WORDS:
        yield f"has more than {MAX_CAPTION_WORDS} words"
    unquoted = QUOTED.sub('""', caption)
    for line in lines:
        if line.language in LANGUAGES and LANGUAGES[line.language].name not in unquoted:
            yield f"does not name {LANGUAGES[line.language].name}"
    yield from (f"contains {name}" for name, pattern in FORBIDDEN.items() if pattern.search(unquoted))
