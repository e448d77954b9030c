"""KFP component of the step `gate`."""

from kfp import dsl

from components import step_component


@step_component
def gate(
    backbone: dsl.Input[dsl.Model],
    pairs: dsl.Input[dsl.Dataset],
    scorers_params: dict,
    params: dict,
    accepted: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> None:
    """The pairs that passed every gate, and the rejects with their reasons.

    Args:
        backbone: the sealed backbone
        pairs: the bilingual pairs
        scorers_params: section `scorers` of params.yaml
        params: section `gate` of params.yaml
        accepted: the pairs that may train, with the held-out ones
        metrics: counts and figures
        summary: what is inside, in Markdown
        page: what is best looked at, as HTML
    """
    from pathlib import Path

    from dubmill.artifacts.store import Backbone, PairSet
    from dubmill.config.params import GateParams, ScorersParams, validate
    from dubmill.launching import run_task
    from dubmill.report import look
    from dubmill.steps.gate import gate as step

    opened = [Backbone.open(backbone.path), PairSet.open(pairs.path)]
    sections = [validate(ScorersParams, scorers_params, "scorers"), validate(GateParams, params, "gate")]
    sealed = run_task(step, [*opened, *sections], Path(accepted.path))
    look.log(sealed, accepted, metrics, summary)
    look.write_page(sealed, page.path)
