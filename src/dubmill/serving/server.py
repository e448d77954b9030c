"""The server process: its arguments, the checks before it listens, and its start."""

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
from dubmill.dubbing.model_source import ModelSource
from dubmill.errors import DubmillError
from dubmill.media import Limits

log = logging.getLogger("dubmill.serving")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns 2 after one error message if the release or backbone is wrong.

    `argv` None: the process's own arguments.
    """
    options = arguments().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        release, source = opening.open_release(options.backbone, options.release)
        serve(options, release, source)
    except DubmillError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return 2
    return 0


def arguments() -> argparse.ArgumentParser:
    """The server's arguments; their names follow KServe's own flags."""
    parser = argparse.ArgumentParser(prog="dubmill.serving", description="Serve a promoted release with KServe.")
    parser.add_argument("--backbone", type=Path, required=True, help="directory of the backbone")
    parser.add_argument("--release", type=Path, required=True, help="directory of the release")
    parser.add_argument("--name", default="dubmill", help="model name in the URLs")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on; a pod needs 0.0.0.0, all of them")  # noqa: S104
    parser.add_argument("--http_port", type=int, default=8080, help="port of V1, V2, metrics and the studio page")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="file of consent statements")
    parser.add_argument(
        "--max_waiting", type=int, default=4, help="number of dubs that may wait; the next one gets status 429"
    )
    parser.add_argument("--max_seconds", type=float, default=60.0, help="longer clips are refused with status 413")
    parser.add_argument(
        "--max_body_bytes", type=int, default=64 * 1024**2, help="larger requests are refused with status 413"
    )
    return parser


def serve(options: argparse.Namespace, release: Release, source: ModelSource) -> None:
    """Start the server and return when a signal ends it."""
    with _hidden_arguments():
        from dubmill.serving.app import DubServer, mount_model
        from dubmill.serving.model import DubModel
    model = DubModel(
        options.name,
        release,
        source,
        open_dubber=lambda: opening.open_dubber(options.backbone, source),
        open_masker=lambda: opening.open_face_masker(options.backbone),
        ledger=options.ledger,
        max_waiting=options.max_waiting,
        limits=Limits(max_seconds=options.max_seconds),
    )
    server = DubServer(options.host, options.http_port)
    mount_model(server, model, max_body_bytes=options.max_body_bytes)
    model.load_in_background()
    log.info("listening on http://%s:%d", options.host, options.http_port)
    server.start([])  # the model is already registered: start() would refuse one that is still loading


@contextmanager
def _hidden_arguments() -> Iterator[None]:
    """Hide the command line while kserve is imported: it parses it at import."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments
