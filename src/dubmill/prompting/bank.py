"""Prompts for LTX-2, combined from lists of people, clothes, places, lights, sounds and parallel sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dubmill.artifacts.rows import Line, Prompt
from dubmill.config.params import PromptsParams
from dubmill.errors import UnsupportedTextError
from dubmill.prompting.phrases import PHRASES
from dubmill.prompting.scene import Scene
from dubmill.prompting.slots import Slot, fill_slot, slots
from dubmill.text import timing

HELDOUT_SHARE = 0.25
"""Share of the people and of the sentences that only held-out prompts use."""
MIN_PHRASES = 8

PEOPLE: tuple[tuple[str, str], ...] = (  # appearance, voice
    ("A woman in her twenties with long curly black hair and freckles", "a bright, clear voice"),
    ("A woman in her thirties with short straight brown hair and round glasses", "a calm, even voice"),
    ("A woman in her forties with red hair tied back and light skin", "a lively, slightly husky voice"),
    ("A woman in her fifties with grey bobbed hair and dark skin", "a low, warm voice"),
    ("An elderly woman with white hair in a bun and deep laugh lines", "a soft, patient voice"),
    ("A young woman with a shaved head and brown skin", "a firm, youthful voice"),
    ("A woman in her thirties with a black ponytail and East Asian features", "a gentle, precise voice"),
    ("A woman in her forties with braided hair and brown skin", "a rich, rounded voice"),
    ("A man in his twenties with short blond hair and a clean-shaven face", "a light, friendly voice"),
    ("A man in his thirties with black hair, dark skin and a neat goatee", "a deep, relaxed voice"),
    ("A man in his forties with a receding hairline and rectangular glasses", "a dry, measured voice"),
    ("A man in his fifties with silver hair and a tanned face", "a sonorous, confident voice"),
    ("An elderly man with a bald head and bushy white eyebrows", "a gravelly, slow voice"),
    ("A young man with shoulder-length brown hair and olive skin", "a mellow, quiet voice"),
    ("A man in his thirties with a side parting and South Asian features", "a warm, quick voice"),
    ("A man in his sixties with curly grey hair and a wide smile", "a hearty, resonant voice"),
)
ACTIONS = (
    "faces the camera and nods slightly while speaking",
    "looks straight ahead with a faint smile and speaks with small hand gestures",
    "sits upright, tilts the head a little and speaks in an unhurried way",
    "leans forward slightly and speaks with raised eyebrows",
    "stands still with relaxed shoulders and speaks with steady eye contact",
    "speaks with an open expression and blinks now and then",
)
CLOTHES = (
    "a dark green knitted sweater",
    "a white linen shirt with rolled sleeves",
    "a navy blue blazer over a grey shirt",
    "a mustard yellow cardigan",
    "a plain black turtleneck",
    "a faded denim jacket",
    "a burgundy dress shirt",
    "a light grey hooded sweatshirt",
)
SETTINGS = (
    "in a small kitchen with copper pans on the wall",
    "in a quiet library between tall wooden shelves",
    "in a bright office with plants on the window sill",
    "in a workshop with tools hanging in neat rows",
    "on a park bench in front of autumn trees",
    "in a train compartment with a blurred landscape outside",
    "in a cosy living room with a brick fireplace",
    "on a rooftop terrace above a pale city skyline",
    "in a greenhouse full of tall ferns",
    "in a recording studio with grey acoustic panels",
)
LIGHTS = (
    "soft morning light falls from a window on the left",
    "warm lamplight comes from behind and colours the edges amber",
    "even, cool daylight fills the whole scene",
    "low evening sun gives the face a golden rim",
    "diffuse light from a cloudy sky leaves hardly any shadows",
    "a single large softbox lights the face gently from the right",
)
SOUNDS = (
    "a clock ticks faintly in the background",
    "leaves rustle very softly",
    "the room is almost silent",
    "distant traffic murmurs",
    "a refrigerator hums quietly",
    "a few birds sing far away",
)


def bank_prompts(params: PromptsParams) -> list[Prompt]:
    """Returns one prompt per slot; people and sentences of held-out prompts are in no training prompt.

    Raises:
        UnsupportedTextError: a language has no sentences in the bank, or too few of them fit their time.
    """
    for tag in params.languages:
        if tag not in PHRASES[0]:
            raise UnsupportedTextError(
                f"the phrase bank has no sentences in {tag!r}",
                where="prompts.languages",
                cure=f"use {', '.join(PHRASES[0])}, or source llm",
            )
    sentences = _fitting_sentences(params)
    people, phrases = (_split_indices(len(bank), params.seed) for bank in (PEOPLE, sentences))
    return [
        _prompt(slot, people[slot.split], [sentences[index] for index in phrases[slot.split]]) for slot in slots(params)
    ]


def _fitting_sentences(params: PromptsParams) -> list[dict[str, str]]:
    """Returns the sentences that fit into `line_seconds` at the usual speech rate in every requested language."""
    room = params.line_seconds
    fitting = [
        phrase
        for phrase in PHRASES
        if all(timing.fit(_line(tag, phrase), room).verdict == "fits" for tag in params.languages)
    ]
    if len(fitting) < MIN_PHRASES:
        raise UnsupportedTextError(
            f"only {len(fitting)} of the bank's {len(PHRASES)} sentences can be spoken in {room:g} s",
            where="prompts.line_seconds",
            cure="make longer clips, or use source llm",
        )
    return fitting


def _split_indices(size: int, seed: int) -> dict[str, np.ndarray]:
    """Returns the indices of a bank's entries by split."""
    order = np.random.default_rng(seed).permutation(size)
    heldout = max(2, round(HELDOUT_SHARE * size))
    return {"heldout": order[:heldout], "train": order[heldout:]}


def _prompt(slot: Slot, people: np.ndarray, phrases: Sequence[dict[str, str]]) -> Prompt:
    rng = slot.rng
    speaker, voice = PEOPLE[rng.choice(people)]
    scene = Scene(
        speaker=speaker,
        action=_pick(rng, ACTIONS),
        clothing=_pick(rng, CLOTHES),
        setting=_pick(rng, SETTINGS),
        light=_pick(rng, LIGHTS),
        sound=_pick(rng, SOUNDS),
        voice=voice,
    )
    former, latter = (phrases[index] for index in rng.choice(len(phrases), size=2, replace=False))
    lines = (
        _line(slot.first, former),
        _line(slot.second, latter),
        _line(slot.second, former),
        _line(slot.first, latter),
    )
    return fill_slot(slot, source="bank", speaker=speaker, lines=lines, caption=scene.paragraph)


def _pick(rng: np.random.Generator, bank: Sequence[str]) -> str:
    return bank[int(rng.integers(len(bank)))]


def _line(tag: str, phrase: dict[str, str]) -> Line:
    return Line(language=tag, text=phrase[tag])
