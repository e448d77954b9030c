"""The row types of the sets: prompt, clip, pair and dub."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """Base class of the rows: frozen, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(Row):
    """Words in a language: `text` in the native script, `language` a BCP-47 tag."""

    language: str
    text: str


class Prompt(Row):
    """The content of one switch clip, and what each half says after it is inpainted into the other language."""

    id: str
    split: str  # train | heldout
    source: str  # grammar | bank | llm | footage | footage-pair
    seed: int
    speaker: str
    first: Line
    second: Line
    first_dubbed: Line
    second_dubbed: Line
    caption: str  # of the switch clip
    caption_first_dubbed: str  # of the whole clip when its first half is inpainted
    caption_second_dubbed: str
    consent: str = ""  # of the person in the footage; empty: nobody real is in it


FOOTAGE, FOOTAGE_PAIR = "footage", "footage-pair"  # sources of prompts: one recording, or two in two languages
TRUE_PAIRS = ("world", "footage")  # sources of pairs whose counterpart is the truth and not generated


class ClipRow(Row):
    """One switch clip, as member `clip`; where `has_clip` is false there is none: the world renders the pair later, or
    the footage holds it already, as members `original` and `counterpart`."""

    id: str
    prompt: Prompt
    has_clip: bool


class PairRow(Row):
    """Two clips of the same person and scene, in two languages, with the mouth box of each frame (x0, y0, x1, y1)."""

    id: str
    split: str
    source: str  # self-made | world | footage
    half: str  # first | second
    seed: int
    speaker: str
    original: Line
    counterpart: Line
    mouth_boxes: list[list[float]]
    consent: str = ""
    accepted: bool  # by the gate; False before it


class DubRow(Row):
    """One dub of a held-out clip: its words and the method that made it."""

    id: str
    pair_id: str
    method: str  # adapter | base | cascade | ceiling
    line: Line
    seed: int
