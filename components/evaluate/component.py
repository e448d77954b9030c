"""KFP component of the step `evaluate`."""

from kfp import dsl

from components import step_component


@step_component
def evaluate(
    backbone: dsl.Input[dsl.Model],
    dubs: dsl.Input[dsl.Dataset],
    pairs: dsl.Input[dsl.Dataset],
    adapter: dsl.Input[dsl.Model],
    scorers_params: dict,
    params: dict,
    report: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Measurements of the dubs: figures with intervals, and a report page.

    Args:
        backbone: the sealed backbone
        dubs: the dubs
        pairs: the gated pairs, which hold the truth
        adapter: the LoRA adapter
        scorers_params: section `scorers` of params.yaml
        params: section `evaluate` of params.yaml
        report: the report
        metrics: counts and figures
        summary: what is inside, in Markdown
        page: what is best looked at, as HTML
    """
    from pathlib import Path

    from dubmill.artifacts.store import Adapter, Backbone, DubSet, PairSet
    from dubmill.config.params import EvaluateParams, ScorersParams, validate
    from dubmill.report import look
    from dubmill.steps.evaluate import evaluate as step

    sealed = step(
        Backbone.open(backbone.path),
        DubSet.open(dubs.path),
        PairSet.open(pairs.path),
        Adapter.open(adapter.path),
        validate(ScorersParams, scorers_params, "scorers"),
        validate(EvaluateParams, params, "evaluate"),
        Path(report.path),
    )
    look.log(sealed, report, metrics, summary)
    look.write_page(sealed, page.path)
