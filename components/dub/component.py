"""KFP component of the step `dub`."""

from kfp import dsl

from components import step_component


@step_component
def dub(
    backbone: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    pairs: dsl.Input[dsl.Dataset],
    params: dict,
    dubs: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Dubs of the held-out clips by the adapter and by each baseline.

    Args:
        backbone: the sealed backbone
        adapter: the LoRA adapter
        pairs: the gated pairs, whose held-out rows are dubbed
        params: section `dub` of params.yaml
        dubs: the dubs
        metrics: counts and figures
        summary: what is inside, in Markdown
        page: what is best looked at, as HTML
    """
    from pathlib import Path

    from dubmill.artifacts.store import Adapter, Backbone, PairSet
    from dubmill.config.params import DubParams, validate
    from dubmill.launching import run_task
    from dubmill.report import look
    from dubmill.steps.dub import dub as step

    section = validate(DubParams, params, "dub")
    opened = [Backbone.open(backbone.path), Adapter.open(adapter.path), PairSet.open(pairs.path)]
    sealed = run_task(step, [*opened, section], Path(dubs.path))
    look.log(sealed, dubs, metrics, summary)
    look.write_page(sealed, page.path)
