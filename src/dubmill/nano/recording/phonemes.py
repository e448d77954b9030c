"""Words as symbols that Kokoro knows: espeak-ng's IPA, and what stands for it in the model's alphabet."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phonemizer.backend import EspeakBackend

_ESPEAK_NAMES = {"en": "en-us", "es": "es", "fr": "fr-fr", "de": "de"}
_ALWAYS = (("t^ʃ", "ʧ"), ("d^ʒ", "ʤ"), ("t^s", "ʦ"), ("ɚ", "əɹ"), ("ʏ", "y"), ("ʲ", ""), ("̩", ""), ("̃", "̃"))
_DIPHTHONGS = (("a^ɪ", "I"), ("a^ʊ", "W"), ("e^ɪ", "A"), ("ɔ^ɪ", "Y"), ("ɔ^ø", "Y"), ("ə^ʊ", "Q"), ("o^ʊ", "O"))
_ENGLISH = (("ɜːɹ", "ɜɹ"), ("r", "ɹ"))


def symbols(language: str, word: str) -> str:
    """Kokoro's symbols of `word`; English and German diphthongs are one symbol each, Spanish ones are two vowels."""
    ipa = _backend(language).phonemize([word], strip=True)[0]
    for old, new in (
        *_ALWAYS,
        *(_DIPHTHONGS if language in ("en", "de") else ()),
        *(_ENGLISH if language == "en" else ()),
    ):
        ipa = ipa.replace(old, new)
    return ipa.replace("^", "").replace("-", "").strip()


@cache
def _backend(language: str) -> EspeakBackend:
    import espeakng_loader
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    return EspeakBackend(_ESPEAK_NAMES[language], with_stress=True, tie="^", language_switch="remove-flags")
