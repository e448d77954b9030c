"""Prompts of the nano world: puppets that count; a dub says the same digits in the other language."""

from __future__ import annotations

from itertools import product

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.config.params import PromptsParams
from dubmill.errors import UnsayableText
from dubmill.nano import world
from dubmill.nano.captions import caption
from dubmill.prompting import plan

HELDOUT_SHARE = 0.25
"""Share of all digit sequences of one half that only held-out prompts say, in whatever language."""


def draw(params: PromptsParams) -> list[Prompt]:
    """One prompt per slot; puppet seeds and digit sequences of held-out prompts are in no training prompt.

    Raises:
        UnsayableText: nano does not speak one of the languages.
    """
    for tag in params.languages:
        if tag not in world.LANGUAGES:
            raise UnsayableText(
                f"nano does not speak {tag!r}",
                where="prompts.languages",
                cure=f"use {', '.join(world.LANGUAGES)}, or source bank on the real model",
            )
    sequences = _parted(params.seed)
    prompts = [_prompt(slot, sequences[slot.split]) for slot in plan.slots(params)]
    _assert_disjoint(prompts)
    return prompts


def _parted(seed: int) -> dict[str, np.ndarray]:
    """(S, words per half) digit sequences by split."""
    every = np.array(list(product(range(10), repeat=world.WORDS_PER_HALF)))
    order = np.random.default_rng(seed).permutation(len(every))
    num_heldout = round(HELDOUT_SHARE * len(every))
    return {"heldout": every[order[:num_heldout]], "train": every[order[num_heldout:]]}


def _prompt(slot: plan.Slot, sequences: np.ndarray) -> Prompt:
    speaker = world.puppet(slot.seed).describe()
    one, two = sequences[slot.rng.choice(len(sequences), size=2, replace=False)]
    lines = (_line(slot.first, one), _line(slot.second, two), _line(slot.second, one), _line(slot.first, two))
    return plan.prompt(
        slot,
        source="grammar",
        speaker=speaker,
        lines=lines,
        tell=lambda first, second: caption(speaker, (_phrase(first), _phrase(second))),
    )


def _line(tag: str, digits: np.ndarray) -> Line:
    return Line(language=tag, text=" ".join(world.LANGUAGES[tag][digit] for digit in digits))


def _phrase(line: Line) -> world.Phrase:
    return world.Phrase(line.language, tuple(line.text.split()))


def _assert_disjoint(prompts: list[Prompt]) -> None:
    seen, kept = ([one for one in prompts if one.split == split] for split in ("train", "heldout"))
    assert not {one.seed for one in seen} & {one.seed for one in kept}
    assert not {text for one in seen for text in texts(one)} & {text for one in kept for text in texts(one)}


def texts(prompt: Prompt) -> tuple[str, ...]:
    """All that is said in a prompt or in its dubs."""
    return tuple(line.text for line in (prompt.first, prompt.second, prompt.first_dubbed, prompt.second_dubbed))
