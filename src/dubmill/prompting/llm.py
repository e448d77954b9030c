"""Prompts written by a language model behind an OpenAI-compatible endpoint, checked against the common form.

An answer that breaks the form is requested again with the violation named; after `llm_attempts` the prompt is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from pydantic import Field, ValidationError

from dubmill.artifacts.rows import Line, Prompt
from dubmill.config.params import PromptsParams
from dubmill.prompting import form
from dubmill.prompting.scene import Scene
from dubmill.prompting.slots import Slot, fill_slot, slots
from dubmill.providers.openai import Endpoint
from dubmill.text.languages import language

RULES = """You write scenes for a model that films one person speaking. Answer with one JSON object and nothing else.
Its keys, all strings: {keys}.
Write every key but the four spoken lines in English, in the present tense, without quotation marks, line breaks,
headings, lists, labels, timestamps or cuts, and at most {words} words in all. One person, one place, a static camera.
The spoken lines: everyday sentences of 8 to 14 words that take less than {seconds:g} seconds to say, in the native script, in
grammar that suits the speaker, without double quotes. A translation keeps meaning and length."""
MAX_SCENE_WORDS = 90


class Answer(Scene):
    """The JSON object that the model must return: a scene, two lines, and their translations."""

    first: str = Field(min_length=2, description="what the speaker says first, in {first}")
    second: str = Field(min_length=2, description="another sentence that the speaker then says, in {second}")
    first_dubbed: str = Field(min_length=2, description="the translation of first into {second}")
    second_dubbed: str = Field(min_length=2, description="the translation of second into {first}")

    def prompt(self, slot: Slot) -> Prompt:
        """Returns the prompt of `slot` with this answer's words."""
        lines = (
            Line(language=slot.first, text=self.first),
            Line(language=slot.second, text=self.second),
            Line(language=slot.second, text=self.first_dubbed),
            Line(language=slot.first, text=self.second_dubbed),
        )
        return fill_slot(slot, source="llm", speaker=self.speaker, lines=lines, caption=self.paragraph)

    @property
    def lines(self) -> set[str]:
        """The four spoken lines."""
        return {self.first, self.second, self.first_dubbed, self.second_dubbed}


class NoValidAnswerError(Exception):
    """No answer for a slot kept the form; the text is the reason. Caught in this module."""


def llm_prompts(params: PromptsParams) -> tuple[list[Prompt], list[dict[str, str]]]:
    """Returns the valid prompts, and the dropped slots as `{"id", "reason"}`; no spoken line occurs twice.

    Raises:
        ServiceUnavailableError: the endpoint does not answer, or refuses.
        UnsupportedTextError: a language is not in the table.
    """
    for tag in params.languages:
        language(tag)
    prompts, dropped, used_lines = list[Prompt](), list[dict[str, str]](), set[str]()
    with Endpoint(params.llm_url, params.llm_model) as endpoint:
        for slot in slots(params):
            try:
                answer = _request_answer(endpoint, params, slot, used_lines)
            except NoValidAnswerError as reason:
                dropped.append({"id": slot.id, "reason": str(reason)})
                continue
            used_lines |= answer.lines
            prompts.append(answer.prompt(slot))
    return prompts, dropped


def _request_answer(endpoint: Endpoint, params: PromptsParams, slot: Slot, used_lines: set[str]) -> Answer:
    messages, fault = request_messages(slot, params.line_seconds), ""
    for attempt in range(params.llm_attempts):
        text = endpoint.complete(messages, seed=slot.seed + attempt)
        try:
            return parse_answer(text, slot, used_lines, params.line_seconds)
        except ValueError as error:
            fault = str(error)
        again = f"That breaks the form: {fault}. Answer again with the whole JSON object, mended."
        messages = [
            *request_messages(slot, params.line_seconds),
            {"role": "assistant", "content": text},
            {"role": "user", "content": again},
        ]
    raise NoValidAnswerError(f"{fault} (after {params.llm_attempts} attempts)")


def request_messages(slot: Slot, line_seconds: float) -> list[dict[str, str]]:
    """Returns the chat messages that request one prompt."""
    names = {"first": language(slot.first).name, "second": language(slot.second).name}
    meanings = {name: (field.description or "").format(**names) for name, field in Answer.model_fields.items()}
    keys = "; ".join(f"{name} ({meaning})" for name, meaning in meanings.items())
    scene = f"Scene {slot.id}: a person speaks {names['first']} and then switches to {names['second']}."
    return [
        {"role": "system", "content": RULES.format(keys=keys, words=MAX_SCENE_WORDS, seconds=line_seconds)},
        {"role": "user", "content": f"{scene} Make person, place and lines unlike common examples."},
    ]


def parse_answer(text: str, slot: Slot, used_lines: set[str], line_seconds: float) -> Answer:
    """Returns the answer in a completion.

    Raises:
        ValueError: the violation, worded so that the model can correct it.
    """
    bare = re.sub(r"^\s*```(json)?|```\s*$", "", text.strip())
    try:
        answer = Answer.model_validate(json.loads(bare))
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON object ({error.msg})") from error
    except ValidationError as error:
        raise ValueError("; ".join(_error_phrases(error))) from error
    prompt = answer.prompt(slot)
    found = form.faults(prompt) or form.time_faults(prompt, line_seconds)
    if answer.lines & used_lines:
        found.append("a spoken line was already used in another scene")
    if found:
        raise ValueError("; ".join(found))
    return answer


def _error_phrases(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        yield f"{'.'.join(map(str, fault['loc'])) or 'the answer'}: {fault['msg']}"
