"""A word-level tokenizer with one token for each pair of a spoken word and its position in the clip.

Text cross-attention carries no position, and a small base learns the order of words only if their tokens contain it. So the
normalizer, which travels inside tokenizer.json, turns `"four seven two", then switches to Spanish, saying: "uno tres seis"`
into `①four ②seven ③two then switches to Spanish saying ④uno ⑤tres ⑥seis`. Captions stay natural.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dubmill.nano.lexicon import LANGUAGE_NAMES, LANGUAGES, VOICES
from dubmill.nano.modules import TEXT_LENGTH
from dubmill.nano.puppets import BACKDROPS, HAIRS, SKINS
from dubmill.nano.world import WORDS_PER_HALF

_SLOTS = "①②③④⑤⑥"
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_SENTENCE = "A person Puppet with voice skin hair and a backdrop is speaking saying then switches to"
_IMAGE_PLACES = 3
"""Gemma reserves three ids for images; no caption uses them."""


def spoken_words() -> tuple[str, ...]:
    """Returns every word of every language, once."""
    return tuple(dict.fromkeys(word for words in LANGUAGES.values() for word in words))


def vocabulary() -> dict[str, int]:
    """Returns the ids of all tokens; the first four are special."""
    attributes = [*map(str, range(len(VOICES))), *SKINS, *HAIRS, *BACKDROPS, *LANGUAGE_NAMES.values()]
    fused = [slot + word for slot in _SLOTS for word in spoken_words()]
    tokens = dict.fromkeys([*_SPECIAL, *_SENTENCE.split(), *attributes, *fused])
    return {token: index for index, token in enumerate(tokens)}


def vocabulary_size() -> int:
    """Returns the number of rows of the embedding."""
    return len(vocabulary()) + _IMAGE_PLACES


def _normalizer() -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace(
            f'", then switches to {name}, saying: "', f" then switches to {name} saying {_SLOTS[WORDS_PER_HALF]}"
        )
        for name in LANGUAGE_NAMES.values()
    ]
    steps.append(normalizers.Replace('saying: "', f"saying {_SLOTS[0]}"))
    for slot, following in zip(_SLOTS, _SLOTS[1:], strict=False):
        earlier_words = "|".join(slot + word for word in spoken_words())
        steps.append(normalizers.Replace(Regex(f'(?<={earlier_words}) (?=\\p{{L}}+[ "])(?!then )'), f" {following}"))
    steps.append(normalizers.Replace(Regex('[",:.]'), " "))
    return normalizers.Sequence(steps)


def build() -> PreTrainedTokenizerFast:
    """Returns the tokenizer, which pads on the left to 32 tokens, as Gemma's does."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=TEXT_LENGTH,
    )
