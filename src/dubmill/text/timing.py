"""Estimates how long words take to say, whether they fit a time, and how to divide a text over spans of time.

Expected seconds are syllables over the language's rate, plus a pause at each mark inside the text. Syllables are counted
from the spelling, by the vowel groups of each language; the tests measure the error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil

from dubmill.artifacts.rows import Line
from dubmill.errors import UnsupportedTextError
from dubmill.text.languages import language

PHRASE_PAUSE_SECONDS = 0.2  # chosen; the published rates leave out pauses over 0.15 s
SENTENCE_PAUSE_SECONDS = 0.4  # chosen
SYLLABLES_PER_DIGIT = 2  # "27" is said as words; write numbers as words where it matters
MAX_HURRY = 1.3  # chosen: a higher speech rate than this no longer sounds like the same speaker
ROUNDING_SECONDS = 1e-6  # a line that is longer by less than this fits

_VOWELS = {
    "en": r"[aeiouy]+",
    "fr": r"oe?ui|eau|[oœ]e?u|o[iîuùû]|ui|ieu|i[eèéaouœ]|a[iîuy]|e[iuûy]|[aeiouyàâäéèêëîïôöùûüœæ]",
    "de": r"ei|ai|au|eu|äu|ie|aa|ee|oo|ay|ey|[aeiouyäöü]",
    "ru": r"[аеёиоуыэюя]",
    "es": r"[iuüy]?[aeoáéó][iuy]?|[iuüyíú]",
    "it": r"[iu]?[aeoàèéòóìù][iu]?|[iuy]",
    "pt": r"ão|ãe|õe|[iu]?[aeoáéóâêôàã][iu]?|[iuíúy]",
}
"""Spellings of one syllable's vowel, longest first."""
_SILENT = {
    "en": r"(?<![^aeiouy]l)e$|(?<![szxcgh])(?<![^aeiouy]l)e(?=s$)|(?<![td])e(?=d$)",
    "fr": r"(?<=[qg])u(?=[eiéèêî])|e(?=s?$)",
    "es": r"(?<=[qg])u(?=[eiéí])",
    "pt": r"(?<=[qg])u(?=[eiéí])",
}
"""Silent letters."""
_SENTENCE_END, _PHRASE_END = re.compile(r"[.!?…][\"'»”)]*$"), re.compile(r"[,;:–—][\"'»”)]*$")


def syllables(line: Line) -> int:
    """Returns the number of syllables in a line, at least one per word, estimated from its spelling.

    Raises:
        UnsupportedTextError: the language is not in the table.
    """
    language(line.language)
    return sum(_of_word(word, line.language) for word in line.text.split())


def _of_word(word: str, tag: str) -> int:
    digits = sum(character.isdigit() for character in word)
    letters = "".join(character for character in word.lower() if character.isalpha())
    if not letters:
        return digits * SYLLABLES_PER_DIGIT
    pronounced = re.sub(_SILENT[tag], "", letters) if tag in _SILENT else letters
    return digits * SYLLABLES_PER_DIGIT + max(1, len(re.findall(_VOWELS[tag], pronounced)))


def pauses_seconds(text: str) -> float:
    """Returns the seconds of silence at the punctuation inside a text; a mark at its end adds none."""
    return sum(_pause(word) for word in text.split()[:-1])


def _pause(word: str) -> float:
    if _SENTENCE_END.search(word):
        return SENTENCE_PAUSE_SECONDS
    return PHRASE_PAUSE_SECONDS if _PHRASE_END.search(word) else 0.0


def speaking_seconds(line: Line) -> float:
    """Returns the seconds that a native speaker needs for a line at the usual rate.

    Raises:
        UnsupportedTextError: the language is not in the table.
    """
    return syllables(line) / language(line.language).syllables_per_second + pauses_seconds(line.text)


def measured_rates(samples: Iterable[tuple[Line, float]]) -> dict[str, float]:
    """Returns syllables per second by language, from lines and the seconds that each took (least squares through the origin)."""
    sums: dict[str, tuple[float, float]] = {}
    for line, seconds in samples:
        count, speech_seconds = syllables(line), seconds - pauses_seconds(line.text)
        squares, products = sums.get(line.language, (0.0, 0.0))
        sums[line.language] = squares + count * count, products + count * speech_seconds
    return {tag: squares / products for tag, (squares, products) in sums.items()}


