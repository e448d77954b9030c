"""Model versions, found by the digest of their adapter, and the aliases challenger, champion and previous.

Aliases replace MLflow's former stages: `challenger` is the newest candidate, `champion` the served version, `previous`
the target of a rollback.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from dubmill.artifacts.files import ROWS_FILE, sha256_of
from dubmill.artifacts.manifest import MANIFEST, read_manifest
from dubmill.artifacts.store import Report
from dubmill.errors import InvalidArtifactError, UsageError
from dubmill.tracking.endpoint import Folders, folders_of, rollout
from dubmill.tracking.ledger import Entry, Ledger
from dubmill.tracking.lock import promotion_lock
from dubmill.tracking.runs import log_figures, log_report, report_folder
from dubmill.tracking.server import answering, client, is_missing, public_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"


@dataclass(frozen=True)
class Version:
    """One version of a registered model; its lineage is in `tags`."""

    name: str
    number: int
    run_id: str
    source: str
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """Returns MLflow's URI of the version."""
        return f"models:/{self.name}/{self.number}"


def _version(found: ModelVersion) -> Version:
    return Version(found.name, int(found.version), found.run_id or "", found.source or "", dict(found.tags))


def create_version(name: str, *, source: str, run_id: str, tags: Mapping[str, str], description: str) -> Version:
    """Creates a version of model `name` with all its tags, and the model itself where it is missing."""
    from mlflow.exceptions import MlflowException

    mlflow = client()
    with answering():
        try:
            mlflow.get_registered_model(name)
        except MlflowException as error:
            if not is_missing(error):
                raise
            mlflow.create_registered_model(name, description="Dubbing adapters; see the card of each version.")
        return _version(
            mlflow.create_model_version(
                name, source=source, run_id=run_id, tags=dict(tags), description=description, await_creation_for=0
            )
        )


def find_version(name: str, adapter_digest: str) -> Version | None:
    """Returns the version of this adapter, or None."""
    return next(iter(versions_with(name, "adapter_digest", adapter_digest)), None)


def versions_with(name: str, tag: str, value: str) -> list[Version]:
    """Returns the versions of model `name` whose tag has this value, oldest first."""
    with answering():
        found = client().search_model_versions(f"name = '{name}' and tags.{tag} = '{value}'")
    return sorted(map(_version, found), key=lambda version: version.number)


def get_version(name: str, number: int) -> Version:
    """Returns version `number` of model `name`.

    Raises:
        UsageError: the registry has no such version.
    """
    from mlflow.exceptions import MlflowException

    mlflow = client()
    with answering():
        try:
            return _version(mlflow.get_model_version(name, str(number)))
        except MlflowException as error:
            if not is_missing(error):
                raise
            raise UsageError(
                f"MLflow knows no version {number} of {name!r}",
                where=public_uri(),
                cure="run `dubmill step register` again",
            ) from error


