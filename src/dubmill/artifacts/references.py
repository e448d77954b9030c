"""References: a small file in place of an artifact that stays on a shared volume, so that tasks pass digests and not bytes."""

from __future__ import annotations

import json
from pathlib import Path

from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.manifest import Manifest, read_manifest
from dubmill.errors import ChangedArtifactError, UnsealedArtifactError

REFERENCE = "reference.json"


def write_reference(out: Path, artifact: Path) -> None:
    """Writes into the folder `out` where the sealed artifact is, and its digest."""
    out.mkdir(parents=True, exist_ok=True)
    reference = {"path": str(artifact.absolute()), "digest": read_manifest(artifact).digest}
    write_atomically(out / REFERENCE, json.dumps(reference).encode())


def resolve_reference(path: Path) -> tuple[Path, Manifest]:
    """Returns the folder and the manifest of the artifact at `path`, or of the one that a reference there names.

    Raises:
        UnsealedArtifactError: there is no artifact, or the one that is named is gone.
        ChangedArtifactError: another artifact is there now.
    """
    if not (path / REFERENCE).is_file():
        return path, read_manifest(path)
    reference = json.loads((path / REFERENCE).read_bytes())
    target, cure = (
        Path(reference["path"]),
        "mount the volume with the work of the runs, or run the task that made it again without cache",
    )
    if not target.is_dir():
        raise UnsealedArtifactError("the artifact is not on the shared volume", where=str(target), cure=cure)
    manifest = read_manifest(target)
    if manifest.digest != reference["digest"]:
        raise ChangedArtifactError("another artifact is on the shared volume", where=str(target), cure=cure)
    return target, manifest
