"""KFP component that makes a data version of gated pairs; it has no step of its own."""

from kfp import dsl

from components import step_component


@step_component
def snapshot(
    pairs: dsl.Input[dsl.Dataset],
    repository: str,
    branch: str,
    summary: dsl.Output[dsl.Markdown],
) -> str:
    """The gated pairs as a tagged commit of a git repository, their bytes in its DVC remote; returns the commit.

    Args:
        pairs: the gated pairs
        repository: address of the git repository
        branch: branch that gets the commit
        summary: repository, commit and tag, in Markdown
    """
    from pathlib import Path

    from dubmill.artifacts.store import PairSet
    from dubmill.tracking.data_versions import add_version

    version = add_version(PairSet.open(pairs.path), repository, branch)
    Path(summary.path).write_text(version.markdown)
    return version.revision
