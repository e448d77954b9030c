"""The line itself: an adapter trained on self-made, gated pairs, and what it makes of unseen puppets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter, Backbone, DubSet, PairSet
from dubmill.config.params import Params
from dubmill.nano.world import Phrase
from dubmill.nano_card.figures import Row, against_source, alone
from dubmill.worlds import world_of


@dataclass(frozen=True)
class Trained:
    """How the line went as far as its adapter."""

    num_made: int  # self-made pairs
    num_accepted: int  # of them, by the gate
    seconds: dict[str, float]  # of each step


def trained(backbone: Backbone, params: Params, work: Path) -> Trained:
    """Run the steps `prompts` to `train` in `work`."""
    from dubmill.steps.encode import encode
    from dubmill.steps.gate import gate
    from dubmill.steps.inpaint import inpaint
    from dubmill.steps.prompts import prompts
    from dubmill.steps.synthesize import synthesize
    from dubmill.steps.train import train

    seconds: dict[str, float] = {}

    def timed(step, *inputs):  # noqa: ANN001, ANN202 (any step)
        started, word = time.monotonic(), step.__name__
        made = step(*inputs, getattr(params, word), work / word)
        seconds[word] = round(time.monotonic() - started, 1)
        return made

    clips = timed(synthesize, backbone, timed(prompts))
    pairs = timed(inpaint, backbone, clips)
    gated = timed(gate, backbone, pairs)
    timed(train, backbone, timed(encode, backbone, gated))
    made, accepted = ([row for row in some.rows if row.split == "train"] for some in (pairs, gated))
    return Trained(len(made), sum(row.accepted for row in accepted), seconds)


def dubbed(backbone: Backbone, params: Params, work: Path, method: str) -> dict[str, list[Row]]:
    """Dub every held-out pair in `work` by one method; a figure row per pair, under the name of the method."""
    from dubmill.steps.dub import dub

    pairs, adapter = PairSet.open(work / "gate"), Adapter.open(work / "train")
    how = params.dub.model_copy(update={"methods": [method]})
    return _rows(backbone, pairs, dub(backbone, adapter, pairs, how, work / f"dub-{method}"))


def _rows(backbone: Backbone, pairs: PairSet, dubs: DubSet) -> dict[str, list[Row]]:
    judge = world_of(backbone).scorers()
    rows: dict[str, list[Row]] = {}
    by_id = {row.id: row for row in pairs.split("heldout")}
    for made in dubs.rows:
        pair = by_id[made.pair_id]
        source = pairs.clip(pair.id, "original")
        clip = dubs.clip(made.id, "dub")
        row = alone(judge, clip, (_phrase(made.line),)) | against_source(judge, clip, source, pair.mouth_boxes)
        rows.setdefault(made.method, []).append(row)
    return rows


def _phrase(line: Line) -> Phrase:
    return Phrase(line.language, tuple(line.text.split()))
