"""The languages a dub can be asked for: tags, names, scripts, who validated them, and how fast each is spoken."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from dubmill.errors import UnsayableText


@dataclass(frozen=True)
class Language:
    """One language; `validated_by` names whoever showed that LTX-2 speaks it (empty: nobody yet).

    `syllables_per_second` is of native speakers reading aloud, long pauses left out; `rate_source` says who measured it.
    """

    tag: str
    name: str
    script: str
    validated_by: str
    syllables_per_second: float
    rate_source: str


PELLEGRINO = "Pellegrino, Coupe, Marsico: A cross-language perspective on speech information rate, Language 87 (2011)"
GUESSED = (
    "UNVERIFIED: an estimate near the languages that were measured; `dubmill.timing.measured_rates` makes it yours"
)

LANGUAGES = {
    language.tag: language
    for language in (
        Language("en", "English", "Latn", "LTX-2 documentation", 6.19, PELLEGRINO),
        Language("es", "Spanish", "Latn", "LTX-2 documentation", 7.82, PELLEGRINO),
        Language("fr", "French", "Latn", "LTX-2 documentation", 7.18, PELLEGRINO),
        Language("de", "German", "Latn", "LTX-2 documentation", 5.97, PELLEGRINO),
        Language("ru", "Russian", "Cyrl", "LTX-2 documentation", 6.0, GUESSED),
        Language("pt", "Portuguese", "Latn", "JUST-DUB-IT project page", 6.8, GUESSED),
        Language("it", "Italian", "Latn", "", 6.99, PELLEGRINO),
    )
}


_LETTERS = {"Latn": "LATIN", "Cyrl": "CYRILLIC"}


def is_in_script(text: str, tag: str) -> bool:
    """Whether every letter of `text` belongs to the script of a language."""
    letters = _LETTERS[language(tag).script]
    return all(unicodedata.name(sign, "").startswith(letters) for sign in text if sign.isalpha())


def language(tag: str) -> Language:
    """The language of a BCP-47 tag.

    Raises:
        UnsayableText: the tag is not in the table.
    """
    if tag not in LANGUAGES:
        known = ", ".join(f"{one.tag} ({one.name})" for one in LANGUAGES.values())
        raise UnsayableText(f"unknown language {tag!r}", cure=f"use one of {known}")
    return LANGUAGES[tag]
