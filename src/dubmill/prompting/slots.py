"""The slots of a prompt set: id, split, languages and seed of every prompt, before it has words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.config.params import PromptsParams
from dubmill.errors import InvalidParamsError

MIN_PROMPT_SEED, MAX_PROMPT_SEED = 10_000_000, 2**31
"""Bounds of the seeds of prompts: puppets below the first were drawn in the training of nano's base."""


@dataclass(frozen=True)
class Slot:
    """One prompt to be filled: `first` and `second` are the BCP-47 tags of the halves, `seed` is unique in the set."""

    id: str
    split: str
    first: str
    second: str
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        """Returns the generator of everything random in this prompt, at its start."""
        return np.random.default_rng(self.seed)


def slots(params: PromptsParams) -> list[Slot]:
    """Returns the training slots, then the held-out ones, with all ordered pairs of languages in equal number.

    Within a split the numbers differ by at most one.

    Raises:
        InvalidParamsError: a language is named twice.
    """
    if len(set(params.languages)) < len(params.languages):
        raise InvalidParamsError(
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
    """Returns `count` different seeds; the first n do not depend on `count`."""
    rng, seeds = np.random.default_rng(seed), dict[int, None]()
    while len(seeds) < count:
        drawn = int(rng.integers(MAX_PROMPT_SEED))
        seeds[drawn if drawn >= MIN_PROMPT_SEED else drawn + MIN_PROMPT_SEED] = None
    return list(seeds)


def fill_slot(
    slot: Slot, *, source: str, speaker: str, lines: tuple[Line, Line, Line, Line], caption: Callable[[Line, Line], str]
) -> Prompt:
    """Returns the prompt of `slot`.

    `lines` are first, second, first dubbed, second dubbed; `caption` gives the caption of a clip from its halves' lines.
    """
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
        caption=caption(first, second),
        caption_first_dubbed=caption(first_dubbed, second),
        caption_second_dubbed=caption(first, second_dubbed),
    )