@dataclass(frozen=True)
class Fit:
    """Whether a line can be said in the available time.

    `needed_seconds` at the usual rate, `quickest_seconds` at the highest accepted one, `room_seconds` are available.
    """

    line: Line
    needed_seconds: float
    quickest_seconds: float
    room_seconds: float

    @property
    def verdict(self) -> str:
        """One of fits, tight (hurried, but possible) and cannot."""
        if self.quickest_seconds > self.room_seconds + ROUNDING_SECONDS:
            return "cannot"
        return "tight" if self.needed_seconds > self.room_seconds + ROUNDING_SECONDS else "fits"

    @property
    def message(self) -> str:
        """The verdict in a sentence, with the number of words to drop; empty when the line fits."""
        if self.verdict == "fits":
            return ""
        need, room = f"about {self.needed_seconds:.1f} s to say", f"{self.room_seconds:.1f} s"
        if self.verdict == "tight":
            surplus = self._surplus(self.needed_seconds)
            return f"the words need {need}, but only {room} are available, so they will sound hurried: drop {surplus}"
        return (
            f"the words need {need}, {self.quickest_seconds:.1f} s at the highest speech rate, but only {room} are available: "
            f"drop {self._surplus(self.quickest_seconds)}"
        )

    def _surplus(self, seconds: float) -> str:
        share = 1 - self.room_seconds / seconds
        words = ceil(share * len(self.line.text.split()))
        return f"about {words} word{'s' if words > 1 else ''} ({ceil(share * syllables(self.line))} syllables)"

    def check(self) -> str:
        """Returns a warning if the line is hurried, else an empty string.

        Raises:
            UnsupportedTextError: it cannot be said in its time; names the seconds, the limit and the words to drop.
        """
        if self.verdict == "cannot":
            what, cure = self.message.rsplit(": ", 1)
            raise UnsupportedTextError(what, cure=cure)
        return self.message


def fit(line: Line, room_seconds: float) -> Fit:
    """Returns whether a line can be said in `room_seconds`, by its language's usual rate.

    Raises:
        UnsupportedTextError: the language is not in the table.
    """
    needed = speaking_seconds(line)
    return Fit(line, needed, needed / MAX_HURRY, room_seconds)


def clock(seconds: float) -> str:
    """Returns seconds as a player shows them: 1:02:03.4."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}"


Span = tuple[float, float]
"""Start and end in seconds."""
_BORDER_COST = {SENTENCE_PAUSE_SECONDS: 0.0, PHRASE_PAUSE_SECONDS: 0.15, 0.0: 0.6}
"""Cost of dividing a text after a word, by the pause there, in squared shares of a span."""
_REACH_SECONDS = 4.0  # how far from its even place a border is sought


def share_out(line: Line, spans: Sequence[Span]) -> list[str]:
    """Returns one text per span, in order, with all words: divided by speaking time, preferably where sentences or phrases end.

    A text may be empty where there are too few words.
    """
    words = line.text.split()
    if not spans:
        raise UnsupportedTextError("there is no time in which to speak", cure="give at least one span")
    ends_W = [
        0.0,
        *accumulate(speaking_seconds(Line(language=line.language, text=word)) + _pause(word) for word in words),
    ]
    rooms = [end - start for start, end in spans]
    borders = _borders(words, ends_W, rooms)
    return [" ".join(words[first:last]) for first, last in pairwise(borders)]


def _borders(words: Sequence[str], ends_W: Sequence[float], rooms: Sequence[float]) -> list[int]:
    """Returns the number of words before each span, and of all, at the least cost (dynamic programming over near borders)."""
    stretch = ends_W[-1] / max(sum(rooms), 1e-9)
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for index, room in enumerate(rooms):
        target = stretch * sum(rooms[: index + 1])
        is_last = index == len(rooms) - 1
        near = [len(words)] if is_last else _near(ends_W, target)
        best = {
            at: min(
                (cost + _cost(words, at, (ends_W[at] - ends_W[before]) / max(room, 1e-9), stretch), [*path, at])
                for before, (cost, path) in best.items()
                if before <= at
            )
            for at in near
            if any(before <= at for before in best)
        }
    return best[len(words)][1]


def _near(ends_W: Sequence[float], target: float) -> list[int]:
    reach = max(_REACH_SECONDS, min(abs(end - target) for end in ends_W))
    return [at for at, end in enumerate(ends_W) if abs(end - target) <= reach]


def _cost(words: Sequence[str], at: int, fullness: float, stretch: float) -> float:
    """Returns the cost of ending a span after word `at`: `fullness` is the span's share of its time, `stretch` that of all spans."""
    border = _BORDER_COST[_pause(words[at - 1])] if 0 < at < len(words) else 0.0
    return (fullness - stretch) ** 2 + 4 * max(0.0, fullness - max(1.0, stretch)) ** 2 + border
