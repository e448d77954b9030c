"""The card as a page and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dubmill.nano_card.figures import MEANINGS
from dubmill.nano_card.targets import TARGETS, Rows, ahead, reached, summary

KINDS = {
    "world": "clean films of the world: the oracle",
    "round_trip": "the same through both autoencoders and the vocoder",
    "vocoder": "the same with their sound made again from its true log-mel",
    "from_caption": "made by the base from the caption alone",
    "true_dub": "a half filmed in the other language, against the half as it was: the oracle of dubbing",
    "true_dub_round_trip": "the same through both autoencoders and the vocoder: the most that a dub by nano can reach",
    "source_round_trip": "the half as it was, through both autoencoders and the vocoder",
    "inpainted": "the half made new in the other language by inpainting",
    "adapter": "held-out halves dubbed by the adapter that the line trained on self-made, gated pairs",
    "base": "the same by the base alone, given the same references",
    "cascade": "the true dub's sound under the untouched picture",
}


def card(rows: Rows, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page tells, as plain data."""
    targets = [{"told": one.told, "least": one.least, "reached": round(reached(one, rows), 4)} for one in TARGETS]
    return {
        **facts,
        "targets": [{**one, "is_reached": one["reached"] >= one["least"]} for one in targets],
        "kinds": KINDS,
        "meanings": MEANINGS,
        "figures": summary(rows),
        "adapter_less": {other: ahead(rows, other) for other in ("base", "cascade")},
    }


def page(told: Mapping[str, Any], tried: str) -> str:
    """The Markdown page of a card; `tried` says what was tried where a figure is not reached."""
    return "\n".join(
        [*_head(told), *_targets(told), *_figures(told), *_ahead(told), *_scorers(told), *_training(told), tried]
    )


def _head(told: Mapping[str, Any]) -> Iterator[str]:
    line = told["line"]
    yield "# What nano reaches\n"
    yield (
        f"{told['num_clips']} clips of each kind, of puppets that no part was trained on, saying digits in orders drawn for\n"
        "them; means with their 95 % bootstrap interval. These are nano's own figures and say nothing of LTX-2. Measured in\n"
        f"{told['measured_seconds']} s on {told['num_cores']} cores by `make card` from the shipped weights, by scorers that hear\n"
        "waveforms and see pixels and were used in no training loss."
    )
    yield (
        f"\nThe adapter was trained by the line itself on {line['num_accepted']} self-made pairs that the gate accepted of "
        f"{line['num_made']}.\n"
    )
    yield "![Clips frame by frame](images/nano-sheet.png)\n\n![Their sound](images/nano-mels.png)\n"


def _targets(told: Mapping[str, Any]) -> Iterator[str]:
    yield "## Targets\n\n| figure | wanted | reached | |\n|---|---|---|---|"
    for one in told["targets"]:
        verdict = "reached" if one["is_reached"] else "**not reached**"
        yield f"| {one['told']} | {one['least']:g} | {one['reached']:.3g} | {verdict} |"
    yield (
        f"| a clip from text on {told['num_cores']} cores, in s (at most) | 1.5 | {told['seconds_per_clip']:.3g} | "
        f"{'reached' if told['seconds_per_clip'] <= 1.5 else '**not reached**'} |"
    )
    yield (
        f"| films of the world a second, on one core | 20 | {told['films_per_second']:.3g} | "
        f"{'reached' if told['films_per_second'] >= 20 else '**not reached**'} |\n"
    )


def _figures(told: Mapping[str, Any]) -> Iterator[str]:
    yield "## Figures\n"
    yield from (f"- `{name}`: {meaning}" for name, meaning in told["kinds"].items() if name in told["figures"])
    yield f"\n| figure | {' | '.join(told['figures'])} | meaning |\n|---|{'---|' * (len(told['figures']) + 1)}"
    for figure, meaning in told["meanings"].items():
        cells = [_cell(row[figure]) if figure in row else "–" for row in told["figures"].values()]
        yield f"| {figure} | {' | '.join(cells)} | {meaning} |"
    yield ""


def _ahead(told: Mapping[str, Any]) -> Iterator[str]:
    yield "## The adapter less the others, on the same clips\n\n| figure | less base | less cascade |\n|---|---|---|"
    base, cascade = told["adapter_less"]["base"], told["adapter_less"]["cascade"]
    yield from (f"| {figure} | {_cell(base[figure])} | {_cell(cascade[figure])} |" for figure in base)
    yield ""


def _cell(one: Mapping[str, float]) -> str:
    return f"{one['mean']:.3g} ({one['low']:.3g} to {one['high']:.3g})"


def _scorers(told: Mapping[str, Any]) -> Iterator[str]:
    yield "## The scorers themselves, on clean films of unseen puppets\n\n| figure | value |\n|---|---|"
    yield from (f"| {name} | {value:.3g} |" for name, value in told["scorers"].items())
    yield ""


def _training(told: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training\n\n| part | steps | minutes | last held-out figures |\n|---|---|---|---|"
    for part, one in told["training"].items():
        last = ", ".join(f"{name} {values[-1][1]:.3g}" for name, values in one["curve"].items())
        yield f"| {part} | {one['steps']:,} | {one['seconds'] / 60:.0f} | {last} |"
    yield (
        "\n`python -m dubmill.nano pretrain all --out DIR` trains every part from its seeds, goes on where it was stopped, and\n"
        "keeps curves and samples in DIR; `python -m dubmill.nano ship DIR` makes the shipped weights of it.\n"
    )
    yield "![Curves](images/nano-curves.png)\n"


def write(told: Mapping[str, Any], tried: Path, docs: Path) -> None:
    """`nano-card.md` and `nano-card.json` in `docs`."""
    import json

    (docs / "nano-card.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    (docs / "nano-card.md").write_text(page(told, tried.read_text()))
