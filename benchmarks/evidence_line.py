"""What the experiments of `evidence.py` train on: sets of pairs, made once, and the adapters and figures of each arm."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import torch
from safetensors.torch import load_file, save

from dubmill.artifacts.draft import ALL_SHARDS
from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.storage import clip_members
from dubmill.artifacts.store import Adapter, Backbone, ClipSet, DubSet, LatentSet, PairSet
from dubmill.config.params import Params
from dubmill.dubbing.dubber import Dubber
from dubmill.errors import UsageError
from dubmill.generation.seeds import item_seed
from dubmill.media.clips import Clip
from dubmill.metrics import measure_pair
from dubmill.quality import apply_gates
from dubmill.report.figures import SUBJECT
from dubmill.report.measuring import HeldOutMeasurer
from dubmill.steps.backbone import backbone
from dubmill.steps.dub import dub
from dubmill.steps.encode import accepted, encode
from dubmill.steps.gate import gate
from dubmill.steps.inpaint import inpaint
from dubmill.steps.prompts import prompts
from dubmill.steps.synthesize import synthesize
from dubmill.steps.train import train
from dubmill.training.batches import LATENTS
from dubmill.worlds import world_of

PER_PAIR, PER_CAPTION = ("video", "audio", "face"), ("text_video", "text_audio", "text_mask")
BEST_OF = 4  # dubs of a training clip, of which one becomes the target of the second round
Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way to make an adapter: which pairs, changed settings, and the setting as a reader sees it."""

    name: str
    pairs: tuple[str, ...] = ("gated",)  # sets of PAIRS; several give equal shares of different prompts
    changes: Changes = field(default_factory=dict)  # of the section `train`
    share_of_pairs: float = 1.0  # of those that the gate accepted
    world: Changes = field(default_factory=dict)  # difficulties of the held-out pairs
    method: str = SUBJECT  # of the step dub


PAIRS: dict[
    str, Changes
] = {  # changes of the section `inpaint`; "gated" is self-made and judged, the others are all taken
    "gated": {},
    "not gated": {},
    "true": {"source": "world"},
    "whole half": {"mask_threshold": 0.0},
}
SECOND_ROUND, NEAR_VOICE = "best of four", "nearest voices"  # sets made of others
SAME_PAIRS = ("true", "whole half")  # sets of which those pairs are taken that the gate accepted of the self-made ones
PLAIN = Arm("as committed")


