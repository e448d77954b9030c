"""The supported languages: tags, names, scripts, who validated them, and their usual speech rates."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from dubmill.errors import UnsupportedTextError


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


COUPE = (
    "Coupe, Oh, Dediu, Pellegrino: Different languages, similar encoding efficiency, Science Advances 5 (2019): mean of "
    "NS / Duration over the recordings in InfoRateData.csv of github.com/keruiduo/SupplMatInfoRate (f8f509b)"
)
GUESSED = "UNVERIFIED: an estimate, no measurement of read speech was found; `dubmill.text.timing.measured_rates` makes it yours"

LANGUAGES = {
    language.tag: language
    for language in (
        Language("en", "English", "Latn", "LTX-2 documentation", 6.34, COUPE),
        Language("es", "Spanish", "Latn", "LTX-2 documentation", 7.73, COUPE),
        Language("fr", "French", "Latn", "LTX-2 documentation", 6.88, COUPE),
        Language("de", "German", "Latn", "LTX-2 documentation", 6.09, COUPE),
        # Serbian, the one Slavic language in those data, has 7.15
        Language("ru", "Russian", "Cyrl", "LTX-2 documentation", 6.0, GUESSED),
        # on radio, European Portuguese is as fast as Spanish in written syllables, by the abstract of Voigt, Schueppert
        # (2013); four dialects of Brazil have 4.8 to 6.6, by that of Meireles, Gambarini (Speech Prosody 2012)
        Language("pt", "Portuguese", "Latn", "JUST-DUB-IT project page", 6.8, GUESSED),
        Language("it", "Italian", "Latn", "", 7.16, COUPE),
    )
}


_LETTERS = {"Latn": "LATIN", "Cyrl": "CYRILLIC"}


def base_tag(tag: str) -> str:
    """Returns the language of a BCP-47 tag without region and script, in lower case: `es` for `es-MX`, `ES` and `es_419`."""
    return tag.strip().replace("_", "-").split("-")[0].lower()


ISO_639_2 = {"en": "eng", "es": "spa", "fr": "fra", "de": "deu", "ru": "rus", "pt": "por", "it": "ita"}
"""Tags of three letters, as MP4 and Matroska store them."""


def is_in_script(text: str, tag: str) -> bool:
    """Returns whether every letter of `text` belongs to the script of a language."""
    letters = _LETTERS[language(tag).script]
    return all(unicodedata.name(sign, "").startswith(letters) for sign in text if sign.isalpha())


def language(tag: str) -> Language:
    """Returns the language of a BCP-47 tag.

    Raises:
        UnsupportedTextError: the tag is not in the table.
    """
    if tag not in LANGUAGES:
        known = ", ".join(f"{one.tag} ({one.name})" for one in LANGUAGES.values())
        raise UnsupportedTextError(f"unknown language {tag[:40]!r}", cure=f"use one of {known}")
    return LANGUAGES[tag]
