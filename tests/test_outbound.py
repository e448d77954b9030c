"""Requests that the server makes to URLs of callers, who calls, and signatures: over real sockets, without a server."""

import hashlib
import http.server
import socket
import threading

import pytest

from dubmill.client import is_webhook_genuine
from dubmill.errors import MediaTooLargeError, ServiceUnavailableError, UnreadableMediaError, UsageError
from dubmill.serving.keys import Callers
from dubmill.serving.outbound import ForbiddenSourceError, Outbound, is_public
from dubmill.serving.problems import UnauthorizedError
from dubmill.serving.webhooks import Webhooks

SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cw=="


class Receiver(http.server.BaseHTTPRequestHandler):
    """Serves a file, redirects, and remembers what it was sent."""

    received = []

    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200 if self.path == "/clip.mp4" else 404)
        self.end_headers()
        self.wfile.write(b"v" * 1000)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204 if self.path == "/hook" else 500)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


CLOSED_NETWORK = Outbound(["127.0.0.1"], allows_private=True)


def test_a_video_is_fetched_and_bounded(host, tmp_path):
    out = tmp_path / "source"
    CLOSED_NETWORK.fetch(f"{host}/clip.mp4", out, max_bytes=1000)
    assert out.read_bytes() == b"v" * 1000
    with pytest.raises(MediaTooLargeError):
        CLOSED_NETWORK.fetch(f"{host}/clip.mp4", tmp_path / "large", max_bytes=999)
    with pytest.raises(UnreadableMediaError, match="404"):
        CLOSED_NETWORK.fetch(f"{host}/none", tmp_path / "none", max_bytes=1000)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_redirects_are_followed_a_few_times_and_checked_like_the_first_url(host, tmp_path):
    CLOSED_NETWORK.fetch(f"{host}/to//clip.mp4", tmp_path / "source", max_bytes=1000)
    for elsewhere in ("http://elsewhere.example/clip.mp4", "file:///etc/passwd", "http://user@127.0.0.1/"):
        with pytest.raises(ForbiddenSourceError):
            CLOSED_NETWORK.fetch(f"{host}/to/{elsewhere}", tmp_path / "no", max_bytes=1000)
    with pytest.raises(UnreadableMediaError, match="redirects"):
        CLOSED_NETWORK.fetch(f"{host}{'/to/' * 6}/clip.mp4", tmp_path / "no", max_bytes=1000)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.mp4",
        "ftp://example.com/a.mp4",
        "https://user:word@example.com/a",
        "https://evil.com/",
        "https://example.com.evil.com/",
        "https://notexample.org/",
        "https:///a",
        "https://[::1",
        "https://example.com:99999/",
        "nonsense",
    ],
)
def test_a_url_of_another_host_or_scheme_is_refused(url):
    with pytest.raises(ForbiddenSourceError):
        Outbound(["example.com", ".example.org"]).check(url)


def test_named_hosts_and_all_below_one_are_called():
    outbound = Outbound(["example.com", ".example.org"])
    for url in ("https://example.com/a", "https://cdn.example.org/a"):
        assert outbound.check(url) == url


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "2002:a00:1::1",
    ],
)  # fmt: skip
def test_addresses_inside_a_network_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


def test_a_public_name_with_an_inner_address_is_refused_before_anything_is_sent(tmp_path, monkeypatch):
    """One of two answers is enough, and what is checked is what is connected to."""
    answers = [(2, 1, 6, "", ("93.184.216.34", 443)), (2, 1, 6, "", ("10.0.0.7", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it connected"))
    with pytest.raises(ForbiddenSourceError, match="inside a network"):
        Outbound(["example.com"]).fetch("https://example.com/a.mp4", tmp_path / "a", max_bytes=10)


def test_a_webhook_is_signed_and_a_changed_one_is_noticed(host):
    Receiver.received.clear()
    Webhooks(CLOSED_NETWORK, SECRET).send(f"{host}/hook", "job-1", {"type": "dub.done"})
    ((headers, body),) = Receiver.received
    assert is_webhook_genuine(SECRET, headers, body)
    assert not is_webhook_genuine(SECRET, headers, body + b" ")
    assert not is_webhook_genuine(SECRET, {**headers, "webhook-id": "job-2"}, body)
    assert not is_webhook_genuine("another", headers, body)
    assert not is_webhook_genuine(SECRET, headers, body, max_age_seconds=-1)


def test_a_webhook_that_is_refused_is_an_error_to_be_tried_again(host):
    with pytest.raises(ServiceUnavailableError, match="500"):
        Webhooks(CLOSED_NETWORK, SECRET).send(f"{host}/broken", "job-1", {})


def _key_file(path, **keys):
    lines = [f"{owner} {hashlib.sha256(key.encode()).hexdigest()}" for owner, key in keys.items()]
    path.write_text("\n".join(["# owners and keys", *lines]))
    return path


def test_a_caller_is_known_by_its_key(tmp_path):
    callers = Callers.read(_key_file(tmp_path / "keys", studio="k1", cinema="k2"), "")
    assert callers.identify({b"authorization": b"Bearer k2"}) == "cinema"
    assert callers.identify({b"x-api-key": b"k1"}) == "studio"
    for headers in (
        {},
        {b"authorization": b"Bearer k3"},
        {b"authorization": b"Basic k1"},
        {b"authorization": b"Bearer"},
    ):
        with pytest.raises(UnauthorizedError):
            callers.identify(headers)


def test_an_owner_has_one_quota_however_many_keys_it_has(tmp_path):
    path = tmp_path / "keys"
    for last, quotas in (
        ("60", {"ana": 60.0}),
        ("", {"ana": 60.0}),
        ("61", None),
        ("-1", None),
        ("1e9", None),
        ("nan", None),
        ("inf", None),
        ("60 s", None),
    ):
        path.write_text(f"ana {'a' * 64} 60\nana {'b' * 64} {last}\neve {'c' * 64}\n")
        if quotas is None:
            with pytest.raises(UsageError, match="one number for an owner"):
                Callers.read(path, "")
        else:
            assert Callers.read(path, "").quotas == quotas


def test_a_caller_is_known_by_the_gateways_header():
    callers = Callers.read(None, "kubeflow-userid")
    assert callers.identify({b"kubeflow-userid": b"ana@example.com"}) == "ana@example.com"
    with pytest.raises(UnauthorizedError):
        callers.identify({})
    assert Callers.read(None, "").identify({}) == "anonymous"


def test_a_file_without_keys_is_refused_at_the_start(tmp_path):
    """An empty file would let everybody in."""
    (tmp_path / "keys").write_text("# none yet\n")
    for path in (tmp_path / "keys", tmp_path / "missing"):
        with pytest.raises(UsageError):
            Callers.read(path, "")
