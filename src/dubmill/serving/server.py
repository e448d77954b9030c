"""The process: its arguments, what is checked before it listens, and the start."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dubmill.artifacts.store import Release
from dubmill.dubbing import open as opening
from dubmill.dubbing.consent import LEDGER
from dubmill.dubbing.service import ClipSize
from dubmill.errors import DubmillError
from dubmill.media import Limits

log = logging.getLogger("dubmill.serving")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; 2 after one sentence if something does not fit."""
    asked = arguments().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        release = opening.matched(asked.backbone, asked.release)
        ClipSize.of(release)
        run(asked, release)
    except DubmillError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return 2
    return 0


def arguments() -> argparse.ArgumentParser:
    """What the server can be told; names follow KServe's own flags."""
    parser = argparse.ArgumentParser(prog="dubmill.serving", description="Serve a promoted release with KServe.")
    parser.add_argument("--backbone", type=Path, required=True, help="directory of the backbone")
    parser.add_argument("--release", type=Path, required=True, help="directory of the release")
    parser.add_argument("--name", default="dubmill", help="model name in the URLs")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on; a pod needs all of them")  # noqa: S104
    parser.add_argument("--http_port", type=int, default=8080, help="port of V1, V2, metrics and the studio page")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="file of consent statements")
    parser.add_argument("--max_waiting", type=int, default=4, help="dubs that may wait; the next one gets 429")
    parser.add_argument("--max_seconds", type=float, default=60.0, help="longest clip that is read at all")
    parser.add_argument("--max_body_bytes", type=int, default=64 * 1024**2, help="largest request; beyond: 413")
    return parser


def run(asked: argparse.Namespace, release: Release) -> None:
    """Start the server and stay until a signal ends it."""
    with _own_arguments_kept_back():
        from dubmill.serving.app import DubServer, prepare
        from dubmill.serving.model import DubModel
    model = DubModel(
        asked.name,
        release,
        open_dubber=lambda: opening.open_dubber(asked.backbone, release),
        open_watch=lambda: opening.open_watch(asked.backbone),
        ledger=asked.ledger,
        max_waiting=asked.max_waiting,
        limits=Limits(max_seconds=asked.max_seconds),
    )
    server = DubServer(asked.host, asked.http_port)
    prepare(server, model, max_body_bytes=asked.max_body_bytes)
    model.load_beside()
    log.info("listening on http://%s:%d", asked.host, asked.http_port)
    server.start([])  # the model is registered already: start() would refuse one that is still loading


@contextmanager
def _own_arguments_kept_back() -> Iterator[None]:
    """Hide the command line while kserve is imported: it parses it at import."""
    kept, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = kept
