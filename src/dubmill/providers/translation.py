"""Cues in another language, in the same times: what does not fit or is lost is asked again, then flagged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from dubmill.artifacts.rows import Line
from dubmill.errors import DubmillError
from dubmill.text import timing
from dubmill.text.languages import is_in_script, language
from dubmill.text.subtitles import Cue, clock

BATCH = 20  # cues asked for at once: enough to see the context, few enough to lose none


@dataclass(frozen=True)
class Asked:
    """One cue to translate: `num_syllables` can be said in its time at the usual rate; `fault` of the last answer."""

    number: int
    text: str
    seconds: float
    num_syllables: int
    fault: str


class Translator(Protocol):
    """Who says the same in another language."""

    def translate(self, asked: Sequence[Asked], *, source: str, target: str) -> Mapping[int, str]:
        """Texts by the numbers of their cues; one that is missing counts as lost."""
        ...


@dataclass(frozen=True)
class Translation:
    """Cues in the times of the given ones, and a sentence for each that a person must mend."""

    cues: list[Cue]
    flags: list[str]


def translate(cues: Sequence[Cue], translator: Translator, *, source: str, target: str, attempts: int) -> Translation:
    """The cues in `target`; a cue that stays lost keeps its words, and is flagged.

    Raises:
        UnsayableText: a language is not in the table.
        ServiceUnavailable: the translator does not answer.
    """
    rate = language(target).syllables_per_second
    language(source)
    best: dict[int, str] = {}
    faults = dict.fromkeys(range(1, len(cues) + 1), "")
    for _ in range(attempts):
        asked = [
            Asked(number, cues[number - 1].text, cues[number - 1].seconds, int(cues[number - 1].seconds * rate), fault)
            for number, fault in faults.items()
        ]
        best |= _answers(asked, translator, source, target)
        faults = {
            one.number: fault for one in asked if (fault := _fault(best.get(one.number, ""), one.seconds, target))
        }
        if not faults:
            break
    said = [replace(cue, text=best.get(number) or cue.text) for number, cue in enumerate(cues, start=1)]
    return Translation(said, [_flag(number, cues[number - 1], fault) for number, fault in faults.items()])


def _answers(asked: Sequence[Asked], translator: Translator, source: str, target: str) -> dict[int, str]:
    """What came back with words in it, of the cues that were asked for."""
    answers: dict[int, str] = {}
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        told, numbers = translator.translate(batch, source=source, target=target), {one.number for one in batch}
        answers |= {
            number: " ".join(text.split()) for number, text in told.items() if number in numbers and text.strip()
        }
    return answers


def _fault(text: str, seconds: float, target: str) -> str:
    if not text:
        return "its translation is missing"
    if not is_in_script(text, target):
        return f"it is not in the script of {language(target).name}"
    fit = timing.fit(Line(language=target, text=text), seconds)
    return fit.told if fit.verdict == "cannot" else ""


def _flag(number: int, cue: Cue, fault: str) -> str:
    return DubmillError(fault, where=f"cue {number} at {clock(cue.start_seconds)}").sentence
