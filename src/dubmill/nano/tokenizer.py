"""A word-level tokenizer that fuses every spoken word with its place in the clip.

Text cross-attention carries no position, and a small base only learns the order of words whose tokens tell it. So the
normalizer, which travels inside tokenizer.json, turns `"four seven two", then switches to Spanish, saying: "uno tres seis"`
into `①four ②seven ③two then switches to Spanish saying ④uno ⑤tres ⑥seis`. Captions stay natural.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dubmill.nano.face import BACKDROPS, HAIRS, SKINS, STYLES
from dubmill.nano.lexicon import LANGUAGE_NAMES, LANGUAGES
from dubmill.nano.modules import TEXT_LENGTH
from dubmill.nano.splits import NUM_VOICES
from dubmill.nano.world import WORDS_PER_HALF

_SLOTS = "①②③④⑤⑥"
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_SENTENCE = "A person Puppet with voice skin hair and a room is speaking saying then switches to"
_IMAGE_PLACES = 3
"""Gemma keeps three ids for pictures; nothing is said with them."""


def spoken_words() -> tuple[str, ...]:
    """Every word of every language, once."""
    return tuple(dict.fromkeys(word for words in LANGUAGES.values() for word in words))


def vocabulary() -> dict[str, int]:
    """Ids of all tokens; the first four are special."""
    attributes = [*map(str, range(NUM_VOICES)), *SKINS, *STYLES, *HAIRS, *BACKDROPS, *LANGUAGE_NAMES.values()]
    fused = [slot + word for slot in _SLOTS for word in spoken_words()]
    tokens = dict.fromkeys([*_SPECIAL, *_SENTENCE.split(), *attributes, *fused])
    return {token: index for index, token in enumerate(tokens)}


def vocabulary_size() -> int:
    """Rows of the embedding."""
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
        said = "|".join(slot + word for word in spoken_words())
        steps.append(normalizers.Replace(Regex(f'(?<={said}) (?=\\p{{L}}+[ "])(?!then )'), f" {following}"))
    steps.append(normalizers.Replace(Regex('[",:.]'), " "))
    return normalizers.Sequence(steps)


def build() -> PreTrainedTokenizerFast:
    """The tokenizer, padded on the left to 32 as Gemma's is."""
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
