"""Counts the bytes that a run moves through Kubeflow's object store, from the compiled graph and the plan's sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format

from dubmill.config.params import Params
from dubmill.plan.architecture import load_architecture
from dubmill.plan.disk import disk_of
from pipelines.dubbing import build
from pipelines.placement import PLACEMENTS, Target

# What the plan calls the content of a task's output. Reports, prompts, versions and pages are too small to count.
CONTENT = {
    ("backbone", "backbone"): ("backbone",),
    ("synthesize", "clips"): ("clips",),
    ("inpaint", "pairs"): ("pairs",),
    ("gate", "accepted"): ("gated pairs",),
    ("data-version", "pairs"): ("gated pairs",),
    ("encode", "latents"): ("latents", "text features"),
    ("train", "adapter"): ("adapter",),
    ("dub", "dubs"): ("dubs",),
    ("promote", "release"): ("release",),
}
COPIED = {("train", "adapter"), ("promote", "release")}  # also where a volume keeps the rest (launching.STAYING)


def store_bytes(params: Params, target: Target, variant: str = "full") -> dict[str, int]:
    """Returns for each task the bytes that it downloads and uploads; an artifact on the shared volume counts as none."""
    disk = disk_of(params, load_architecture(params.backbone.architecture))
    spec = json_format.MessageToDict(build(params, target, variant).pipeline_spec)

    def size(task: str, output: str) -> int:
        stays = target.work_claim and PLACEMENTS[task].uses_work and (task, output) not in COPIED
        return 0 if stays else sum(disk[name] for name in CONTENT.get((task, output), ()))

    moved = {}
    for name, task in tasks_of(spec).items():
        outputs = spec["components"][task["componentRef"]["name"]].get("outputDefinitions", {}).get("artifacts", {})
        inputs = task.get("inputs", {}).get("artifacts", {}).values()
        read = [one["taskOutputArtifact"] for one in inputs]
        down = sum(size(one["producerTask"], one["outputArtifactKey"]) for one in read)
        moved[name] = down + sum(size(name, output) for output in outputs)
    return moved


def tasks_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tasks of a pipeline that run a container, by name, inside exit handlers and conditions too."""
    return {
        name: task
        for graph in _graphs(spec)
        for name, task in graph["tasks"].items()
        if "dag" not in spec["components"][task["componentRef"]["name"]]
    }


def _graphs(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from (one["dag"] for one in (spec["root"], *spec["components"].values()) if "dag" in one)
