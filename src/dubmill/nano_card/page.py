"""Writes the card as a Markdown page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dubmill.nano_card.figures import MEANINGS
from dubmill.nano_card.targets import TARGETS, Rows, differences, reached, summary

KINDS = {
    "world": "rendered clips, unchanged: the oracle",
    "round_trip": "the same clips after both autoencoders and the vocoder",
    "vocoder": "the same clips with their sound resynthesised from its true log-mel spectrogram",
    "from_caption": "clips that the base generates from the caption alone",
    "true_dub": "a half rendered in the other language, compared with the original half: the oracle of dubbing",
    "true_dub_round_trip": "the same after both autoencoders and the vocoder: the most that a dub by nano can reach",
    "source_round_trip": "the original half after both autoencoders and the vocoder",
    "inpainted": "the half inpainted into the other language",
    "adapter": "held-out halves dubbed by the adapter that the pipeline trained on self-made, gated pairs",
    "base": "the same halves dubbed by the base without an adapter, given the same references",
    "cascade": "the sound of the true dub after its round trip, with the unchanged picture",
    "ceiling": "the true dub after both autoencoders and the vocoder, on the same held-out halves",
}
MAX_SECONDS_PER_CLIP, MIN_FILMS_PER_SECOND = 1.5, 20.0


def card(rows: Rows, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns everything that the page shows, as plain data."""
    values = {target: round(reached(target, rows), 4) for target in TARGETS}
    return {
        **facts,
        "targets": [
            {
                "description": target.description,
                "least": target.least,
                "reached": value,
                "is_reached": value >= target.least,
            }
            for target, value in values.items()
        ],
        "kinds": KINDS,
        "meanings": MEANINGS,
        "figures": summary(rows),
        "adapter_minus": {baseline: differences(rows, baseline) for baseline in ("base", "cascade")},
    }


def card_page(card: Mapping[str, Any], tried: str) -> str:
    """Returns the Markdown page of a card; `tried` is its section about targets that are not reached."""
    sections = (_head, _targets, _figures, _differences, _scorers, _training)
    return "\n".join([*(line for section in sections for line in section(card)), tried])


def _head(card: Mapping[str, Any]) -> Iterator[str]:
    line = card["line"]
    yield "# Measured quality of nano\n"
    yield (
        f"{card['num_clips']} clips of each kind, of puppets that no part was trained on, saying random sequences of digits\n"
        "made for this card; means with their 95 % bootstrap interval over puppets. These figures were measured on nano and say nothing about LTX-2.\n"
        f"`make card` measured them from the shipped weights in {card['measured_seconds']} s on {card['num_cores']} cores. "
        "The scorers read\npixels and waveforms and were used in no training loss."
    )
    yield (
        f"\nThe pipeline trained the adapter on {line['num_accepted']} self-made pairs that the gate accepted of "
        f"{line['num_pairs']}.\n"
    )
    yield "![Clips frame by frame](images/nano-sheet.png)\n\n![Their sound](images/nano-mels.png)\n"


def _targets(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## Targets\n\n| figure | target | measured | |\n|---|---|---|---|"
    for target in card["targets"]:
        yield f"| {target['description']} | {target['least']:g} | {target['reached']:.3g} | {_verdict(target['is_reached'])} |"
    seconds, rate = card["seconds_per_clip"], card["films_per_second"]
    yield (
        f"| seconds to generate a clip from text on {card['num_cores']} cores, at most | {MAX_SECONDS_PER_CLIP:g} | "
        f"{seconds:.3g} | {_verdict(seconds <= MAX_SECONDS_PER_CLIP)} |"
    )
    yield (
        f"| clips rendered per second on one core | {MIN_FILMS_PER_SECOND:g} | {rate:.3g} | "
        f"{_verdict(rate >= MIN_FILMS_PER_SECOND)} |\n"
    )


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "**not reached**"


def _figures(card: Mapping[str, Any]) -> Iterator[str]:
    figures = card["figures"]
    yield "## Figures\n"
    yield from (f"- `{kind}`: {meaning}" for kind, meaning in card["kinds"].items() if kind in figures)
    yield f"\n| figure | {' | '.join(figures)} | meaning |\n|---|{'---|' * (len(figures) + 1)}"
    for name, meaning in card["meanings"].items():
        cells = [_cell(row[name]) if name in row else "–" for row in figures.values()]
        if set(cells) != {"–"}:
            yield f"| {name} | {' | '.join(cells)} | {meaning} |"
    yield ""


def _differences(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## The adapter minus the baselines, on the same clips\n\n| figure | minus base | minus cascade |\n|---|---|---|"
    base, cascade = card["adapter_minus"]["base"], card["adapter_minus"]["cascade"]
    yield from (f"| {figure} | {_cell(base[figure])} | {_cell(cascade[figure])} |" for figure in base)
    yield ""


def _cell(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.3g} ({interval['low']:.3g} to {interval['high']:.3g})"


def _scorers(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## The scorers, on clean rendered clips of unseen puppets\n\n| figure | value |\n|---|---|"
    yield from (f"| {name} | {value:.3g} |" for name, value in card["scorers"].items())
    yield ""


def _training(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training\n\n| part | steps | minutes | last held-out figures |\n|---|---|---|---|"
    for part, log in card["training"].items():
        last = ", ".join(f"{name} {values[-1][1]:.3g}" for name, values in log["curve"].items())
        yield f"| {part} | {log['steps']:,} | {log['seconds'] / 60:.0f} | {last} |"
    yield (
        "\n`python -m dubmill.nano pretrain all --out DIR` trains every part from its seeds, continues an interrupted run, "
        "and keeps\ncurves and samples in DIR; `python -m dubmill.nano ship DIR` gathers the shipped weights from it.\n"
    )
    yield "![Curves](images/nano-curves.png)\n"


def write_card(card: Mapping[str, Any], tried: Path, docs: Path) -> None:
    """Writes `nano-card.md` and `nano-card.json` to `docs`."""
    (docs / "nano-card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    (docs / "nano-card.md").write_text(card_page(card, tried.read_text()))
