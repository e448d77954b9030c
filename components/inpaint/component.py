"""KFP component of the step `inpaint`."""

from kfp import dsl

from components import step_component


@step_component
def inpaint(
    backbone: dsl.Input[dsl.Model],
    clips: dsl.Input[dsl.Dataset],
    params: dict,
    pairs: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Bilingual pairs: each half of a clip inpainted with speech in the other half's language.

    Args:
        backbone: the sealed backbone
        clips: the switch clips
        params: section `inpaint` of params.yaml
        pairs: the bilingual pairs
        metrics: counts and figures
        summary: what is inside, in Markdown
        page: what is best looked at, as HTML
    """
    from pathlib import Path

    from dubmill.artifacts.store import Backbone, ClipSet
    from dubmill.config.params import InpaintParams, validate
    from dubmill.launching import run_task
    from dubmill.report import look
    from dubmill.steps.inpaint import inpaint as step

    section = validate(InpaintParams, params, "inpaint")
    opened = [Backbone.open(backbone.path), ClipSet.open(clips.path)]
    sealed = run_task(step, [*opened, section], Path(pairs.path))
    look.log(sealed, pairs, metrics, summary)
    look.write_page(sealed, page.path)
