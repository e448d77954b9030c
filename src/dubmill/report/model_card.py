"""The card of an adapter: what it is, what it is for, where it comes from, and its figures.

It is the README of every sealed adapter and release, of what is exported, and of a registered version; its front matter
is what model hubs read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from dubmill.artifacts.store import Lineage, Report

CARD, NOTICE = "README.md", "NOTICE"
HUB_LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")  # ids that a hub knows
NANO = (
    "These figures are of the **nano** backbone: a toy world of 64-pixel puppets that say a few words. They show that "
    "the line works; they say nothing about real faces, real speech or LTX-2."
)
USE = """\
Dubbing of short clips of one speaker who agreed to it: the clip goes in with the new words and their language; out
comes the same person saying them, with the mouth moving to the new sound. The model does not translate, and speaks only
what its base model speaks.

Not for: people who did not consent, impersonation, or passing the result off as a recording. **What it makes is
machine-generated.** Every dub made with dubmill says so in its metadata; leave that in place, and say so where you show
it."""
SOURCES = {
    "self-made": "made by the backbone itself, each half of a switch clip re-voiced into the other half's language",
    "world": "the exact pairs of the toy world (a control, not the method)",
}


def base_of(info: Mapping[str, Any], report: Report | None) -> str:
    """The backbone's repository (`nano`: the embedded one) as far as adapter and report tell it, else nothing."""
    told = report.info if report else {}
    if told.get("is_nano"):
        return "nano"
    return next((one["base_model"] for one in (info, told) if one.get("base_model")), "")


def model_card(
    lineage: Lineage, info: Mapping[str, Any], *, name: str, base: str, digest: str, report: Report | None
) -> str:
    """The card of an adapter as Markdown; equal adapters and reports give equal cards.

    `digest` is the adapter's, empty in the card that is sealed with it; without a report there are no figures.
    """
    source = lineage.pair_source or "unknown"
    made_from = "\n".join(f"- {word}: `{one}`" for word, one in sorted(lineage.inputs.items())) or "- unknown"
    identity = [f"Adapter `{digest}`"] * bool(digest) + ([f"report `{report.digest}`"] if report else [])
    return f"""---
{yaml.safe_dump(_front_matter(lineage, info, base), sort_keys=True).strip()}
---
# {name}

A LoRA adapter that turns the joint audio-video diffusion model `{base or "unknown"}` into a dubbing model, trained on
bilingual pairs of the kind: **{source}**.

## Use

{USE}

## What it has to be used with

{_facts(lineage, info)}

## Licence

`{lineage.licence or "unknown"}`, that of the backbone it derives from; it travels with every copy (see `{NOTICE}`).

## Data

Pairs: {info.get("num_pairs", "an unknown number")}, {SOURCES.get(source, "of unknown making")}.
Languages: {", ".join(info.get("languages", [])) or "unknown"}. Consent: {lineage.consent or _consent(source)}.
Made from, by digest:

{made_from}

## Figures

{_figures(report, base)}
{", ".join(identity) + "." if identity else ""}
"""


def licence_notice(lineage: Lineage, base: str) -> str:
    """What has to travel with every copy of the adapter."""
    return (
        f"This adapter is a derivative of the model {base or 'unknown'} (digest {lineage.backbone}).\n"
        f"Licence: {lineage.licence or 'unknown'}. Its terms bind whoever uses, changes or passes on this adapter: "
        "pass this notice on.\n"
        "What it makes is synthetic media: say so, and dub only people who agreed to it.\n"
    )


def _front_matter(lineage: Lineage, info: Mapping[str, Any], base: str) -> dict[str, Any]:
    """What a hub shows and searches by; a licence it does not know goes under `other` with its name."""
    licence = lineage.licence.lower()
    front: dict[str, Any] = {"library_name": "diffusers", "tags": ["audio-video", "dubbing", "lora", "ltx-2"]}
    front |= {"license": licence} if licence in HUB_LICENCES else {"license": "other"}
    if licence and licence not in HUB_LICENCES:
        front["license_name"] = licence
    if base.count("/") == 1 and base[0] not in "/.":  # a hub's repository, not `nano` and not a folder
        front |= {"base_model": base, "base_model_relation": "adapter"}
    if info.get("languages"):
        front["language"] = list(info["languages"])
    return front


def _facts(lineage: Lineage, info: Mapping[str, Any]) -> str:
    """What makes the difference between a dub and noise, a line each."""
    clip = info.get("clip", {})
    size = "{width} x {height} pixels, {num_frames} frames at {frame_rate} per second".format_map(clip) if clip else ""
    isolation = {True: "isolated from each other's reference (paper, eq. 2)", False: "free to see each reference"}
    facts = {
        "base model": f"digest `{lineage.backbone}`",
        "text encoder": f"digest `{lineage.text_encoder}`",
        "rank": info.get("rank"),
        "scale": "1: alpha / rank is multiplied into the weights",
        "reference": "picture and sound of the source clip as clean tokens behind the target's; without it nothing is dubbed",
        "reference audio positions": info.get("reference_positions"),
        "new picture and new sound": isolation.get(info.get("isolate_modalities")),
        "clip": size,
    }
    if info.get("sigma_histogram"):
        facts["noise levels drawn, tenth by tenth"] = " ".join(map(str, info["sigma_histogram"]))
    return "\n".join(f"- {name}: {fact or 'unknown'}" for name, fact in facts.items())


def _consent(source: str) -> str:
    return "no recordings of people took part" if source in SOURCES else "unknown"


def _figures(report: Report | None, base: str) -> str:
    """What was measured, and what it is worth."""
    if report is None:
        return "Not measured yet: `dubmill step evaluate` makes the report, `dubmill step promote` a card with its figures.\n"
    warning = NANO if base == "nano" else "Measured on held-out clips; the report tells intervals, tests and baselines."
    return f"{warning}\n\n{_table(report)}\n"


def _table(report: Report) -> str:
    """The means in metrics.json: a line per metric, a column per method."""
    metrics = json.loads((report.path / "metrics.json").read_bytes())
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
