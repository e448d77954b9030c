"""KFP component of the step `register`."""

from kfp import dsl

from components import step_component


@step_component
def register(
    adapter: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Dataset],
    data_repository: str,
    data_revision: str,
    all_params: dict,
    params: dict,
    registered: dsl.Output[dsl.Model],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """A model version in MLflow, under the alias challenger.

    Args:
        adapter: the LoRA adapter
        report: what was measured of it
        data_repository: where the pairs are versioned; empty: nowhere
        data_revision: their revision there
        all_params: all sections of params.yaml, for the record
        params: section `register` of params.yaml
        registered: name, version and run of the model version
        summary: the same, in Markdown
    """
    from pathlib import Path

    from dubmill.artifacts.store import Adapter, Report
    from dubmill.config.params import Params, RegisterParams, validate
    from dubmill.report import look
    from dubmill.steps.register import register as step

    section = validate(RegisterParams, params, "register")
    data = (data_repository, data_revision)
    step(
        Adapter.open(adapter.path),
        Report.open(report.path),
        section,
        Path(registered.path),
        data,
        Params.model_validate(all_params),
    )
    look.log_version(Path(registered.path), registered, summary)
