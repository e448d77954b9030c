"""The server: its arguments, the checks before it listens, and its two processes, the API and the worker."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dubmill.artifacts.store import Release
from dubmill.dubbing import open as opening
from dubmill.dubbing.consent import LEDGER
from dubmill.dubbing.model_source import ModelSource
from dubmill.errors import DubmillError

if TYPE_CHECKING:
    from dubmill.serving.jobs import JobStore
    from dubmill.serving.projects import Projects
    from dubmill.serving.worker_process import WorkerProcess

log = logging.getLogger("dubmill.serving")

PROJECTS = "projects"  # folder of film projects, in that of the jobs
EXPIRY_SECONDS = 600.0  # between two searches for results that have expired


def main(argv: Sequence[str] | None = None, *, module: str = "dubmill.serving") -> int:
    """Serve until stopped; returns 2 after one error message if the release or backbone is wrong.

    `argv` None: the process's own arguments. The worker is a second process of `module`, with the same arguments.
    """
    argv = sys.argv[1:] if argv is None else argv
    options = arguments().parse_args(argv)
    options.database = options.database or f"sqlite:///{options.jobs}/jobs.sqlite"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        release, source = opening.open_release(options.backbone, options.release)
        if options.status_fd >= 0:
            from dubmill.serving import worker

            return worker.run_worker(options, release, source)
        serve(options, release, source, [sys.executable, "-m", module, *argv])
    except DubmillError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return 2
    return 0


def arguments() -> argparse.ArgumentParser:
    """The server's arguments; their names follow KServe's own flags."""
    parser = argparse.ArgumentParser(prog="dubmill.serving", description="Serve a promoted release with KServe.")
    parser.add_argument("--backbone", type=Path, required=True, help="directory of the backbone")
    parser.add_argument("--release", type=Path, required=True, help="directory of the release")
    parser.add_argument("--adapters", type=Path, help="directory of further releases, each in a folder of its own")
    parser.add_argument("--name", default="dubmill", help="model name in the URLs")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on; a pod needs 0.0.0.0, all of them")  # noqa: S104
    parser.add_argument("--http_port", type=_port, default=8080, help="port of V1, V2, metrics and the studio page")
    parser.add_argument("--grpc_port", type=_port, help="port of V2 over gRPC; without it there is only HTTP")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="file of consent statements")
    parser.add_argument(
        "--max_waiting", type=_count, default=100, help="number of jobs that may wait; the next one gets status 429"
    )
    parser.add_argument(
        "--max_per_caller",
        type=_positive,
        default=50,
        help="number of open jobs of one caller; the next one gets status 429",
    )
    parser.add_argument(
        "--batch_size",
        type=_positive,
        default=2,
        help="number of clips that are dubbed in one sampler call where as many wait; less where no more fit the free memory",
    )
    parser.add_argument(
        "--max_dubbed_seconds",
        type=_not_negative,
        default=math.inf,
        help="seconds of video that are dubbed for one caller in a calendar month (UTC), where --api_keys says nothing else; unlimited by default",
    )
    parser.add_argument("--max_projects_per_caller", type=_count, default=50, help="the next one gets status 409")
    parser.add_argument("--max_film_seconds", type=_finite, default=7200.0, help="longer films are refused")
    parser.add_argument(
        "--max_body_bytes", type=_positive, default=64 * 1024**2, help="larger requests are refused with status 413"
    )
    parser.add_argument("--jobs", type=Path, default=Path("jobs"), help="directory of uploads, results and the queue")
    parser.add_argument(
        "--database", default="", help="SQLAlchemy URL of the queue, postgresql://…; without it, SQLite in --jobs"
    )
    parser.add_argument("--executor", default="worker", help="name of this worker, which must not change at a restart")
    parser.add_argument("--result_hours", type=_finite, default=24.0, help="how long results are kept")
    parser.add_argument(
        "--project_hours", type=_finite, default=720.0, help="how long a film project is kept after its last use"
    )
    parser.add_argument(
        "--grace_seconds",
        type=_finite,
        default=110.0,
        help="how long a stop waits for the jobs that have a place at the model: two for each clip of a batch",
    )
    _add_trust_arguments(parser)
    parser.add_argument("--status_fd", type=int, default=-1, help=argparse.SUPPRESS)  # the worker's pipe to the API
    return parser


def _add_trust_arguments(parser: argparse.ArgumentParser) -> None:
    """Add who may call, which hosts are called, and how dubs are signed."""
    parser.add_argument(
        "--api_keys", type=Path, help="file with a line `OWNER SHA256-OF-KEY [SECONDS-A-MONTH]` for each key"
    )
    parser.add_argument("--identity_header", default="", help="header in which a gateway names the caller")
    hosts = "names, .example.com for all below it, or * for any public one; none by default"
    parser.add_argument("--fetch_hosts", nargs="*", default=[], help=f"hosts that videos are fetched from: {hosts}")
    parser.add_argument("--webhook_hosts", nargs="*", default=[], help=f"hosts that webhooks are sent to: {hosts}")
    parser.add_argument("--webhook_secret", type=Path, help="file with the secret that webhooks are signed with")
    parser.add_argument(
        "--allow_private_hosts", action="store_true", help="call private addresses and plain http too: a closed network"
    )
    parser.add_argument(
        "--c2pa_key",
        default="",
        help="PEM file of an ES256 key that signs dubs, or `development` for one nobody trusts",
    )
    parser.add_argument(
        "--watermark", default="", help="PACKAGE.MODULE:FUNCTION that watermarks the MP4 at a path, before it is signed"
    )
    parser.add_argument("--c2pa_certificates", type=Path, help="PEM file of the key's certificates, the signer's first")


def _count(text: str, least: int = 0, most: float = math.inf) -> int:
    if not least <= (value := int(text)) <= most:
        raise argparse.ArgumentTypeError(
            f"it is at least {least}" + (f" and at most {most}" if most < math.inf else "")
        )
    return value


def _positive(text: str) -> int:
    return _count(text, 1)


def _port(text: str) -> int:
    return _count(text, 1, 65535)


def _not_negative(text: str) -> float:
    if not (value := float(text)) >= 0.0:  # which is true of nan too
        raise argparse.ArgumentTypeError("it is at least 0")
    return value


def _finite(text: str) -> float:
    if (value := _not_negative(text)) == math.inf:
        raise argparse.ArgumentTypeError("it must be finite")
    return value


def serve(options: argparse.Namespace, release: Release, source: ModelSource, worker_command: Sequence[str]) -> None:
    """Start the API and its worker, and return when a signal ends them."""
    from dubmill.serving.worker_process import WorkerProcess

    worker = WorkerProcess(worker_command)
    worker.start()  # it loads the model while this process imports KServe
    try:
        _serve_api(options, release, source, worker)
    finally:
        worker.stop(options.grace_seconds)


def _serve_api(options: argparse.Namespace, release: Release, source: ModelSource, worker: WorkerProcess) -> None:
    """Serve the API until a signal ends it, after `worker` has finished the jobs that have a place at the model."""
    with _hidden_arguments():
        from dubmill.serving.app import DubServer, mount_model
        from dubmill.serving.model import DubModel
    import uvloop

    from dubmill.serving.jobs import JobLimits, JobStore
    from dubmill.serving.keys import Callers
    from dubmill.serving.outbound import Outbound
    from dubmill.serving.projects import Projects

    callers = Callers.read(options.api_keys, options.identity_header)
    limits = JobLimits(
        max_waiting=options.max_waiting,
        max_per_caller=options.max_per_caller,
        result_hours=options.result_hours,
        quota_of=lambda owner: callers.quotas.get(owner, options.max_dubbed_seconds),
    )
    jobs = JobStore(options.jobs, options.database, limits)
    calling = Outbound(options.webhook_hosts if options.webhook_secret else [], options.allow_private_hosts)
    fetching = Outbound(options.fetch_hosts, options.allow_private_hosts)
    projects = Projects(options.jobs / PROJECTS, options.project_hours, options.max_projects_per_caller)
    model = DubModel(
        options.name,
        release,
        source,
        jobs,
        projects=projects,
        backbone=options.backbone,
        fetching=fetching,
        calling=calling,
    )

    def drain() -> None:
        model.stop_accepting()
        worker.stop(options.grace_seconds)

    server = DubServer(options.host, options.http_port, drain=drain)
    mount_model(server, model, max_body_bytes=options.max_body_bytes, callers=callers, limits=_limits(options))
    if options.grpc_port is not None:
        server.add_grpc(options.grpc_port, callers=callers, max_body_bytes=options.max_body_bytes)
    worker.listen(model.on_event)
    threading.Thread(target=jobs.watch.watch, name="database", daemon=True).start()
    threading.Thread(target=_delete_expired, args=(jobs, projects), name="expiry", daemon=True).start()
    log.info("listening on http://%s:%d", options.host, options.http_port)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # KServe runs the default one, whatever its options say
    asyncio.set_event_loop(asyncio.new_event_loop())  # which KServe asks for before it runs
    server.start([])  # the model is already registered: start() would refuse one that is still loading


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    """What `/v1/limits` says, beside the seconds of a clip."""
    names = (
        "batch_size",
        "max_body_bytes",
        "max_film_seconds",
        "max_waiting",
        "max_per_caller",
        "max_projects_per_caller",
        "result_hours",
        "project_hours",
    )
    return {name: getattr(options, name) for name in names}


def _delete_expired(jobs: JobStore, projects: Projects) -> None:
    from dubmill.serving.database import AWAY

    while True:
        with suppress(*AWAY):
            jobs.delete_expired()
        projects.delete_expired()
        time.sleep(EXPIRY_SECONDS)


@contextmanager
def _hidden_arguments() -> Iterator[None]:
    """Hide the command line while kserve is imported: it parses it at import."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments
