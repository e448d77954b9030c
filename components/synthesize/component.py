"""KFP component of the step `synthesize`."""

from kfp import dsl

from components import step_component


@step_component
def synthesize(
    backbone: dsl.Input[dsl.Model],
    prompts: dsl.Input[dsl.Dataset],
    params: dict,
    clips: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> None:
    """One generated switch clip for each prompt.

    Args:
        backbone: the sealed backbone
        prompts: the prompts
        params: section `synthesize` of params.yaml
        clips: the switch clips
        metrics: counts and figures
        summary: what is inside, in Markdown
        page: what is best looked at, as HTML
    """
    from pathlib import Path

    from dubmill.artifacts.store import Backbone, PromptSet
    from dubmill.config.params import SynthesizeParams, validate
    from dubmill.launching import run_task
    from dubmill.report import look
    from dubmill.steps.synthesize import synthesize as step

    section = validate(SynthesizeParams, params, "synthesize")
    opened = [Backbone.open(backbone.path), PromptSet.open(prompts.path)]
    sealed = run_task(step, [*opened, section], Path(clips.path))
    look.log(sealed, clips, metrics, summary)
    look.write_page(sealed, page.path)
