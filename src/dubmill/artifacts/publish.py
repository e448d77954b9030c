"""Copies sealed artifacts to the place where the endpoint reads them, each complete and verified, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path

from dubmill.artifacts.files import sha256_of
from dubmill.artifacts.manifest import read_manifest
from dubmill.artifacts.references import resolve_reference
from dubmill.errors import ChangedArtifactError, InvalidArtifactError

ENDPOINT = "DUBMILL_ENDPOINT"  # namespace/name of the InferenceService that a promotion rolls; empty: none
MODELS = "DUBMILL_MODELS"  # the volume that the endpoint reads, as mounted in the task that promotes


def publish_models(*, backbone: Path | str, release: Path | str) -> None:
    """Publishes both to the folder that $DUBMILL_MODELS names; does nothing without it, or where $DUBMILL_ENDPOINT was rolled."""
    folder = os.environ.get(MODELS)
    if folder and not os.environ.get(ENDPOINT):
        publish(Path(folder), backbone=resolve_reference(Path(backbone))[0], release=release)


def publish(folder: Path, **artifacts: Path | str) -> None:
    """Copies each artifact to `folder/<name>`; a complete and undamaged copy is kept.

    All copies are made and verified before the first one is moved into place, so a failed copy changes nothing. Temporary
    names are unique, so that two processes that publish at once do not share a half-made copy.

    Raises:
        ChangedArtifactError: a copy differs from its source (a damaged source, or a bad disk).
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies: dict[str, Path] = {}
    try:
        for name, source in artifacts.items():
            if not _is_copy(folder / name, Path(source)):
                copies[name] = folder / f".{name}.{uuid.uuid4().hex}.partial"
                _copy(Path(source), copies[name])
        for name, copy in copies.items():
            _move_into_place(copy, folder / name)
    finally:
        for copy in copies.values():
            shutil.rmtree(copy, ignore_errors=True)


def _is_copy(place: Path, source: Path) -> bool:
    """Returns whether `place` holds the same artifact, every byte of it."""
    try:
        return read_manifest(place).digest == read_manifest(source).digest and not _damaged_files(place)
    except (InvalidArtifactError, FileNotFoundError):  # the latter: another process is replacing it at this moment
        return False


def _damaged_files(place: Path) -> list[str]:
    files = read_manifest(place).files
    return [name for name, digest in files.items() if not (place / name).is_file() or sha256_of(place / name) != digest]


def _copy(source: Path, copy: Path) -> None:
    shutil.copytree(source, copy)
    if damaged := _damaged_files(copy):
        raise ChangedArtifactError(
            f"{damaged[0]} differs in the copy", where=str(source), cure="make the artifact again or pull it"
        )


def _move_into_place(copy: Path, place: Path) -> None:
    """Replaces `place` by `copy`; another process may do the same at the same time, and the last one wins."""
    while copy.exists():
        old = place.with_name(f".{place.name}.{uuid.uuid4().hex}.old")
        with contextlib.suppress(FileNotFoundError):
            place.rename(old)
        try:
            copy.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
