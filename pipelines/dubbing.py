"""The Kubeflow pipelines (full, data, train, recurring) and how they are written as YAML; `placement` says what each pod gets."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from kfp import compiler, dsl
from kfp.dsl.graph_component import GraphComponent

from components.backbone.component import backbone as backbone_component
from components.changes.component import changes as changes_component
from components.data_version.component import data_version as data_version_component
from components.dub.component import dub as dub_component
from components.encode.component import encode as encode_component
from components.evaluate.component import evaluate as evaluate_component
from components.gate.component import gate as gate_component
from components.inpaint.component import inpaint as inpaint_component
from components.notify.component import notify as notify_component
from components.promote.component import promote as promote_component
from components.prompts.component import prompts as prompts_component
from components.register.component import register as register_component
from components.settings.component import settings as settings_component
from components.snapshot.component import snapshot as snapshot_component
from components.synthesize.component import synthesize as synthesize_component
from components.train.component import train as train_component
from dubmill.config.form import FIELDS, FormField, form_fields
from dubmill.config.params import Params
from pipelines.placement import Target, place, requests

Task = Callable[..., dict[str, Any]]  # adds a component's task to the graph; returns its outputs by name
Given = Mapping[str, Any]  # inputs of the pipeline, or sections, by name


class FullOutputs(NamedTuple):
    """The outputs of the pipelines that end with a release."""

    backbone: dsl.Model
    report: dsl.Dataset
    release: dsl.Model


class DataOutputs(NamedTuple):
    """The outputs of the pipeline that ends with data."""

    backbone: dsl.Model
    pairs: dsl.Dataset


@dataclass(frozen=True)
class Data:
    """Gated pairs, and where they are versioned; both texts are empty where they are not."""

    pairs: Any
    repository: Any = ""
    revision: Any = ""


def make_data(task: Task, sections: Given, base: Any, target: Target) -> Data:
    """Adds the tasks from prompts to gated pairs, and the data version where the target has a repository."""
    written = task(prompts_component, params=sections["prompts"])["prompts"]
    clips = task(synthesize_component, backbone=base, prompts=written, params=sections["synthesize"])["clips"]
    raw_pairs = task(inpaint_component, backbone=base, clips=clips, params=sections["inpaint"])["pairs"]
    pairs = task(
        gate_component, backbone=base, pairs=raw_pairs, scorers_params=sections["scorers"], params=sections["gate"]
    )["accepted"]
    if not target.data_repository:
        return Data(pairs)
    made = task(snapshot_component, pairs=pairs, repository=target.data_repository, branch=target.data_branch)
    return Data(pairs, target.data_repository, made["Output"])


def make_release(task: Task, sections: Given, base: Any, data: Data) -> FullOutputs:
    """Adds the tasks from gated pairs to a promoted release."""
    latents = task(encode_component, backbone=base, pairs=data.pairs, params=sections["encode"])["latents"]
    adapter = task(train_component, backbone=base, latents=latents, params=sections["train"])["adapter"]
    dubs = task(dub_component, backbone=base, adapter=adapter, pairs=data.pairs, params=sections["dub"])["dubs"]
    report = task(
        evaluate_component,
        backbone=base,
        dubs=dubs,
        pairs=data.pairs,
        adapter=adapter,
        scorers_params=sections["scorers"],
        params=sections["evaluate"],
    )["report"]
    version = task(
        register_component,
        adapter=adapter,
        report=report,
        data_repository=data.repository,
        data_revision=data.revision,
        all_params=sections["all_params"],
        params=sections["register"],
    )["registered"]
    release = task(
        promote_component,
        backbone=base,
        adapter=adapter,
        report=report,
        pairs=data.pairs,
        registered=version,
        register_params=sections["register"],
        scorers_params=sections["scorers"],
        params=sections["promote"],
    )["release"]
    return FullOutputs(backbone=cast(Any, base), report=cast(Any, report), release=cast(Any, release))


def full(task: Task, sections: Given, given: Given, target: Target) -> FullOutputs:
    """From prompts to a release."""
    base = task(backbone_component, params=sections["backbone"])["backbone"]
    return make_release(task, sections, base, make_data(task, sections, base, target))


def data_only(task: Task, sections: Given, given: Given, target: Target) -> DataOutputs:
    """From prompts to gated pairs, versioned where the target has a repository."""
    base = task(backbone_component, params=sections["backbone"])["backbone"]
    return DataOutputs(backbone=cast(Any, base), pairs=cast(Any, make_data(task, sections, base, target).pairs))


def train_only(task: Task, sections: Given, given: Given, target: Target) -> FullOutputs:
    """From a data version to a release."""
    found = _changes(task, sections, given)
    return _on_version(task, sections, given, found)


def recurring(task: Task, sections: Given, given: Given, target: Target) -> None:
    """From a data version to a release, if that version or the champion is a new one."""
    found = _changes(task, sections, given)
    with dsl.If(found["is_new"] == True, name="something-is-new"):  # noqa: E712 (a condition of the graph, not of Python)
        _on_version(task, sections, given, found)


def _changes(task: Task, sections: Given, given: Given) -> dict[str, Any]:
    return task(
        changes_component,
        repository=given["data_repository"],
        revision=given["data_revision"],
        register_params=sections["register"],
    )


def _on_version(task: Task, sections: Given, given: Given, found: Given) -> FullOutputs:
    base = task(backbone_component, params=sections["backbone"])["backbone"]
    repository, revision = given["data_repository"], found["revision"]
    pairs = task(data_version_component, repository=repository, revision=revision)["pairs"]
    return make_release(task, sections, base, Data(pairs, repository, revision))


@dataclass(frozen=True)
class Variant:
    """One of the pipelines."""

    name: str  # in Kubeflow
    description: str
    graph: Callable[[Task, Given, Given, Target], Any]
    outputs: type | None
    hidden: frozenset[str] = frozenset()  # inputs of the form that none of its steps reads
    has_data_version: bool = False  # it begins with a data version


DATA_INPUTS = frozenset({"languages", "num_train_prompts", "num_heldout_prompts", "prompts_seed", "min_accepted_share"})
MODEL_INPUTS = frozenset(
    {
        "lora_rank",
        "num_train_steps",
        "train_batch_size",
        "learning_rate",
        "checkpoint_every",
        "train_seed",
        "adapter_strength",
        "mlflow_experiment",
        "registered_model",
    }
)
VARIANTS = {
    "full": Variant(
        "dubmill-dubbing", "Generate, gate, train, measure, register and release a dubbing adapter.", full, FullOutputs
    ),
    "data": Variant(
        "dubmill-data",
        "Generate and gate pairs, and make a data version of them.",
        data_only,
        DataOutputs,
        MODEL_INPUTS,
    ),
    "train": Variant(
        "dubmill-train",
        "Train, measure, register and release an adapter on an existing data version.",
        train_only,
        FullOutputs,
        DATA_INPUTS,
        has_data_version=True,
    ),
    "recurring": Variant(
        "dubmill-recurring",
        "The same, if the data version or the champion changed since the last run.",
        recurring,
        None,
        DATA_INPUTS,
        has_data_version=True,
    ),
}


def build(params: Params, target: Target, variant: str = "full") -> GraphComponent:
    """Returns a pipeline; the defaults of its inputs are the values of `params`."""
    chosen, fields = VARIANTS[variant], form_fields(params)
    shown = {name: field for name, field in fields.items() if name not in chosen.hidden}
    if chosen.has_data_version:
        shown = _data_inputs(target) | shown
    constants = {name: field.value for name, field in fields.items() if name in chosen.hidden}
    task = _task_maker(params, target)

    def graph(*values: Any) -> Any:
        given = dict(zip(shown, values, strict=True))
        if not target.is_cluster:
            return chosen.graph(task, _sections(task, constants | given), given, target)
        last: Any = task(notify_component, pipeline=chosen.name, returns_task=True)
        with dsl.ExitHandler(last, name="steps"):
            chosen.graph(task, _sections(task, constants | given), given, target)
        return None  # Kubeflow lets no output out of an exit handler

    _describe(graph, chosen, shown, chosen.outputs if not target.is_cluster else None)
    return cast(GraphComponent, dsl.pipeline(name=chosen.name, description=chosen.description)(graph))


def _data_inputs(target: Target) -> dict[str, FormField]:
    return {
        "data_repository": FormField(str, target.data_repository, "git repository of the data version"),
        "data_revision": FormField(
            str, target.data_branch, "branch, tag or full commit id; a branch: its newest version"
        ),
    }


def _sections(task: Task, form: Given) -> dict[str, Any]:
    return task(settings_component, **{name: form[name] for name in (*FIELDS, "advanced")})


def _describe(
    graph: Callable[..., Any], variant: Variant, fields: Mapping[str, FormField], outputs: type | None
) -> None:
    """Gives the function the signature and the docstring from which KFP makes the inputs and their descriptions."""
    arguments = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=field.kind, default=field.value)
        for name, field in fields.items()
    ]
    returned = outputs or inspect.Signature.empty
    graph.__signature__ = inspect.Signature(arguments, return_annotation=returned)  # type: ignore[attr-defined]
    lines = [f"    {name}: {field.description}" for name, field in fields.items()]
    graph.__doc__ = "\n".join([variant.description, "", "Args:", *lines])


def _task_maker(params: Params, target: Target) -> Task:
    """Returns a function that adds a component's task to the pipeline, places it, and returns its outputs by name."""
    needs = requests(params, target)

    def task(component: Any, *, returns_task: bool = False, **inputs: Any) -> Any:
        memory_gib = needs[component.name].memory_gib if component.name in needs else 2
        added = place(component(**inputs), component.name, params=params, target=target, memory_gib=memory_gib)
        return added if returns_task else dict(added.outputs)

    return task


def compile_to(path: Path, params: Params, target: Target, variant: str = "full") -> None:
    """Writes a pipeline as YAML for Kubeflow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build(params, target, variant), str(path))
