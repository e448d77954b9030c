"""Structured prompts from three sources in one form: a grammar (nano), phrase banks (LTX-2) or a language model."""

from __future__ import annotations

from dataclasses import dataclass

from dubmill.artifacts.rows import Prompt
from dubmill.config.params import PromptsParams
from dubmill.errors import ServiceUnavailableError
from dubmill.prompting.captions import dub_caption, over_articulated, switch_caption
from dubmill.prompting.form import faults

__all__ = ["GeneratedPrompts", "dub_caption", "faults", "generate_prompts", "over_articulated", "switch_caption"]


@dataclass(frozen=True)
class GeneratedPrompts:
    """The prompts that keep the form, and `{"id", "reason"}` of each prompt that was dropped."""

    prompts: list[Prompt]
    dropped: list[dict[str, str]]


def generate_prompts(params: PromptsParams) -> GeneratedPrompts:
    """Returns prompts p00000.. in order, training prompts first, from the source that `params` names.

    Equal params give equal prompts; those of a language model are equal only as far as its server repeats itself.

    Raises:
        UnsupportedTextError: the source has no words in one of the languages.
        InvalidParamsError: a language is named twice.
        ServiceUnavailableError: the language model did not answer, or gave no usable prompt for a split.
    """
    generated = _from_source(params)
    for prompt in generated.prompts:
        assert not faults(prompt), f"{prompt.id}: {'; '.join(faults(prompt))}"
    for split in ("train", "heldout"):
        if not any(prompt.split == split for prompt in generated.prompts):
            reason = generated.dropped[-1]["reason"]
            raise ServiceUnavailableError(
                f"no usable {split} prompt: {reason}",
                where=params.llm_url,
                cure="use a more capable model, raise prompts.llm_attempts, or use prompts.source bank",
            )
    return generated


def _from_source(params: PromptsParams) -> GeneratedPrompts:
    if params.source == "llm":
        from dubmill.prompting.llm import llm_prompts

        return GeneratedPrompts(*llm_prompts(params))
    if params.source == "bank":
        from dubmill.prompting.bank import bank_prompts

        return GeneratedPrompts(bank_prompts(params), [])
    from dubmill.prompting.grammar import grammar_prompts

    return GeneratedPrompts(grammar_prompts(params), [])
