"""Structured prompts from three sources, all in one form: grammar (nano), bank (LTX-2), llm (an endpoint)."""

from __future__ import annotations

from dataclasses import dataclass

from dubmill.artifacts.rows import Prompt
from dubmill.config.params import PromptsParams
from dubmill.errors import ServiceUnavailable
from dubmill.prompting.captions import dub_caption, over_articulated, switch_caption
from dubmill.prompting.form import faults

__all__ = ["Drawn", "collect", "draw", "dub_caption", "faults", "over_articulated", "switch_caption"]


@dataclass(frozen=True)
class Drawn:
    """The prompts that keep the form, and `{"id", "reason"}` of each that was dropped."""

    prompts: list[Prompt]
    dropped: list[dict[str, str]]


def draw(params: PromptsParams) -> list[Prompt]:
    """The prompts of `collect`."""
    return collect(params).prompts


def collect(params: PromptsParams) -> Drawn:
    """Prompts p00000.. in order, training ones first; equal params give equal prompts (of an llm: as far as it repeats).

    Raises:
        UnsayableText: the source has no words in one of the languages.
        BadParams: a language is named twice.
        ServiceUnavailable: the language model did not answer, or gave no usable prompt for a split.
    """
    drawn = _of_source(params)
    for prompt in drawn.prompts:
        assert not faults(prompt), f"{prompt.id}: {'; '.join(faults(prompt))}"
    for split in ("train", "heldout"):
        if not any(prompt.split == split for prompt in drawn.prompts):
            reason = drawn.dropped[-1]["reason"]
            raise ServiceUnavailable(
                f"no usable {split} prompt: {reason}",
                where=params.llm_url,
                cure="use an abler model, raise prompts.llm_attempts, or use prompts.source bank",
            )
    return drawn


def _of_source(params: PromptsParams) -> Drawn:
    if params.source == "llm":
        from dubmill.prompting import llm

        return Drawn(*llm.draw(params))
    if params.source == "bank":
        from dubmill.prompting import bank

        return Drawn(bank.draw(params), [])
    from dubmill.prompting import grammar

    return Drawn(grammar.draw(params), [])
