"""Prompts of the nano world: a puppet says digits, its dub says the same digits in the other language."""

from __future__ import annotations

from itertools import product

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.config.params import PromptsParams
from dubmill.errors import UnsupportedTextError
from dubmill.nano import world
from dubmill.nano.captions import caption
from dubmill.prompting.slots import Slot, fill_slot, slots

HELDOUT_SHARE = 0.25
"""Share of all digit sequences of one half that only held-out prompts use, in any language."""


def grammar_prompts(params: PromptsParams) -> list[Prompt]:
    """Returns one prompt per slot; puppet seeds and digit sequences of held-out prompts are in no training prompt.

    Raises:
        UnsupportedTextError: nano does not speak one of the languages.
    """
    for tag in params.languages:
        if tag not in world.LANGUAGES:
            raise UnsupportedTextError(
                f"nano does not speak {tag!r}",
                where="prompts.languages",
                cure=f"use {', '.join(world.LANGUAGES)}, or source bank on the real model",
            )
    sequences = _split_sequences(params.seed)
    prompts = [_prompt(slot, sequences[slot.split]) for slot in slots(params)]
    _assert_disjoint(prompts)
    return prompts


def _split_sequences(seed: int) -> dict[str, np.ndarray]:
    """Returns (S, words per half) digit sequences by split."""
    every = np.array(list(product(range(10), repeat=world.WORDS_PER_HALF)))
    order = np.random.default_rng(seed).permutation(len(every))
    num_heldout = round(HELDOUT_SHARE * len(every))
    return {"heldout": every[order[:num_heldout]], "train": every[order[num_heldout:]]}


def _prompt(slot: Slot, sequences: np.ndarray) -> Prompt:
    speaker = world.puppet(slot.seed).describe()
    former, latter = sequences[slot.rng.choice(len(sequences), size=2, replace=False)]
    lines = (
        _line(slot.first, former),
        _line(slot.second, latter),
        _line(slot.second, former),
        _line(slot.first, latter),
    )
    return fill_slot(
        slot,
        source="grammar",
        speaker=speaker,
        lines=lines,
        caption=lambda first, second: caption(speaker, (_phrase(first), _phrase(second))),
    )


def _line(tag: str, digits: np.ndarray) -> Line:
    return Line(language=tag, text=" ".join(world.LANGUAGES[tag][digit] for digit in digits))


def _phrase(line: Line) -> world.Phrase:
    return world.Phrase(line.language, tuple(line.text.split()))


def _assert_disjoint(prompts: list[Prompt]) -> None:
    train, heldout = ([prompt for prompt in prompts if prompt.split == split] for split in ("train", "heldout"))
    assert not {prompt.seed for prompt in train} & {prompt.seed for prompt in heldout}
    assert not {text for prompt in train for text in texts(prompt)} & {
        text for prompt in heldout for text in texts(prompt)
    }


def texts(prompt: Prompt) -> tuple[str, ...]:
    """Returns the four spoken texts of a prompt: both halves and their dubs."""
    return tuple(line.text for line in (prompt.first, prompt.second, prompt.first_dubbed, prompt.second_dubbed))
