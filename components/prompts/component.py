"""KFP component of the step `prompts`."""

from kfp import dsl

from components import step_component


@step_component
def prompts(
    params: dict,
    prompts: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Structured prompts of both splits, whose speakers change language half-way.

    Args:
        params: section `prompts` of params.yaml
        prompts: the prompts
        metrics: counts and figures
        summary: what is inside, in Markdown
    """
    from pathlib import Path

    from dubmill.config.params import PromptsParams, validate
    from dubmill.report import look
    from dubmill.steps.prompts import prompts as step

    section = validate(PromptsParams, params, "prompts")
    sealed = step(section, Path(prompts.path))
    look.log(sealed, prompts, metrics, summary)