def aliased(name: str, alias: str) -> Version | None:
    """Returns the version with `alias`, or None."""
    from mlflow.exceptions import MlflowException

    mlflow = client()
    with answering():
        try:
            return _version(mlflow.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if not is_missing(error):
                raise
            return None


def move_alias(alias: str, version: Version) -> None:
    """Moves `alias` to `version`."""
    with answering():
        client().set_registered_model_alias(version.name, alias, str(version.number))


def tag_version(version: Version, tags: Mapping[str, str]) -> None:
    """Sets those tags of a version that differ."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            with answering():
                client().set_model_version_tag(version.name, str(version.number), key, value)


def report_tags(report: Report) -> dict[str, str]:
    """Returns the tags that name the report of a version and the pairs it was measured on."""
    return {"report_digest": report.digest, "report_pairs": report.lineage.inputs.get("PairSet", "")}


def add_report(version: Version, report: Report) -> Version:
    """Adds a newer report to a version, which keeps its number and its run; returns the version with its new tags."""
    if version.tags.get("report_digest") == report.digest:
        return version
    with answering():
        run = client().get_run(version.run_id)
    log_report(run, report)
    log_figures(run, report)
    tag_version(version, report_tags(report))
    return get_version(version.name, version.number)


def record(version: Version, ledger: Ledger, entry: Entry, *, again: bool) -> Entry:
    """Writes a decision to the ledger and to the version's tags; `again`: an interrupted call may have written it.

    The tags keep the history where the ledger's folder does not outlive the task.
    """
    decisions = [value for key, value in sorted(version.tags.items()) if key.startswith("promotion.")]
    newest = Entry.model_validate_json(decisions[-1]) if decisions else entry
    entry = ledger.append(newest if again and newest.is_same(entry) else entry)
    tags = {f"promotion.{entry.time}": entry.model_dump_json(), "promotion": entry.decision}
    tag_version(version, tags | ({"release_digest": entry.digest} if entry.decision == "promoted" else {}))
    return entry


def promote_alias(version: Version) -> Version | None:
    """Makes `version` the champion; returns the version it replaces, or None.

    `previous` moves first: a kill in between leaves the old champion in place, and the same call completes the work.
    """
    old = aliased(version.name, CHAMPION)
    if old is not None and old.number == version.number:
        return aliased(version.name, PREVIOUS)
    if old is not None:
        move_alias(PREVIOUS, old)
    move_alias(CHAMPION, version)
    return old


def rollback(name: str, ledger: Ledger) -> Version:
    """Makes the previous version of `name` champion again, writes that to the ledger, and returns the version.

    An endpoint (DUBMILL_ENDPOINT) is rolled back to that version's release first. `champion` moves, then the ledger is written, then `previous` is deleted: repeated after a kill, the result is
    the same.

    Raises:
        UsageError: there is no previous version.
        ServiceUnavailableError: a promotion is under way and does not end.
    """
    with promotion_lock(name):
        return _rollback(name, ledger)


def _rollback(name: str, ledger: Ledger) -> Version:
    champion, previous = aliased(name, CHAMPION), aliased(name, PREVIOUS)
    if champion is None or previous is None:
        raise UsageError("there is no previous version to go back to", where=name, cure="promote another version")
    last = ledger.last_change(name)
    resumed = champion.number == previous.number
    left = last.previous if resumed and last is not None and last.version == previous.number else champion.number
    left = last.version if resumed and last is not None and last.version != previous.number else left
    with rollout(folders_of(previous), lambda served: is_champions(name, served)):
        move_alias(CHAMPION, previous)
    digest = previous.tags.get("release_digest", "")
    entry = Entry(name=name, version=previous.number, previous=left, digest=digest, decision="rolled back", reasons=[])
    record(previous, ledger, entry, again=resumed)
    with answering():
        client().delete_registered_model_alias(name, PREVIOUS)
    return previous


def is_champions(name: str, served: Folders) -> bool:
    """Returns whether the champion's release is in the folders `served`."""
    champion = aliased(name, CHAMPION)
    return champion is not None and folders_of(champion) == served


def report_of(version: Version) -> list[dict[str, Any]]:
    """Returns the rows of a version's report, after checking their digest.

    Raises:
        InvalidArtifactError: the version's run has no such report, or another one.
    """
    from mlflow.exceptions import MlflowException

    digest = version.tags.get("report_digest", "")
    cure = "evaluate that version on the same clips and register it again with the new report"
    with tempfile.TemporaryDirectory() as folder, answering():
        try:
            for name in (MANIFEST, ROWS_FILE):
                client().download_artifacts(version.run_id, f"{report_folder(digest)}/{name}", folder)
        except (MlflowException, OSError) as error:
            raise InvalidArtifactError(
                f"the report of version {version.number} is gone", where=version.uri, cure=cure
            ) from error
        found = next(Path(folder).rglob(MANIFEST)).parent
        manifest = read_manifest(found)
        if manifest.with_digest().digest != digest or sha256_of(found / ROWS_FILE) != manifest.files.get(ROWS_FILE):
            raise InvalidArtifactError(
                f"the report of version {version.number} has changed", where=version.uri, cure=cure
            )
        return pq.read_table(found / ROWS_FILE).to_pylist()


def report_rows(report: Report) -> list[dict[str, Any]]:
    """Returns the rows of a local report: one per dub, with pair_id, method and a column per metric."""
    return pq.read_table(report.file(ROWS_FILE)).to_pylist()
