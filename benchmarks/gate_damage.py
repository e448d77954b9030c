"""Measures the gate on damaged pairs: which share of each damage it rejects, and which share of true pairs.

`python benchmarks/gate_damage.py --out FOLDER` renders true pairs of nano's world, sends them through both autoencoders and
the vocoder, as every self-made pair goes, damages the counterpart in every way of the list, finds bounds,
and reports rejection rates of each half of the puppets with the bounds of the other half. FOLDER keeps the measurements, so that a killed run
continues, and gets gate-damage.json and gate-damage.md with rates, bounds and curve.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dubmill.artifacts.rows import Line, PairRow
from dubmill.artifacts.store import PairSet
from dubmill.config.params import Params, load
from dubmill.media.clips import Clip
from dubmill.metrics import observe, pair_figures
from dubmill.metrics.scorers import Scorers
from dubmill.model.load import Modules
from dubmill.model.load import load as load_modules
from dubmill.nano import world
from dubmill.nano_card.films import DubCase, clip_of, dub_case, full_round_trip
from dubmill.quality.calibration import KEPT, MAX_TRUE, SELF_MADE, TARGET, TRUE, Calibration, calibrate
from dubmill.quality.damage import CLIP_DAMAGES
from dubmill.steps.backbone import backbone as materialize
from dubmill.worlds import world_of

logger = logging.getLogger("gate_damage")

FIRST_CASE = 5000  # unseen puppets that neither the card nor the demo uses
BATCH = 8


def main() -> None:
    """Measures what is missing, calibrates, and writes the findings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--pairs", type=int, default=80)
    parser.add_argument(
        "--self-made", type=Path, help="a PairSet of `dubmill step inpaint`, whose pairs are to be kept"
    )
    parser.add_argument("--out", type=Path, required=True, help="measurements, findings and curve")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    params = load(arguments.params)
    rows = measurements(params, arguments.pairs, arguments.out / "measurements.jsonl")
    if arguments.self_made:
        rows += self_made(params, PairSet.open(arguments.self_made))
    found = calibrate(rows, params.gate.strict)
    (arguments.out / "gate-damage.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
    page = "\n".join(markdown(found, params.gate.strict.model_dump()))
    (arguments.out / "gate-damage.md").write_text(page + "\n")
    logger.info(page)


def markdown(found: Calibration, old: Mapping[str, float]) -> Iterator[str]:
    """Yields the lines of the page: rates per damage, bounds, and the curve."""
    num_true = found.num_tested[TRUE]
    yield "# What the gate rejects, on nano\n"
    yield (
        f"`python benchmarks/gate_damage.py --out FOLDER`: true pairs of nano's world after both autoencoders and the vocoder, and the\n"
        f"same pairs with the counterpart damaged, {num_true} of each. The rates are cross-validated: each half of the puppets with\n"
        f"the bounds found on the other half. Target: at least {TARGET:.0%} of every damage and at most {MAX_TRUE:.0%} of "
        "true pairs rejected."
    )
    yield "\n| damage | rejected, bounds of the other half | rejected, bounds of all | rejected, earlier bounds | |\n|---|---|---|---|---|"
    for name, share in sorted(found.rejected.items(), key=lambda item: (item[0] not in KEPT, item[1], item[0])):
        mark = "**target missed**" if name in found.missed else ""
        yield f"| {name.replace('_', ' ')} | {share:.1%} | {found.rejected_by_found[name]:.1%} | {found.rejected_by_old[name]:.1%} | {mark} |"
    yield "\n| strict bound | found | earlier |\n|---|---|---|"
    yield from (f"| `{name}` | {bound:.4g} | {old[name]:g} |" for name, bound in found.bounds.items())
    yield (
        f"\nTightness moves all bounds from the loosest that reject their own damages (0) to the edge of the pairs to keep (1); chosen:\n"
        f"{found.tightness:g}. On all puppets, before the sync gates were loosened:\n"
    )
    yield "| tightness | least rejected damage | true pairs rejected |\n|---|---|---|"
    yield from (
        f"| {point.tightness:g} | {point.least_damage_rejected:.0%} | {point.true_rejected:.0%} |"
        for point in found.curve
    )


def measurements(params: Params, num_pairs: int, path: Path) -> list[dict[str, Any]]:
    """Returns {"damage", "puppet", "figures"} of every pair; `path` keeps whole batches, so that a killed run continues."""
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    rows = [row for batch in kept for row in batch]
    with tempfile.TemporaryDirectory() as scratch:
        backbone = materialize(params.backbone, Path(scratch) / "backbone")
        modules, scorers = load_modules(backbone), world_of(backbone).scorers(params.scorers)
        for first in range(len(kept) * BATCH, num_pairs, BATCH):
            cases = [dub_case(FIRST_CASE + index) for index in range(first, min(first + BATCH, num_pairs))]
            batch = list(_measure(cases, modules, scorers))
            with path.open("a") as stream:
                stream.write(json.dumps(batch) + "\n")
            rows += batch
            logger.info("measured %d of %d pairs", min(first + BATCH, num_pairs), num_pairs)
    return rows


def self_made(params: Params, pairs: PairSet) -> list[dict[str, Any]]:
    """Returns the measurements of self-made training pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        scorers = world_of(materialize(params.backbone, Path(scratch) / "backbone")).scorers(params.scorers)
    rows = []
    for row in pairs.split("train"):
        original, counterpart = (observe(pairs.clip(row.id, name), scorers) for name in ("original", "counterpart"))
        figures = pair_figures(original, counterpart, row)
        rows.append({"damage": SELF_MADE, "puppet": f"seed-{row.seed}", "figures": figures})
    return rows


def _measure(cases: list[DubCase], modules: Modules, scorers: Scorers) -> Iterator[dict[str, Any]]:
    rendered = [{TRUE: clip_of(case.truth), **rendered_damages(case)} for case in cases]
    originals = full_round_trip([clip_of(case.source) for case in cases], modules)
    decoded: list[dict[str, Clip]] = [{} for _ in cases]
    for name in rendered[0]:
        for clips, clip in zip(decoded, full_round_trip([clips[name] for clips in rendered], modules), strict=True):
            clips[name] = clip
    for case, original, clips in zip(cases, originals, decoded, strict=True):
        row, source = _row(case), observe(original, scorers)
        boxes_F4 = case.truth.mouth_box_F4
        damaged = {name: damage(clips[TRUE], boxes_F4) for name, damage in CLIP_DAMAGES.items()}
        for name, clip in {**clips, **damaged}.items():
            figures = pair_figures(source, observe(clip, scorers), row)
            yield {"damage": name, "puppet": row.id, "figures": figures}


def rendered_damages(case: DubCase) -> dict[str, Clip]:
    """Returns the damages that need another rendering of the counterpart half."""
    truth, source = clip_of(case.truth), clip_of(case.source)
    digits = [world.LANGUAGES[case.truth.phrases[0].language].index(word) for word in case.truth.phrases[0].words]
    language = case.truth.phrases[0].language
    third = next(tag for tag in world.LANGUAGES if tag not in {phrase.language for phrase in case.film.phrases})
    other = clip_of(_half(case, language, [(digit + 3) % 10 for digit in digits]))
    puppet = case.puppet
    strangers = (world.puppet(case.seed + 7919 * count) for count in range(1, 100))
    stranger = next(other for other in strangers if other.skin != puppet.skin and other.hair != puppet.hair)
    return {
        "lips_other_words": replace(other, audio_CN=truth.audio_CN),
        "lips_of_source": replace(source, audio_CN=truth.audio_CN),
        "source_copied": source,
        "other_words": other,
        "one_word_wrong": clip_of(_half(case, language, [(digits[0] + 3) % 10, *digits[1:]])),
        "other_language": clip_of(_half(case, third, digits)),
        "other_voice": clip_of(_half(case, language, digits, replace(puppet, voice=(puppet.voice + 4) % 8))),
        "other_face": clip_of(_half(case, language, digits, replace(stranger, voice=puppet.voice))),
    }


def _half(case: DubCase, language: str, digits: list[int], puppet: world.Puppet | None = None) -> world.PuppetClip:
    """The counterpart half with other words, another language or another puppet."""
    phrases = list(case.dubbed.phrases)
    phrases[case.half] = world.Phrase(language, tuple(world.LANGUAGES[language][digit] for digit in digits))
    film = world.film(puppet or case.puppet, (phrases[0], phrases[1]), motion_seed=case.seed)
    return world.halves(film)[case.half]


def _row(case: DubCase) -> PairRow:
    original, counterpart = (
        Line(language=film.phrases[0].language, text=" ".join(film.phrases[0].words))
        for film in (case.source, case.truth)
    )
    return PairRow(
        id=f"seed-{case.seed}", split="train", source="world", half=("first", "second")[case.half],
        seed=case.seed, speaker=case.puppet.describe(), original=original, counterpart=counterpart,
        mouth_boxes=case.source.mouth_box_F4.tolist(), accepted=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
