"""KFP component of the step `backbone`."""

from kfp import dsl

from components import step_component


@step_component
def backbone(
    params: dict,
    backbone: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """The joint audio-video diffusion model that all later steps use.

    Args:
        params: section `backbone` of params.yaml
        backbone: the sealed backbone
        metrics: counts and figures
        summary: what is inside, in Markdown
    """
    from pathlib import Path

    from dubmill.config.params import BackboneParams, validate
    from dubmill.launching import run_task
    from dubmill.report import look
    from dubmill.steps.backbone import backbone as step

    section = validate(BackboneParams, params, "backbone")
    sealed = run_task(step, [section], Path(backbone.path))
    look.log(sealed, backbone, metrics, summary)
