"""Normalizes words for comparison: without case and punctuation, numbers written out, one script per language."""

from __future__ import annotations

import re
import unicodedata

UNSPACED = ("zh", "ja", "th", "lo", "my", "km")  # a character is a word, as error rates of these languages have it
SPLIT_AT_APOSTROPHE = ("fr", "it", "ca")  # l'acqua are two words; don't is one
PERCENT = {
    "en": "percent", "es": "por ciento", "fr": "pour cent", "de": "Prozent", "it": "per cento", "pt": "por cento",
    "ru": "процентов",
}  # fmt: skip
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'"})
_CHINESE_FIGURES = str.maketrans("0123456789", "零一二三四五六七八九")
_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:([.,\u00a0\u202f ])\d{3})(?:\1\d{3})*(?!\d)")
_NUMBER = re.compile(r"(\d+(?:[.,]\d+)?)(st|nd|rd|th|º|ª|er|ère|re|ème|e|°)?(?!\w)|(\d+)")


def primary(tag: str) -> str:
    """Returns the language of a BCP-47 tag without its region: es for es-MX."""
    return tag.split("-")[0].casefold()


def words_of(text: str, language: str) -> list[str]:
    """Returns the normalized words of `text`; in a script without spaces each character is a word.

    Numbers in figures are written out as the language says them; in Chinese, compared in simplified script, figure by
    figure, which is right for years and for numbers below ten.
    """
    tag = primary(language)
    text = text.translate(_APOSTROPHES)
    text = _written_out(text, tag) if any(sign.isdigit() for sign in text) else text
    text = unicodedata.normalize("NFKC", text)  # after the numbers: it makes an o of the sign in 3º
    if tag in SPLIT_AT_APOSTROPHE:
        text = text.replace("'", " ")
    text = re.sub(r"[-‐-―/_]", " ", _simplified(text) if tag == "zh" else text)
    words = [word for word in map(spelling, text.split()) if word]
    return [sign for word in words for sign in word] if tag in UNSPACED else words


def spelling(word: str) -> str:
    """Returns `word` normalized for comparison: NFC, without case or punctuation."""
    folded = unicodedata.normalize("NFC", word).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter)[0] in "LMN")


def _written_out(text: str, tag: str) -> str:
    """Returns `text` with its numbers in words; unchanged if num2words is not installed or does not know the language."""
    if tag == "zh":
        return text.translate(_CHINESE_FIGURES)
    try:
        from num2words import CONVERTER_CLASSES, num2words
    except ImportError:
        return text
    if tag not in CONVERTER_CLASSES:
        return text

    def words(match: re.Match) -> str:
        figures, ordinal = match[1] or match[3], match[2]
        if ordinal and figures.isdigit():
            return f" {num2words(int(figures), lang=tag, to='ordinal')} "
        number = int(figures) if figures.isdigit() else float(figures.replace(",", "."))
        return f" {num2words(number, lang=tag)} {ordinal or ''} "

    text = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = re.sub(r"(?<=\d)\s*%", f" {PERCENT.get(tag, '%')}", text)
    return _NUMBER.sub(words, re.sub(r"(?<=\d):(?=\d)", " ", text))


def _simplified(text: str) -> str:
    try:
        from opencc import OpenCC
    except ImportError:
        return text
    return OpenCC("t2s").convert(text)
