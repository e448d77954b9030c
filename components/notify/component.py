"""KFP component that runs last, whatever happened: it writes how the run ended and tells a webhook."""

from kfp import dsl

from components import step_component


@step_component
def notify(
    pipeline: str,
    status: dsl.PipelineTaskFinalStatus,
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """How the run ended; posted to the webhook of the Secret dubmill-webhook, if there is one. It ends the MLflow runs that killed pods left open.

    Args:
        pipeline: name of the pipeline
        status: state and error message of the run, from Kubeflow
        summary: the notice, in Markdown
    """
    from pathlib import Path

    from dubmill.tracking.notices import Notice, send
    from dubmill.tracking.runs import end_runs_of_killed_pods

    notice = Notice.of(pipeline, status.state, status.error_message or "")
    Path(summary.path).write_text(f"{notice.markdown}\n{send(notice)} {end_runs_of_killed_pods()}\n")
