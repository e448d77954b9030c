"""Which prompts there will be: id, split, languages and seed of each, before anybody thinks of words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.config.params import PromptsParams
from dubmill.errors import BadParams

MAX_PROMPT_SEED = 2**31


@dataclass(frozen=True)
class Slot:
    """The place of one prompt: `first` and `second` are the BCP-47 tags of the halves, `seed` is unique in the plan."""

    id: str
    split: str
    first: str
    second: str
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        """The source of everything random in this prompt."""
        return np.random.default_rng(self.seed)


def slots(params: PromptsParams) -> list[Slot]:
    """Training slots, then held-out ones; within a split every ordered pair of languages comes as often, give or take one.

    Raises:
        BadParams: a language is named twice.
    """
    if len(set(params.languages)) < len(params.languages):
        raise BadParams(
            f"a language is named twice in {', '.join(params.languages)}",
            where="prompts.languages",
            cure="name each language once",
        )
    splits = ["train"] * params.num_train + ["heldout"] * params.num_heldout
    pairs = list(permutations(params.languages, 2))
    seeds = unique_seeds(params.seed, len(splits))
    places = [*range(params.num_train), *range(params.num_heldout)]
    return [
        Slot(f"p{index:05d}", split, *pairs[place % len(pairs)], seed=seed)
        for index, (split, place, seed) in enumerate(zip(splits, places, seeds, strict=True))
    ]


def unique_seeds(seed: int, count: int) -> list[int]:
    """`count` different seeds; the first n of them do not depend on `count`."""
    rng, drawn = np.random.default_rng(seed), dict[int, None]()
    while len(drawn) < count:
        drawn[int(rng.integers(MAX_PROMPT_SEED))] = None
    return list(drawn)


def prompt(
    slot: Slot, *, source: str, speaker: str, lines: tuple[Line, Line, Line, Line], tell: Callable[[Line, Line], str]
) -> Prompt:
    """The prompt of `slot`; `lines` are first, second, first dubbed, second dubbed, `tell` captions two halves."""
    first, second, first_dubbed, second_dubbed = lines
    return Prompt(
        id=slot.id,
        split=slot.split,
        source=source,
        seed=slot.seed,
        speaker=speaker,
        first=first,
        second=second,
        first_dubbed=first_dubbed,
        second_dubbed=second_dubbed,
        caption=tell(first, second),
        caption_first_dubbed=tell(first_dubbed, second),
        caption_second_dubbed=tell(first, second_dubbed),
    )
