"""KFP component that turns the form of a run into the sections of params.yaml; it has no step of its own."""

from typing import NamedTuple

from kfp import dsl

from components import step_component


@step_component
def settings(
    backbone_repo: str,
    backbone_revision: str,
    languages: list,
    num_train_prompts: int,
    num_heldout_prompts: int,
    prompts_seed: int,
    min_accepted_share: float,
    lora_rank: int,
    num_train_steps: int,
    train_batch_size: int,
    learning_rate: float,
    checkpoint_every: int,
    train_seed: int,
    adapter_strength: float,
    mlflow_experiment: str,
    registered_model: str,
    advanced: dict,
    summary: dsl.Output[dsl.Markdown],
) -> NamedTuple(
    "Sections",
    [
        ("backbone", dict),
        ("prompts", dict),
        ("synthesize", dict),
        ("inpaint", dict),
        ("gate", dict),
        ("encode", dict),
        ("train", dict),
        ("dub", dict),
        ("evaluate", dict),
        ("register", dict),
        ("promote", dict),
        ("scorers", dict),
        ("all_params", dict),
    ],
):  # type: ignore[valid-type]
    """The sections of params.yaml, all checked before any work begins."""
    form = dict(locals())

    from collections import namedtuple
    from pathlib import Path

    from dubmill.config.form import sections
    from dubmill.config.params import Params
    from dubmill.report.look import params_markdown
    from dubmill.tracking import rules

    found = sections(form)
    params = Params.model_validate(found)
    rules.directions(rules.names_in(params.promote))
    Path(summary.path).write_text(params_markdown(params))
    return namedtuple("Sections", [*found, "all_params"])(**found, all_params=found)
