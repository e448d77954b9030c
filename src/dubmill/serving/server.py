"""The process: its arguments, what is checked before it listens, and the start."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dubmill.artifacts import Adapter, Backbone, Release, read_manifest
from dubmill.errors import BadArtifact, DubmillError, MismatchedBackbone
from dubmill.media import Limits
from dubmill.params import SamplingParams
from dubmill.params import validate as validate_section
from dubmill.serving.desk import ClipSize, Dubbing

log = logging.getLogger("dubmill.serving")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; 2 after one sentence if something does not fit."""
    asked = arguments().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        release = matched(asked.backbone, asked.release)
        ClipSize.of(release)
        run(asked, release, lambda: open_dubber(asked.backbone, release))
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
    parser.add_argument("--ledger", type=Path, default=Path("consent.jsonl"), help="file of consent statements")
    parser.add_argument("--max_waiting", type=int, default=4, help="dubs that may wait; the next one gets 429")
    parser.add_argument("--max_seconds", type=float, default=60.0, help="longest clip that is read at all")
    parser.add_argument("--max_body_bytes", type=int, default=64 * 1024**2, help="largest request; beyond: 413")
    return parser


def matched(backbone: Path, release: Path) -> Release:
    """The release, once it is sure that it was trained on this backbone.

    Raises:
        BadArtifact: one of them is something else.
        MismatchedBackbone: it was trained on another one.
    """
    opened, digest = Release.open(release), read_manifest(backbone).digest  # the weights are checked while loading
    wanted = opened.info.get("backbone") or opened.lineage.backbone
    if wanted != digest:
        raise MismatchedBackbone(
            f"the release was trained on backbone {wanted[:12]}, this is {digest[:12]}",
            where=str(release),
            cure="give the backbone it was trained on",
        )
    return opened


def open_dubber(backbone: Path, release: Release) -> Dubbing:
    """The release's adapter on its backbone, sampled as it was evaluated."""
    from dubmill.dubber import Dubber

    for name in ("sampling", "strength"):
        if name not in release.info:
            raise BadArtifact(f"the release does not tell its {name!r}", where=str(release.path), cure="promote again")
    sampling = validate_section(SamplingParams, release.info["sampling"], str(release.path))
    adapter = Adapter.open(release.path / "adapter")
    return Dubber.load(Backbone.open(backbone), adapter, strength=float(release.info["strength"]), sampling=sampling)


def run(asked: argparse.Namespace, release: Release, dubber: Callable[[], Dubbing]) -> None:
    """Start the server and stay until a signal ends it."""
    with _own_arguments_kept_back():
        from dubmill.serving.app import DubServer, prepare
        from dubmill.serving.model import DubModel
    model = DubModel(
        asked.name,
        release,
        open_dubber=dubber,
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
