"""KFP component of the step `promote`."""

from kfp import dsl

from components import step_component


@step_component
def promote(
    backbone: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Dataset],
    pairs: dsl.Input[dsl.Dataset],
    registered: dsl.Input[dsl.Model],
    register_params: dict,
    scorers_params: dict,
    params: dict,
    release: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """The release to serve, if the challenger is better than the champion on the same clips.

    Args:
        backbone: the sealed backbone
        adapter: the LoRA adapter
        report: what was measured of it
        pairs: the gated pairs, on whose held-out clips both are compared
        registered: the challenger's model version
        register_params: section `register` of params.yaml
        scorers_params: section `scorers` of params.yaml
        params: section `promote` of params.yaml
        release: what is served
        metrics: counts and figures
        summary: what is inside, in Markdown
    """
    from pathlib import Path

    from dubmill.artifacts.publish import publish_models
    from dubmill.artifacts.store import Adapter, Backbone, PairSet, Report
    from dubmill.config.params import PromoteParams, RegisterParams, ScorersParams, validate
    from dubmill.report import look
    from dubmill.steps.promote import promote as step

    opened = Backbone.open(backbone.path), Adapter.open(adapter.path), Report.open(report.path)
    rules, names = validate(PromoteParams, params, "promote"), validate(RegisterParams, register_params, "register")
    sections = names, validate(ScorersParams, scorers_params, "scorers"), rules
    sealed = step(*opened, PairSet.open(pairs.path), Path(registered.path), *sections, Path(release.path))
    look.log(sealed, release, metrics, summary)
    publish_models(backbone=backbone.path, release=release.path)
