"""A promoted release behind KServe (V1, V2, a raw route, a studio page), or without a server; consent kept either way."""

from __future__ import annotations

from collections.abc import Sequence

from dubmill.dubbing.open import dub_file, dub_film_file


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; 2 after one sentence if something does not fit. `argv` None is the process's own."""
    from dubmill.serving.server import main as serve

    return serve(argv)


__all__ = ["dub_file", "dub_film_file", "main"]
