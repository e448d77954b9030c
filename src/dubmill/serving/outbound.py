"""Requests that the server makes itself, to URLs that callers send: fetching a video, and calling a webhook.

A URL could point into the cluster. So only named hosts are called; every address is looked up once, checked, and then
connected to itself, so that a second answer of the DNS changes nothing; and each redirect is checked like the first URL.
"""

from __future__ import annotations

import ipaddress
import socket
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpcore

from dubmill.errors import MediaTooLargeError, ServiceUnavailableError, UnreadableMediaError, UsageError

MAX_REDIRECTS = 3
TIMEOUTS = {"connect": 10.0, "read": 30.0, "write": 30.0, "pool": 10.0}
REDIRECTS = (301, 302, 303, 307, 308)


class ForbiddenSourceError(UsageError):
    """A URL that this server does not fetch or call."""


@dataclass(frozen=True)
class Outbound:
    """Which hosts may be called: names, `.example.com` for all below one, or `*` for all; never private addresses.

    `allows_private` is for a closed network, where callers and hosts are trusted.
    """

    hosts: Sequence[str]
    allows_private: bool = False

    def check(self, url: str) -> str:
        """The URL, which is HTTPS (or HTTP in a closed network) and of a host that may be called; addresses come later.

        Raises:
            ForbiddenSourceError: it is not.
        """
        try:
            parts = urlsplit(url)
            host, _ = (parts.hostname or "").lower(), parts.port
        except ValueError as error:
            raise ForbiddenSourceError("this is not a URL", where=url[:200], cure="send an https URL") from error
        schemes = ("https", "http") if self.allows_private else ("https",)
        if parts.scheme not in schemes or not host or parts.username is not None:
            raise ForbiddenSourceError(
                "this is not a plain https URL", where=url[:200], cure="send one without a login"
            )
        if not any(known in ("*", host) or (known[0] == "." and host.endswith(known)) for known in self.hosts):
            raise ForbiddenSourceError("this server does not call that host", where=host[:200], cure="upload the video")
        return url

    def fetch(self, url: str, out: Path, *, max_bytes: int) -> None:
        """Write what is at `url` to `out`.

        Raises:
            ForbiddenSourceError: it, or what it redirects to, may not be called.
            MediaTooLargeError: it is larger than `max_bytes`.
            UnreadableMediaError: there is nothing, or the host does not answer.
        """
        with self._pool() as pool:
            for _ in range(1 + MAX_REDIRECTS):
                try:
                    with pool.stream("GET", self.check(url), extensions={"timeout": TIMEOUTS}) as response:
                        if response.status not in REDIRECTS:
                            _save(response, url, out, max_bytes)
                            return
                        url = urljoin(url, _header(response, b"location"))
                except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                    what = f"the host does not answer ({type(error).__name__})"
                    raise UnreadableMediaError(what, where=url[:200], cure="upload the video") from error
        raise UnreadableMediaError("too many redirects", where=url[:200], cure="send the URL of the video itself")

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send `body` to a webhook, which has to answer with 2xx; redirects are not followed.

        Raises:
            ForbiddenSourceError: the URL may not be called.
            ServiceUnavailableError: it did not answer so.
        """
        with self._pool() as pool:
            try:
                response = pool.request(
                    "POST",
                    self.check(url),
                    headers=list(headers.items()),
                    content=body,
                    extensions={"timeout": TIMEOUTS},
                )
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                raise ServiceUnavailableError(
                    f"the webhook does not answer ({type(error).__name__})", where=url[:200]
                ) from error
        if not 200 <= response.status < 300:
            raise ServiceUnavailableError(f"the webhook answered {response.status}", where=url[:200])

    def _pool(self) -> httpcore.ConnectionPool:
        return httpcore.ConnectionPool(network_backend=CheckedBackend(allows_private=self.allows_private))


class CheckedBackend(httpcore.SyncBackend):
    """Connects to an address only after it was checked; the name is not looked up again."""

    def __init__(self, *, allows_private: bool) -> None:
        self.allows_private = allows_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[typing.Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address of `host`.

        Raises:
            ForbiddenSourceError: one of its addresses is not public.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not self.allows_private and not all(map(is_public, addresses)):
            raise ForbiddenSourceError("that host has an address inside a network", where=host[:200], cure="upload it")
        return super().connect_tcp(addresses[0], port, timeout, local_address, socket_options)


def is_public(address: str) -> bool:
    """Whether an IP address is reachable from everywhere: not private, loopback, link-local, multicast or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is not None or ip in NAT64:
            return inner is not None and is_public(str(inner))
    return ip.is_global and not ip.is_multicast


NAT64 = ipaddress.ip_network("64:ff9b::/96")  # carries any IPv4 address in its last 32 bits


def _save(response: httpcore.Response, url: str, out: Path, max_bytes: int) -> None:
    if response.status != 200:
        raise UnreadableMediaError(f"the host answered {response.status}", where=url[:200], cure="check the URL")
    partial, num_bytes = out.with_name(f".{out.name}.partial"), 0
    try:
        with partial.open("wb") as stream:
            for block in response.iter_stream():
                num_bytes += len(block)
                if num_bytes > max_bytes:
                    raise MediaTooLargeError(f"it is larger than {max_bytes} bytes", where=url[:200], cure="send less")
                stream.write(block)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")
