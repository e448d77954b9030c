"""A plug for watermarks in pixels or sound, which survive a remux: `PACKAGE.MODULE:FUNCTION`, software of the operator's choice."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from dubmill.errors import UsageError

Watermark = Callable[
    [Path, Mapping[str, Any]], None
]  # changes the MP4 at a path; the facts are those of its C2PA manifest


def watermark_of(name: str) -> Watermark | None:
    """Returns the function at `PACKAGE.MODULE:FUNCTION`, or None without a name.

    Raises:
        UsageError: there is no such function.
    """
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"the watermark cannot be imported ({error})", where=name, cure="give --watermark PACKAGE.MODULE:FUNCTION"
        ) from error
    if not callable(found):
        raise UsageError("the watermark is no function", where=name, cure="give --watermark PACKAGE.MODULE:FUNCTION")
    return cast(Watermark, found)
