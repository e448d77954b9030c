"""KFP component that finds the commit of a data version, and whether there is something to train; it has no step of its own."""

from typing import NamedTuple

from kfp import dsl

from components import step_component


@step_component
def changes(
    repository: str,
    revision: str,
    register_params: dict,
    summary: dsl.Output[dsl.Markdown],
) -> NamedTuple("Found", [("revision", str), ("is_new", bool)]):  # type: ignore[valid-type]
    """The commit that a branch or tag names now, and whether a training on it would tell something new.

    Args:
        repository: address of the git repository
        revision: branch, tag or full commit id
        register_params: section `register` of params.yaml
        summary: the reason to train, in Markdown
    """
    from collections import namedtuple
    from pathlib import Path

    from dubmill.config.params import RegisterParams, validate
    from dubmill.tracking import reason_to_train
    from dubmill.tracking.data_versions import resolve

    commit = resolve(repository, revision)
    reason = reason_to_train(validate(RegisterParams, register_params, "register").model, commit)
    Path(summary.path).write_text(f"# {commit}\n\n{reason or 'Nothing changed.'}\n")
    return namedtuple("Found", ("revision", "is_new"))(commit, bool(reason))
