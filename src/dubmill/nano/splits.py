"""What is trained on and what is kept for measuring: puppets by ranges of seeds, orders of words by a rule, voices by number.

A held-out film is new in all of them at once, by construction: no draw can put a held-out puppet, order or voice into a
training stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

NUM_VOICES = 24
HELD_OUT_VOICES = (5, 11, 17, 23)
"""Never heard in any training, of nano's parts or of an adapter: every sixth, so that any number of recordings has some."""
TRAINED_VOICES = tuple(voice for voice in range(NUM_VOICES) if voice not in HELD_OUT_VOICES)

_ORDER_WEIGHTS, _ORDER_MODULUS = (1, 3, 7), 10


class Split(Enum):
    """Who may see a puppet; the value is its range of seeds."""

    PRETRAIN = range(0, 8_000_000)
    """The parts of nano."""
    LINE = range(8_000_000, 10_000_000)
    """Prompts that adapters are trained on."""
    HELD_OUT = range(10_000_000, 20_000_000)
    """Figures, in voices that were trained."""
    NEW_VOICE = range(20_000_000, 30_000_000)
    """Figures, in voices that never were."""

    @property
    def is_held_out(self) -> bool:
        """Whether nothing is ever trained on it."""
        return self in (Split.HELD_OUT, Split.NEW_VOICE)

    @property
    def voices(self) -> tuple[int, ...]:
        """The voices of its puppets."""
        return HELD_OUT_VOICES if self is Split.NEW_VOICE else TRAINED_VOICES


def split_of(seed: int) -> Split:
    """The split whose range holds `seed`; seeds beyond all of them count around again."""
    seed %= Split.NEW_VOICE.value.stop
    return next(split for split in Split if seed in split.value)


def is_held_out_order(places: Sequence[int]) -> bool:
    """Whether three words, each told by its place in its language's list, are an order that is never trained.

    A tenth of all orders are; each word is in as many of them, at every place. It is the same order in every language,
    so a dub of a held-out phrase is held out too.
    """
    return sum(weight * place for weight, place in zip(_ORDER_WEIGHTS, places, strict=True)) % _ORDER_MODULUS == 0
