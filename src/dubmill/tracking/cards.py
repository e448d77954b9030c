"""The card of an adapter: what it is, what it is for, where it comes from, and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping

import yaml

from dubmill.artifacts import Adapter, Report
from dubmill.tracking.runs import METRICS_JSON

NANO = (
    "These figures are of the **nano** backbone: a toy world of 64-pixel puppets that say digit words. They show that "
    "the line works; they say nothing about real faces, real speech or LTX-2."
)
USE = """\
Dubbing of short clips of one speaker who agreed to it: the clip goes in with the new words and their language; out
comes the same person saying them, with the mouth moving to the new sound.

Not for: people who did not consent, impersonation, or passing the result off as a recording. Every dub made with
dubmill says in its metadata that it is machine-made; leave that in place."""


def base_of(adapter: Adapter, report: Report) -> str:
    """The backbone's repository (`nano`: the embedded one) as far as the two artifacts tell it, else nothing."""
    if report.info.get("is_nano"):
        return "nano"
    return next((info["base_model"] for info in (adapter.info, report.info) if info.get("base_model")), "")


def model_card(adapter: Adapter, report: Report, *, name: str, base: str) -> str:
    """The card as Markdown with the front matter that model hubs read; equal artifacts give equal cards."""
    lineage = adapter.lineage
    front = {"license": lineage.licence.lower() or "unknown", "tags": ["dubbing", "lora", "audio-video"]}
    front |= {"base_model": base} if base else {}
    source = lineage.pair_source or "unknown"
    inputs = "\n".join(f"- {word}: `{digest}`" for word, digest in sorted(lineage.inputs.items())) or "- unknown"
    return f"""---
{yaml.safe_dump(front, sort_keys=True).strip()}
---
# {name}

A LoRA adapter that turns the joint audio-video diffusion model `{base or "unknown"}` into a dubbing model, trained on
bilingual pairs of the kind: **{source}**.

## Use

{USE}

## Licence

`{lineage.licence or "unknown"}`, that of the backbone it derives from; it travels with every copy.

## Data

Pairs: {_pairs(source)}. Consent: {lineage.consent or "no recordings of people took part"}.
Made from, by digest:

{inputs}
- backbone: `{lineage.backbone}`
- text encoder: `{lineage.text_encoder}`

## Figures

{NANO if base == "nano" else "Measured on held-out clips; the report tells intervals, tests and baselines."}

{_figures(report)}

Adapter `{adapter.digest}`, report `{report.digest}`.
"""


def licence_notice(adapter: Adapter, base: str) -> str:
    """What has to travel with every copy of the adapter."""
    licence = adapter.lineage.licence or "unknown"
    return (
        f"This adapter is a derivative of the model {base or 'unknown'} (digest {adapter.lineage.backbone}).\n"
        f"Licence: {licence}. Its terms bind whoever uses, changes or passes on this adapter: pass this notice on.\n"
        "What it makes is synthetic media: say so, and dub only people who agreed to it.\n"
    )


def _pairs(source: str) -> str:
    told = {
        "self-made": "made by the backbone itself, each half of a switch clip re-voiced into the other half's language",
        "world": "the exact pairs of the toy world (a control, not the method)",
    }
    return told.get(source, "of unknown making")


def _figures(report: Report) -> str:
    """A table of the means in metrics.json: a line per metric, a column per method."""
    metrics = json.loads((report.path / METRICS_JSON).read_bytes())
    means = {method: _means(own) for method, own in metrics.items()}
    methods = [method for method, own in means.items() if own]
    names = list(dict.fromkeys(name for method in methods for name in means[method]))
    lines = [f"| metric | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    for name in names:
        lines.append(f"| {name} | {' | '.join(means[method].get(name, '–') for method in methods)} |")
    return "\n".join(lines)


def _means(figures: object) -> dict[str, str]:
    """metric -> mean, where `figures` are those of a method."""
    found = figures.items() if isinstance(figures, Mapping) else ()
    told = {name: figure["mean"] for name, figure in found if isinstance(figure, Mapping) and "mean" in figure}
    return {name: "–" if value is None else f"{value:.4g}" for name, value in told.items()}