class Line:
    """The artifacts that all arms share, made when they are first asked for; `folder` keeps them."""

    def __init__(self, folder: Path, params: Params, *, is_quick: bool) -> None:
        """Raises UsageError where the folder was filled with other params."""
        file, text = folder / "params.json", params.model_dump_json(indent=1)
        folder.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.read_text() != text:
            raise UsageError("it was filled with other params", where=str(folder), cure="give an empty folder")
        write_atomically(file, text.encode())
        self.folder, self.params = folder, params
        self.num_steps = params.train.num_steps // (2 if is_quick else 1)

    @cached_property
    def backbone(self) -> Backbone:
        """nano."""
        return backbone(self.params.backbone, self.folder / "backbone")

    @cached_property
    def clips(self) -> ClipSet:
        """The switch clips."""
        prompt_set = prompts(self.params.prompts, self.folder / "prompts")
        made = synthesize(self.backbone, prompt_set, self.params.synthesize, self.folder / "synthesize")
        assert isinstance(made, ClipSet)
        return made

    @cached_property
    def heldout_clips(self) -> ClipSet:
        """The prompts of the held-out pairs, which are rendered and have no clips."""
        rows = [row for row in self.clips.rows if row.prompt.split == "heldout"]
        draft = ClipSet.draft(self.folder / "heldout", Lineage.of("synthesize", {"rows": len(rows)}, self.clips))
        if not draft.is_sealed:
            draft.add_shard(0, rows, {})
        return draft.seal(self.clips.info)

    def inpainted(self, clips: ClipSet, name: str, changes: Changes) -> PairSet:
        """Pairs made with a changed section `inpaint`."""
        params = self.params.inpaint.model_copy(update=dict(changes))
        made = inpaint(self.backbone, clips, params, self.folder / "inpaint" / slug(name))
        assert isinstance(made, PairSet)
        return made

    def pairs(self, name: str) -> PairSet:
        """Pairs with verdicts: the gate's for "gated", else all are accepted; "not gated" are the pairs of "gated"."""
        if name == SECOND_ROUND:
            return self.second_round()
        if name == NEAR_VOICE:
            return self.near_voices()
        made = self.inpainted(self.clips, "gated" if name == "not gated" else name, PAIRS[name])
        params = self.params.gate
        if name != "gated":
            strict = params.strict.model_copy(update=dict.fromkeys(type(params.strict).model_fields, "none"))
            params = params.model_copy(update={"strict": strict})
        return gate(self.backbone, made, self.params.scorers, params, self.folder / "gate" / slug(name))

    def near_voices(self) -> PairSet:
        """The half of the accepted pairs whose voices are most alike."""
        rows = self.measurements("gated")
        cosines = sorted(rows[row.id]["voice_cosine"] for row in accepted(self.pairs("gated")))
        strict = self.params.gate.strict.model_copy(update={"min_voice_cosine": cosines[len(cosines) // 2]})
        params = self.params.gate.model_copy(update={"strict": strict, "min_accepted_share": 0.0})
        made = self.inpainted(self.clips, "gated", PAIRS["gated"])
        return gate(self.backbone, made, self.params.scorers, params, self.folder / "gate" / slug(NEAR_VOICE))

    def measurements(self, name: str) -> dict[str, dict[str, Any]]:
        """The gate's figures of a set's pairs, by id."""
        rows = parquet.read_table(self.pairs(name).file("measurements.parquet")).to_pylist()
        return {row["id"]: row for row in rows}

    def second_round(self) -> PairSet:
        """The training clips with dubs by the first adapter as targets: of four that pass the gate the one with the nearest voice.

        Rejection sampling: the gate is the reward. Clips of which no dub passes are left out.
        """
        first, pairs = self.adapter(PLAIN, 0), self.pairs("not gated")
        lineage = Lineage.of("inpaint", {"best_of": BEST_OF}, self.backbone, pairs, first)
        draft = PairSet.draft(self.folder / "gate" / slug(SECOND_ROUND), lineage)
        if draft.is_sealed:
            return draft.seal()
        batches = list(pairs.batches(pairs.split("train"), self.params.dub.batch_size))
        if todo := draft.missing(len(batches), ALL_SHARDS):
            dubber = Dubber.load(self.backbone, first, sampling=self.params.dub.sampling)
            scorers = world_of(self.backbone).scorers(self.params.scorers)
        for index in todo:
            rows, originals = batches[index], [pairs.clip(row.id, "original") for row in batches[index]]
            best: dict[str, tuple[float, Clip]] = {}
            for attempt in range(BEST_OF):
                seeds = [item_seed(self.params.dub.seed + 1 + attempt, row.seed) for row in rows]
                speakers = [row.speaker for row in rows]
                dubs = dubber.dub_batch(originals, [row.counterpart for row in rows], seeds, speakers=speakers)
                measured = [
                    measure_pair(original, made, row=row, scorers=scorers)
                    for row, original, made in zip(rows, originals, dubs, strict=True)
                ]
                good = passing(measured, self.params)
                for row, made, figures in zip(rows, dubs, measured, strict=True):
                    voice = float(figures["voice_cosine"])
                    if row.id in good and voice > best.get(row.id, (-1.0, made))[0]:
                        best[row.id] = voice, made
            files, kept = {}, []
            for row, original in zip(rows, originals, strict=True):
                if row.id in best:
                    kept.append(row.model_copy(update={"accepted": True}))
                    files |= clip_members(f"{row.id}/original", original)
                    files |= clip_members(f"{row.id}/counterpart", best[row.id][1])
            draft.add_shard(index, kept, files)
        return draft.seal({**pairs.info, "gated": True})

    def latents(self, name: str) -> LatentSet:
        """The accepted pairs of one set, encoded."""
        return encode(self.backbone, self.pairs(name), self.params.encode, self.folder / "encode" / slug(name))

    def heldout(self, world: Changes) -> PairSet:
        """True pairs to dub, rendered at a difficulty."""
        if not world:
            return self.pairs("gated")
        difficulty = self.params.inpaint.world.model_copy(update=dict(world))
        return self.inpainted(self.heldout_clips, json.dumps(world), {"source": "world", "world": difficulty})

    def candidates(self, name: str) -> list[tuple[int, int]]:
        """Accepted pairs of a set as (seed of the prompt, row in its latents): one of each prompt before a second one.

        Of the sets in `SAME_PAIRS` only those that the gate accepted of the self-made ones, so that these sets show the same puppets.
        """
        wanted = {row.id for row in accepted(self.pairs("gated"))} if name in SAME_PAIRS else None
        seen: Counter[int] = Counter()
        turns: list[tuple[int, int, int]] = []
        for place, row in enumerate(accepted(self.pairs(name))):
            if wanted is None or row.id in wanted:
                turns.append((seen[row.seed], row.seed, place))
                seen[row.seed] += 1
        return [(seed, place) for _, seed, place in sorted(turns)]

    def pair_places(self, names: Sequence[str], count: int) -> list[tuple[int, int, int]]:
        """The pairs of an arm as (number of the set, seed, row): equally many of each set, of prompts that no other set has.

        Raises:
            UsageError: there are too few.
        """
        by_set = [self.candidates(name) for name in names]
        seeds = sorted({seed for pairs in by_set for seed, _ in pairs})
        places = []
        for number, pairs in enumerate(by_set):
            own = set(seeds[number :: len(names)])
            share = count // len(names) + (number < count % len(names))
            places += [(number, seed, row) for seed, row in pairs if seed in own][:share]
        if len(places) < count:
            what = f"{' and '.join(names)} have {len(places)} pairs, and {count} are needed"
            raise UsageError(what, cure="raise prompts.num_train")
        return places

    def chosen(self, names: Sequence[str], count: int) -> LatentSet:
        """The latents of an arm's pairs."""
        places, sources = self.pair_places(names, count), [self.latents(name) for name in names]
        params = {"sets": [one.digest for one in sources], "pairs": places}
        lineage = Lineage.of("encode", params, self.backbone, *sources)
        draft = LatentSet.draft(self.folder / "chosen" / slug(f"{'+'.join(names)} {count}"), lineage)
        if draft.is_sealed:
            return draft.seal()
        tensors = [load_file(latents.file(LATENTS)) for latents in sources]
        merged = {name: torch.stack([tensors[of][name][row] for of, _, row in places]) for name in PER_PAIR}
        for name in PER_CAPTION:  # rows 2p and 2p + 1 of pair p, and the empty caption as the last one
            rows = [tensors[of][name][2 * row + side] for of, _, row in places for side in (0, 1)]
            merged[name] = torch.stack([*rows, tensors[0][name][-1]])
        draft.write(LATENTS, save(merged))
        return draft.seal({**sources[0].info, "num_pairs": count})

    def num_pairs(self, arm: Arm) -> int:
        """Number of pairs that an arm trains on: its share of what the gate accepted, or fewer where a set has fewer."""
        wanted = round(arm.share_of_pairs * self.common_count)
        return min(wanted, len(self.candidates(arm.pairs[0]))) if len(arm.pairs) == 1 else wanted

    def pairs_in_words(self, arm: Arm) -> str:
        """How many pairs of how many puppets an arm trains on."""
        if arm.method != SUBJECT:
            return ""
        places = self.pair_places(arm.pairs, self.num_pairs(arm))
        return f"{len(places)} ({len({seed for _, seed, _ in places})})"

    @cached_property
    def common_count(self) -> int:
        """Number of pairs that the gate accepted."""
        return len(accepted(self.pairs("gated")))

    def adapter(self, arm: Arm, seed: int) -> Adapter:
        """The adapter of an arm, trained with the `seed`-th seed."""
        changes = dict(arm.changes)
        num_steps = round(self.num_steps * changes.pop("num_steps", 1.0))
        update = {**changes, "num_steps": num_steps, "seed": self.params.train.seed + seed}
        latents = self.chosen(arm.pairs, self.num_pairs(arm))
        params = self.params.train.model_copy(update=update)
        return train(
            self.backbone, latents, params, self.folder / "train" / slug(f"{shared_training(arm)} {num_steps} {seed}")
        )

    def rows_file(self, arm: Arm, seed: int) -> Path:
        """The figures of an arm's dubs by clip."""
        key = f"{arm.method} {shared_training(arm)} {self.num_steps} {seed} {json.dumps(dict(arm.world))}"
        return self.folder / "rows" / f"{slug(key)}.json"

    def measure(self, arm: Arm, seed: int) -> None:
        """Train an arm, dub the held-out pairs, and write `rows_file`."""
        if (file := self.rows_file(arm, seed)).is_file():
            return
        heldout, params = self.heldout(arm.world), self.params.dub.model_copy(update={"methods": [arm.method]})
        dubs = dub(self.backbone, self.adapter(arm, seed), heldout, params, self.folder / "dub" / file.stem)
        assert isinstance(dubs, DubSet)
        measurer = HeldOutMeasurer(dubs, heldout, world_of(self.backbone).scorers(self.params.scorers))
        rows = [row for row in measurer.measured() if row.method == arm.method]
        file.parent.mkdir(exist_ok=True)
        write_atomically(
            file, json.dumps([{"pair": row.pair_id, "cluster": row.cluster, **row.values} for row in rows]).encode()
        )


def passing(measurements: Sequence[Mapping[str, Any]], params: Params) -> set[str]:
    """The ids of the measured pairs that the gate accepts."""
    return {verdict.id for verdict in apply_gates(measurements, params.gate).verdicts if verdict.is_accepted}


def slug(text: str) -> str:
    """A file name for an arm or a set."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def shared_training(arm: Arm) -> str:
    """What arms that share an adapter have in common."""
    return f"{'+'.join(arm.pairs)} {arm.share_of_pairs} {json.dumps(dict(arm.changes))}"
