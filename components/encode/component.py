"""KFP component of the step `encode`."""

from kfp import dsl

from components import step_component


@step_component
def encode(
    backbone: dsl.Input[dsl.Model],
    pairs: dsl.Input[dsl.Dataset],
    params: dict,
    latents: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Latents and text features of the accepted pairs, computed once.

    Args:
        backbone: the sealed backbone
        pairs: the gated pairs
        params: section `encode` of params.yaml
        latents: the packed latents
        metrics: counts and figures
        summary: what is inside, in Markdown
    """
    from pathlib import Path

    from dubmill.artifacts.store import Backbone, PairSet
    from dubmill.config.params import EncodeParams, validate
    from dubmill.launching import run_task
    from dubmill.report import look
    from dubmill.steps.encode import encode as step

    section = validate(EncodeParams, params, "encode")
    opened = [Backbone.open(backbone.path), PairSet.open(pairs.path)]
    sealed = run_task(step, [*opened, section], Path(latents.path))
    look.log(sealed, latents, metrics, summary)
