"""Translates cues within their times: translations that do not fit or are missing are requested again, then flagged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from dubmill.artifacts.rows import Line
from dubmill.errors import DubmillError
from dubmill.text import timing
from dubmill.text.languages import is_in_script, language
from dubmill.text.subtitles import Cue, timestamp

BATCH_CUES = 20  # cues in one request: enough for context, few enough that a model returns all of them


@dataclass(frozen=True)
class CueRequest:
    """One cue to translate.

    `num_syllables` is how many can be said in its time at the usual rate; `fault` is what was wrong with the last answer.
    """

    number: int
    text: str
    seconds: float
    num_syllables: int
    fault: str


class Translator(Protocol):
    """Translates cues into another language."""

    def translate(self, requests: Sequence[CueRequest], *, source: str, target: str) -> Mapping[int, str]:
        """Returns translations by cue number; a number that is absent counts as missing."""
        ...


@dataclass(frozen=True)
class Translation:
    """Translated cues with the times of the given ones, and a sentence for each cue that a person must correct."""

    cues: list[Cue]
    flags: list[str]


def translate(
    cues: Sequence[Cue],
    translator: Translator,
    *,
    source: str,
    target: str,
    attempts: int,
    faults: Mapping[int, str] | None = None,
) -> Translation:
    """Returns the cues translated into `target`; a cue whose translation stays missing keeps its words and is flagged.

    With `faults` only the cues of these numbers (from 1) are translated, each with what is wrong with its present translation.

    Raises:
        UnsupportedTextError: a language is not in the table.
        ServiceUnavailableError: the translator does not answer.
    """
    rate = language(target).syllables_per_second
    language(source)
    best: dict[int, str] = {}
    faults = dict.fromkeys(range(1, len(cues) + 1), "") if faults is None else dict(faults)
    for _ in range(attempts):
        requests = [_request(number, cues[number - 1], rate, fault) for number, fault in faults.items()]
        best |= _answers(requests, translator, source, target)
        checked = ((cue.number, _fault(best.get(cue.number, ""), cue.seconds, target)) for cue in requests)
        faults = {number: fault for number, fault in checked if fault}
        if not faults:
            break
    translated = [replace(cue, text=best.get(number) or cue.text) for number, cue in enumerate(cues, start=1)]
    return Translation(translated, [_flag(number, cues[number - 1], fault) for number, fault in faults.items()])


def _request(number: int, cue: Cue, syllables_per_second: float, fault: str) -> CueRequest:
    return CueRequest(number, cue.text, cue.seconds, int(cue.seconds * syllables_per_second), fault)


def _answers(requests: Sequence[CueRequest], translator: Translator, source: str, target: str) -> dict[int, str]:
    """Returns the translations that are not empty, of the cues that were requested."""
    answers: dict[int, str] = {}
    for start in range(0, len(requests), BATCH_CUES):
        batch = requests[start : start + BATCH_CUES]
        texts, numbers = translator.translate(batch, source=source, target=target), {cue.number for cue in batch}
        answers |= {
            number: " ".join(text.split()) for number, text in texts.items() if number in numbers and text.strip()
        }
    return answers


def _fault(text: str, seconds: float, target: str) -> str:
    """Returns what is wrong with a translation; empty if nothing is."""
    if not text:
        return "its translation is missing"
    if not is_in_script(text, target):
        return f"it is not in the script of {language(target).name}"
    fit = timing.fit(Line(language=target, text=text), seconds)
    return fit.message if fit.verdict == "cannot" else ""


def _flag(number: int, cue: Cue, fault: str) -> str:
    return DubmillError(fault, where=f"cue {number} at {timestamp(cue.start_seconds)}").sentence
