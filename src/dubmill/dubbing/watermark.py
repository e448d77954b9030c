"""A plug for watermarks in pixels or sound, which survive a remux: `PACKAGE.MODULE:FUNCTION`, software of the operator's choice."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from dubmill.errors import ServiceUnavailableError, UsageError

log = logging.getLogger("dubmill.serving")

Watermark = Callable[
    [Path, Mapping[str, Any]], None
]  # changes the MP4 at a path; the facts are those of its C2PA manifest


def watermark_of(name: str) -> Watermark | None:
    """Returns the function at `PACKAGE.MODULE:FUNCTION`, or None without a name.

    Raises:
        UsageError: there is no such function, or its module fails.
    """
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever the module does
        what = f"the watermark cannot be imported ({type(error).__name__}: {error})"
        raise UsageError(what, where=name, cure="give --watermark PACKAGE.MODULE:FUNCTION") from error
    if not callable(found):
        raise UsageError("the watermark is no function", where=name, cure="give --watermark PACKAGE.MODULE:FUNCTION")
    return cast(Watermark, found)


def put_watermark(watermark: Watermark, path: Path, facts: Mapping[str, Any]) -> None:
    """Let `watermark` change the MP4 at `path`.

    Raises:
        ServiceUnavailableError: it failed, by any error; the log has the reason.
    """
    try:
        watermark(path, facts)
        path.stat()
    except Exception as error:
        log.exception("the watermark failed on %s", path)
        what = f"the dub has no watermark: this server's function for it failed ({type(error).__name__})"
        raise ServiceUnavailableError(
            what, cure="tell the operator, whose log has the reason, and try again"
        ) from error
