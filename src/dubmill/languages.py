"""The languages a dub can be asked for: BCP-47 tags, English names, scripts, and who validated them."""

from __future__ import annotations

from dataclasses import dataclass

from dubmill.errors import UnsayableText


@dataclass(frozen=True)
class Language:
    """One language; `validated_by` names whoever showed that LTX-2 speaks it (empty: nobody yet)."""

    tag: str
    name: str
    script: str
    validated_by: str


LANGUAGES = {
    language.tag: language
    for language in (
        Language("en", "English", "Latn", "LTX-2 documentation"),
        Language("es", "Spanish", "Latn", "LTX-2 documentation"),
        Language("fr", "French", "Latn", "LTX-2 documentation"),
        Language("de", "German", "Latn", "LTX-2 documentation"),
        Language("ru", "Russian", "Cyrl", "LTX-2 documentation"),
        Language("pt", "Portuguese", "Latn", "JUST-DUB-IT project page"),
        Language("it", "Italian", "Latn", ""),
    )
}


def language(tag: str) -> Language:
    """The language of a BCP-47 tag.

    Raises:
        UnsayableText: the tag is not in the table.
    """
    if tag not in LANGUAGES:
        known = ", ".join(f"{one.tag} ({one.name})" for one in LANGUAGES.values())
        raise UnsayableText(f"unknown language {tag!r}", cure=f"use one of {known}")
    return LANGUAGES[tag]
