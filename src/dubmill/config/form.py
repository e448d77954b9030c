"""The short form of a run: about fifteen single values of params.yaml, as typed inputs; all others are in `advanced`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dubmill.config.params import Params, Section, validate
from dubmill.errors import InvalidParamsError

FIELDS = {
    "backbone_repo": "backbone.repo",
    "backbone_revision": "backbone.revision",
    "languages": "prompts.languages",
    "num_train_prompts": "prompts.num_train",
    "num_heldout_prompts": "prompts.num_heldout",
    "prompts_seed": "prompts.seed",
    "min_accepted_share": "gate.min_accepted_share",
    "lora_rank": "train.rank",
    "num_train_steps": "train.num_steps",
    "train_batch_size": "train.batch_size",
    "learning_rate": "train.learning_rate",
    "checkpoint_every": "train.checkpoint_every",
    "train_seed": "train.seed",
    "adapter_strength": "dub.adapter_strength",
    "mlflow_experiment": "register.experiment",
    "registered_model": "register.model",
}
ADVANCED = "every other value, by section as in params.yaml; `dubmill params` explains each"


@dataclass(frozen=True)
class FormField:
    """One input of the form."""

    kind: type  # int, float, str or list
    value: Any
    description: str


def form_fields(params: Params) -> dict[str, FormField]:
    """Returns the inputs of the form with their values in `params`, and `advanced` as the last one."""
    fields = {name: _field(params, *place.split(".")) for name, place in FIELDS.items()}
    return {**fields, "advanced": FormField(dict, _others(params), ADVANCED)}


def _field(params: Params, section_name: str, name: str) -> FormField:
    section: Section = getattr(params, section_name)
    value, description = getattr(section, name), type(section).model_fields[name].description
    return FormField(type(value), value, f"{description} ({section_name}.{name} of params.yaml)")


def _others(params: Params) -> dict[str, Any]:
    values = copy.deepcopy(params.model_dump(mode="json"))
    for place in FIELDS.values():
        section, name = place.split(".")
        del values[section][name]
    return values


def sections(form: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the sections of params.yaml that a filled form describes, all values checked.

    Raises:
        InvalidParamsError: a value is wrong, or `advanced` holds one that is an input of its own.
    """
    values = copy.deepcopy(dict(form["advanced"]))
    for field, place in FIELDS.items():
        section, name = place.split(".")
        if name in values.setdefault(section, {}):
            raise InvalidParamsError(
                f"{place} is the input {field}", where="advanced", cure="take it out of `advanced`"
            )
        values[section][name] = form[field]
    return validate(Params, values, "form").model_dump(mode="json")
