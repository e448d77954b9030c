"""KFP component that fetches the gated pairs of a data version; it has no step of its own."""

from kfp import dsl

from components import step_component


@step_component
def data_version(
    repository: str,
    revision: str,
    pairs: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """The gated pairs of a commit, every byte checked.

    Args:
        repository: address of the git repository
        revision: commit
        pairs: the gated pairs
        metrics: counts and figures
        summary: what is inside, in Markdown
    """
    from pathlib import Path

    from dubmill.launching import run_task
    from dubmill.report import look
    from dubmill.tracking.data_versions import get_version

    sealed = run_task(get_version, [repository, revision], Path(pairs.path))
    look.log(sealed, pairs, metrics, summary)
