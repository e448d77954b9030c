"""Whether a recurring run has something to do: new data, or another champion to be compared with."""

from __future__ import annotations

from dubmill.errors import without_secrets
from dubmill.tracking.registry import CHAMPION, Version, aliased, versions_with

REVISION, REPOSITORY, COMPARED = "data_revision", "data_repository", "compared_with"  # tags of a version


def data_tags(model: str, repository: str, revision: str) -> dict[str, str]:
    """Returns the tags of a version that was trained on this revision and is to be compared with the present champion."""
    champion = aliased(model, CHAMPION)
    return {
        REPOSITORY: without_secrets(repository),
        REVISION: revision,
        COMPARED: str(champion.number) if champion else "none",
    }


def reason_to_train(model: str, revision: str) -> str:
    """Returns why a training on `revision` would tell something new, or an empty string."""
    trained = versions_with(model, REVISION, revision)
    if not trained:
        return f"no version of {model} was trained on {revision}"
    champion = aliased(model, CHAMPION)
    if champion is None or _is_known(champion, trained):
        return ""
    return f"version {champion.number} became champion since {revision} was trained on"


def _is_known(champion: Version, trained: list[Version]) -> bool:
    """Returns whether the champion is one of the versions, or one of them was compared with it."""
    return any(str(champion.number) in (str(version.number), version.tags.get(COMPARED)) for version in trained)
