"""Sealed artifacts put where somebody reads them, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from dubmill.artifacts.store import MANIFEST, read_manifest


def publish(folder: Path, **artifacts: Path | str) -> None:
    """Copy each artifact to `folder/<name>`; one that is there with the same digest is left alone.

    A reader never sees a half-copied folder: the copy is made beside it and renamed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in artifacts.items():
        fresh, old, place = folder / f".{name}.partial", folder / f".{name}.old", folder / name
        if (place / MANIFEST).is_file() and read_manifest(place).digest == read_manifest(Path(source)).digest:
            continue
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(source, fresh)
        if place.exists():
            place.rename(old)
        fresh.rename(place)
        shutil.rmtree(old, ignore_errors=True)
