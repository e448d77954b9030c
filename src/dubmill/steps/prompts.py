"""Step `prompts`: makes structured prompts, which say who the speakers are and what they say."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from dubmill import prompting
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import FOOTAGE, Prompt
from dubmill.artifacts.store import PromptSet
from dubmill.config.params import PromptsParams
from dubmill.prompting import GeneratedPrompts
from dubmill.prompting.footage import Footage, read_footage

logger = logging.getLogger(__name__)

PER_SHARD, VIDEOS_PER_SHARD = 1000, 16
NUM_SAMPLES = 3


def prompts(params: PromptsParams, out: Path) -> PromptSet:
    """Generate structured prompts and seal them at `out`, with `prompts.md` for a person to read.

    Footage is copied into the set, so that later steps need no other folder. `info["dropped"]` names the prompts and
    recordings that cannot be used, each with its reason.

    Raises:
        UsageError: there is no manifest of the footage, or it lacks a column.
        UnsupportedTextError: the source has no words in one of the languages.
        InvalidParamsError: a language is named twice, or no recording of the footage can be used.
        ServiceUnavailableError: the language model did not answer, or gave nothing usable.
    """
    footage = read_footage(params) if params.source == FOOTAGE else None
    values = params.model_dump() | ({"footage_digest": footage.digest} if footage else {})
    lineage = Lineage.of("prompts", values, licence=params.licence, consent=footage.consent if footage else "")
    draft = PromptSet.draft(out, lineage)
    if draft.is_sealed:
        return draft.seal()
    if footage is not None:
        generated = GeneratedPrompts(footage.prompts, footage.dropped)
    else:
        generated = prompting.generate_prompts(params)
    per_shard = PER_SHARD if footage is None else VIDEOS_PER_SHARD
    for index, start in enumerate(range(0, len(generated.prompts), per_shard)):
        if not draft.has_shard(index):
            shard = generated.prompts[start : start + per_shard]
            draft.add_shard(index, shard, _videos(shard, footage) if footage else {})
    for one in generated.dropped:
        logger.warning("dropped %s: %s", one["id"], one["reason"])
    draft.write("prompts.md", "\n".join(sample_page(generated.prompts, generated.dropped)).encode())
    return draft.seal({"num_prompts": len(generated.prompts), "source": params.source, "dropped": generated.dropped})


def _videos(prompts: Sequence[Prompt], footage: Footage) -> dict[str, bytes]:
    """Returns the recordings of some prompts, byte for byte, by member name."""
    return {
        f"{prompt.id}/{name}": path.read_bytes()
        for prompt in prompts
        for name, path in footage.files[prompt.id].items()
    }


def sample_page(drawn: Sequence[Prompt], dropped: Sequence[dict[str, str]]) -> Iterator[str]:
    """Yields the lines of a Markdown page with a few prompts of each split."""
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
