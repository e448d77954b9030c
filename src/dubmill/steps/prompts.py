"""`prompts`: what the synthetic speakers are and say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dubmill import prompting
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import Prompt
from dubmill.artifacts.store import PromptSet
from dubmill.config.params import PromptsParams

PER_SHARD = 1000
NUM_SAMPLES = 3


def prompts(params: PromptsParams, out: Path) -> PromptSet:
    """Draw structured prompts and seal them at `out`, with `prompts.md` to look at; `info["dropped"]` names the refused.

    Raises:
        UnsupportedTextError: the source has no words in one of the languages.
        InvalidParamsError: a language is named twice.
        ServiceUnavailableError: the language model did not answer, or gave nothing usable.
    """
    draft = PromptSet.draft(out, Lineage(step="prompts", params=params.model_dump()))
    if draft.is_sealed:
        return draft.seal()
    generated = prompting.generate_prompts(params)
    for start in range(0, len(generated.prompts), PER_SHARD):
        draft.add_shard(start // PER_SHARD, generated.prompts[start : start + PER_SHARD], {})
    draft.write("prompts.md", "\n".join(page(generated.prompts, generated.dropped)).encode())
    return draft.seal({"num_prompts": len(generated.prompts), "source": params.source, "dropped": generated.dropped})


def page(drawn: Sequence[Prompt], dropped: Sequence[dict[str, str]]) -> Iterator[str]:
    """The lines of a Markdown page with a few prompts of each split."""
    yield "# Prompts\n"
    for split in ("train", "heldout"):
        of_split = [prompt for prompt in drawn if prompt.split == split]
        yield f"## {split}: {len(of_split)}\n"
        for prompt in of_split[:NUM_SAMPLES]:
            yield from _sample(prompt)
    yield f"## dropped: {len(dropped)}\n"
    yield from (f"- {one['id']}: {one['reason']}" for one in dropped)


def _sample(prompt: Prompt) -> Iterator[str]:
    yield f"**{prompt.id}** ({prompt.first.language} to {prompt.second.language}, seed {prompt.seed})\n"
    yield f"> {prompt.caption}\n"
    yield f"First half dubbed into {prompt.first_dubbed.language}:\n"
    yield f"> {prompt.caption_first_dubbed}\n"
    yield f"Second half dubbed into {prompt.second_dubbed.language}:\n"
    yield f"> {prompt.caption_second_dubbed}\n"
