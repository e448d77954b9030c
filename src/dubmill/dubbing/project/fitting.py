"""Makes words fit their time: a bounded speech rate, time from the pause that follows, or a shorter translation.

What was done is written into the table beside the words; nothing is spoken faster without a note.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest

from dubmill.artifacts.rows import Line
from dubmill.dubbing.project.table import Row, Target
from dubmill.errors import UnsupportedTextError
from dubmill.providers import Translator, translate
from dubmill.text.subtitles import Cue
from dubmill.text.timing import ROUNDING_SECONDS, Fit

MAX_BORROWED_SECONDS = 1.0  # chosen: later than that the mouth of the film has long been closed
KEPT_PAUSE_SECONDS = 0.2  # chosen: of the pause before the next segment
DOES_NOT_FIT = "does not fit"

LineFitter = Callable[[Line, float], Fit]
"""Whether a line can be said in so many seconds; raises UnsupportedTextError where it cannot be said at all."""


def fit_rows(rows: Sequence[Row], language: str, film_seconds: float, fit: LineFitter) -> list[Row]:
    """The rows with end and note of their words in `language` set anew, by speech rate and the pauses between them."""
    return [
        _fitted(row, language, film_seconds if following is None else following.start_seconds, fit)
        for row, following in zip_longest(rows, rows[1:])
    ]


def shorten_rows(
    rows: Sequence[Row],
    language: str,
    film_seconds: float,
    fit: LineFitter,
    *,
    translator: Translator,
    source: str,
    attempts: int,
) -> list[Row]:
    """As `fit_rows`; for words that do not fit, a shorter translation is requested with the reason.

    Raises:
        ServiceUnavailableError: the translator does not answer.
    """
    rows = fit_rows(rows, language, film_seconds, fit)
    faults = {
        number: row.targets[language].note
        for number, row in enumerate(rows, start=1)
        if row.text and row.targets[language].note.startswith(DOES_NOT_FIT)
    }
    cues = [Cue(row.start_seconds, row.end_seconds, row.text) for row in rows]
    answers = translate(cues, translator, source=source, target=language, attempts=attempts, faults=faults).cues
    shorter = [
        _with_target(row, language, Target(answers[number - 1].text)) if number in faults else row
        for number, row in enumerate(rows, start=1)
    ]
    fitted = fit_rows(shorter, language, film_seconds, fit)
    return [
        _with_reason(after, before, language) if number in faults else before
        for number, (before, after) in enumerate(zip(rows, fitted, strict=True), start=1)
    ]


def _fitted(row: Row, language: str, limit_seconds: float, fit: LineFitter) -> Row:
    """One row; its words may last until shortly before `limit_seconds`."""
    words = row.targets[language]
    if words.recording or not words.text:  # a recording lasts as long as it lasts
        return _with_target(row, language, words.without_fitting)
    room = row.end_seconds - row.start_seconds
    try:
        found = fit(Line(language=language, text=words.text), room)
    except UnsupportedTextError as error:
        return _with_target(row, language, Target(words.text, f"{DOES_NOT_FIT}: {error.sentence}"))
    pause = limit_seconds - row.end_seconds - KEPT_PAUSE_SECONDS
    borrowed = min(MAX_BORROWED_SECONDS, pause, found.needed_seconds - room)
    if found.verdict == "cannot" and borrowed > ROUNDING_SECONDS:
        longer = replace(found, room_seconds=room + borrowed)
        if longer.verdict != "cannot":
            notes = [f"ends {borrowed:.2f} s later, in the pause after it", *_rate_note(longer)]
            end = round(row.end_seconds + borrowed, 3)
            return _with_target(row, language, Target(words.text, ", ".join(notes), end))
    note = f"{DOES_NOT_FIT}: {found.message}" if found.verdict == "cannot" else ", ".join(_rate_note(found))
    return _with_target(row, language, Target(words.text, note))


def _rate_note(fit: Fit) -> list[str]:
    rate = fit.needed_seconds / fit.room_seconds
    return [f"spoken {rate:.2f} times as fast as usual"] if fit.verdict == "tight" else []


def _with_reason(after: Row, before: Row, language: str) -> Row:
    """The row whose translation was requested again, if it fits now; else the row before."""
    words, old = after.targets[language], before.targets[language]
    if words.note.startswith(DOES_NOT_FIT) or words.text == old.text:
        return before
    note = f"shortened by the translator, before: {old.text}"
    return _with_target(after, language, replace(words, note="; ".join(filter(None, (note, words.note)))))


def _with_target(row: Row, language: str, target: Target) -> Row:
    return replace(row, targets={**row.targets, language: target})
