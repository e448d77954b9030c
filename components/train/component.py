"""KFP component of the step `train`."""

from kfp import dsl

from components import step_component


@step_component
def train(
    backbone: dsl.Input[dsl.Model],
    latents: dsl.Input[dsl.Dataset],
    params: dict,
    adapter: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """One LoRA adapter, fitted on reference-conditioned pairs.

    Args:
        backbone: the sealed backbone
        latents: the packed latents
        params: section `train` of params.yaml
        adapter: the LoRA adapter
        metrics: counts and figures
        summary: what is inside, in Markdown
    """
    from pathlib import Path

    from dubmill.artifacts.store import Backbone, LatentSet
    from dubmill.config.params import validate
    from dubmill.config.training import TrainParams
    from dubmill.launching import run_task, train_on_all_gpus
    from dubmill.report import look

    section = validate(TrainParams, params, "train")
    opened = [Backbone.open(backbone.path), LatentSet.open(latents.path)]
    sealed = run_task(train_on_all_gpus, [*opened, section], Path(adapter.path))
    look.log(sealed, adapter, metrics, summary)
