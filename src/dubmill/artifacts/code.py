"""Identifies the code that runs: a digest of the library's sources and embedded weights."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import dubmill

SUFFIXES = (".py", ".safetensors", ".json", ".html", ".j2", ".css", ".js")


@functools.cache
def code_digest() -> str:
    """Returns the sha256 of the library's sources, pages and embedded weights, but not of its parameters."""
    root = Path(dubmill.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in SUFFIXES:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
