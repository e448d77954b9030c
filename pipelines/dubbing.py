"""Defines the Kubeflow pipeline, from prompts to a release, and writes it as YAML; `placement` says what each pod gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from kfp import compiler, dsl
from kfp.dsl.graph_component import GraphComponent

from components.backbone.component import backbone as backbone_component
from components.dub.component import dub as dub_component
from components.encode.component import encode as encode_component
from components.evaluate.component import evaluate as evaluate_component
from components.gate.component import gate as gate_component
from components.inpaint.component import inpaint as inpaint_component
from components.promote.component import promote as promote_component
from components.prompts.component import prompts as prompts_component
from components.register.component import register as register_component
from components.synthesize.component import synthesize as synthesize_component
from components.train.component import train as train_component
from dubmill.config.params import Params
from pipelines.placement import Target, place, requests

NAME = "dubmill-dubbing"


INPUTS = """From prompts to a release. Each input is one section of params.yaml; `dubmill params` explains every value.

Args:
    backbone: which joint audio-video diffusion model to use (source, repo, revision, licence)
    prompts: who the synthetic speakers are and what they say (source, counts, languages, seed)
    synthesize: size and sampling of the clips whose speaker changes language half-way
    inpaint: how each half is inpainted with speech in the other language (pair source, mask, sampling)
    gate: the strict and warning thresholds of every quality gate, and the least accepted share
    encode: how pairs become latents (batch size, face margin)
    train: the LoRA and its optimizer (rank, steps, learning rate, schedule, seed)
    dub: how held-out clips are dubbed, and by which methods
    evaluate: intervals and showcase of the report
    register: MLflow experiment and model name
    promote: when a challenger becomes champion (metrics to improve, regressions, floors)
    scorers: the measuring models for real faces and speech, their weights and licences
"""


class Outputs(NamedTuple):
    """The outputs of a pipeline run."""

    backbone: dsl.Model
    report: dsl.Dataset
    release: dsl.Model


def build(params: Params, target: Target) -> GraphComponent:
    """Returns the pipeline; the defaults of its inputs are the sections of `params`."""
    values, task = params.model_dump(mode="json"), _task_maker(params, target)

    def dubbing(
        backbone: dict = values["backbone"],
        prompts: dict = values["prompts"],
        synthesize: dict = values["synthesize"],
        inpaint: dict = values["inpaint"],
        gate: dict = values["gate"],
        encode: dict = values["encode"],
        train: dict = values["train"],
        dub: dict = values["dub"],
        evaluate: dict = values["evaluate"],
        register: dict = values["register"],
        promote: dict = values["promote"],
        scorers: dict = values["scorers"],
    ) -> Outputs:
        base = task(backbone_component, params=backbone)["backbone"]
        written = task(prompts_component, params=prompts)["prompts"]
        clips = task(synthesize_component, backbone=base, prompts=written, params=synthesize)["clips"]
        raw_pairs = task(inpaint_component, backbone=base, clips=clips, params=inpaint)["pairs"]
        pairs = task(gate_component, backbone=base, pairs=raw_pairs, scorers_params=scorers, params=gate)["accepted"]
        latents = task(encode_component, backbone=base, pairs=pairs, params=encode)["latents"]
        adapter = task(train_component, backbone=base, latents=latents, params=train)["adapter"]
        dubs = task(dub_component, backbone=base, adapter=adapter, pairs=pairs, params=dub)["dubs"]
        report = task(
            evaluate_component,
            backbone=base,
            dubs=dubs,
            pairs=pairs,
            adapter=adapter,
            scorers_params=scorers,
            params=evaluate,
        )["report"]
        version = task(register_component, adapter=adapter, report=report, params=register)["registered"]
        release = task(
            promote_component,
            backbone=base,
            adapter=adapter,
            report=report,
            pairs=pairs,
            registered=version,
            register_params=register,
            params=promote,
        )["release"]
        return Outputs(backbone=cast(Any, base), report=cast(Any, report), release=cast(Any, release))

    dubbing.__doc__ = INPUTS
    named = dsl.pipeline(
        name=NAME, description="Generate, gate, train, measure, register and release a dubbing adapter."
    )
    return cast(GraphComponent, named(dubbing))


def _task_maker(params: Params, target: Target) -> Callable[..., dict[str, Any]]:
    """Returns a function that adds a component's task to the pipeline, places it, and returns its outputs by name."""
    needs = requests(params, target)

    def task(component: Any, **inputs: Any) -> dict[str, Any]:
        memory_gib = needs[component.name].memory_gib
        added = place(component(**inputs), component.name, params=params, target=target, memory_gib=memory_gib)
        return dict(added.outputs)

    return task


def compile_to(path: Path, params: Params, target: Target) -> None:
    """Writes the pipeline as YAML for Kubeflow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build(params, target), str(path))
