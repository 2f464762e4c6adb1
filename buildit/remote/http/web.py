"""HTTP and HTTPS by the standard library's client, over connections that are kept (ADR 22).

Every body has a size cap, every wait a limit: connecting, the whole of the headers, and a least
rate of the body, so that no server holds us up (THREATS F2). Redirects are followed by hand under
`urls.redirect`. Nothing of the user's is sent: no cookies, no ~/.netrc, no credentials but those of
a proxy.
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import os
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import IO, Any, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from buildit.remote.http import urls
from buildit.remote.transport import LocationError, Response, WebLimits, check_cap

AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian's ca-certificates are."""
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name other ones, as other clients have it."""
# identity: the bytes of the file, not of some transport's compression of it
_HEADERS = {"User-Agent": "buildit", "Accept": "*/*", "Accept-Encoding": "identity"}
_READ = 1 << 18
_DRAINED = 16 << 10
"""Bytes of an answer that is of no use and yet read, so that its connection can be kept."""
_ERRORS = (OSError, http.client.HTTPException)


class _Paced(io.RawIOBase):
    """What comes from a server: its headers in time, then its body at no less than a rate. Only
    what it keeps us waiting for counts, not what we do meanwhile; and only what is of the file, not
    what chunks and trailers are wrapped in, which have no end."""

    def __init__(self, sock: socket.socket, stream: IO[bytes], limits: WebLimits) -> None:
        self._sock = sock
        self._stream = stream  # keeps the socket open
        self._window, self._least = limits.window, limits.least
        self._left = limits.headers
        self._came: float = -float("inf")  # no number of bytes makes up for headers without end

    def body(self) -> None:
        """The headers are here: from now on the rate counts."""
        self._came, self._left = 0, self._window

    def came(self, size: int) -> None:
        """So much of the body was of use."""
        self._came += size

    def end(self) -> None:
        """Cut the connection, from any thread."""
        with suppress(OSError):  # it is closed already: what we wanted
            self._sock.shutdown(socket.SHUT_RDWR)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401  # io's own signature
        while True:
            if self._left <= 0:
                if self._came < self._least:
                    self.end()
                    raise TimeoutError("too slow")
                self.body()
            begun = time.monotonic()
            try:
                self._sock.settimeout(self._left)
                size = self._sock.recv_into(buffer)
            except TimeoutError:
                continue
            finally:
                self._left -= time.monotonic() - begun
            return size

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer, whose body is still to come; `server` is set once its headers are here."""

    server: _Server
    connection: http.client.HTTPConnection

    def __init__(self, limits: WebLimits, sock: socket.socket, **options: Any) -> None:  # noqa: ANN401
        super().__init__(sock, **options)
        self.pace = _Paced(sock, self.fp, limits)
        self.fp = io.BufferedReader(self.pace)

    def release(self) -> None:
        """Keep the connection for the next request, where nothing of this one is left in it."""
        whole = self.isclosed() or self.length == 0
        self.close()
        if whole and self.connection.sock is not None:  # the client closed it where it will end
            self.server.idle.append(self.connection)
        else:
            self.connection.close()


@dataclass(frozen=True, slots=True)
class _Server:
    """A server by its scheme, its name and its port; the proxy on the way to it, and the
    connections that wait for the next request."""

    address: SplitResult
    proxy: SplitResult | None
    idle: list[http.client.HTTPConnection] = field(default_factory=list)

    def kept(self) -> http.client.HTTPConnection | None:
        """An idle connection that the server did not close meanwhile."""
        with suppress(IndexError):  # another thread may take the last one
            while True:
                connection = self.idle.pop()
                watched = select.poll()
                watched.register(connection.sock, select.POLLIN)
                if not watched.poll(0):
                    return connection
                connection.close()
        return None

    def opened(self, limits: WebLimits, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
        way, host = self.proxy or self.address, self.address.hostname or ""
        port = way.port or (443 if tls and not self.proxy else 80)
        connection = http.client.HTTPConnection(way.hostname or "", port, limits.connect)
        if tls:
            connection = http.client.HTTPSConnection(
                connection.host, port, timeout=limits.connect, context=tls
            )
        # typed as a class, and called with what its constructor takes
        connection.response_class = partial(_Answer, limits)  # type: ignore[assignment]
        if tls and self.proxy:
            connection.set_tunnel(host, self.address.port or 443, _credentials(self.proxy))
        try:
            connection.connect()
            if urls.is_link_local(peer := str(connection.sock.getpeername()[0])):
                # a name led to where cloud metadata services live (THREATS A6)
                raise LocationError("", f"the host's address {peer} is link-local")
        except BaseException:
            connection.close()
            raise
        return connection

    def failed(self, url: str, error: Exception, *, connecting: bool = False) -> LocationError:
        """What an exception means for the user; with a proxy, a connection that cannot be made is
        the proxy's: buildit makes no other."""
        shown, last = urls.hide_credentials(url), str(error) or type(error).__name__
        reason, hint = "", ""
        if isinstance(error, ssl.SSLError):
            verify = getattr(error, "verify_message", "") or error.reason or last
            clock = "check the clock and the machine's CA certificates"
            return LocationError(shown, f"TLS failed: {verify}", hint=clock, unreachable=True)
        if isinstance(error, LocationError):
            return LocationError(shown, error.reason, unreachable=True)
        if isinstance(error, socket.gaierror):
            reason, hint = "host name does not resolve", "check the name and DNS"
        elif isinstance(error, ConnectionRefusedError):
            reason = "connection refused"
        elif connecting and (self.proxy or isinstance(error, TimeoutError)):
            reason = "timed out while connecting" if isinstance(error, TimeoutError) else last
        if reason and self.proxy:
            hint = f"check {self.address.scheme}_proxy, or name the host in no_proxy"
            reason = f"the proxy {urls.hide_credentials(self.proxy.geturl())}: {reason}"
        if reason:
            return LocationError(shown, reason, hint=hint or None, unreachable=True)
        silent = isinstance(error, TimeoutError)
        reason = "timed out while waiting for an answer" if silent else f"connection failed: {last}"
        return LocationError(shown, reason, transient=True)


class WebTransport:
    """Connections that are kept, shared by all threads."""

    def __init__(self, limits: WebLimits | None = None) -> None:
        self._limits = limits or WebLimits()
        self._servers: dict[str, _Server] = {}

    def close(self) -> None:
        for server in self._servers.values():
            while connection := server.kept():
                connection.close()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        named = (os.environ.get(name) for name in _BUNDLES)
        bundle = next(filter(None, named), AUTHORITIES)
        if os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        # where there is none, OpenSSL's own are taken
        return ssl.create_default_context(cafile=bundle if os.path.exists(bundle) else None)

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        target = urls.parse_target(url)
        answer = self._follow(target, offset)
        if answer.status == 416 and offset:
            answer.release()  # the partial file is longer than the whole: start again
            answer, offset = self._follow(target, 0), 0
        try:
            answer.pace.body()
            _check_status(url, answer)
            start, total = _extent(url, answer, offset)
            check_cap(url, total or 0, cap)
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            yield Response(
                _chunks(url, answer, start, total, cap), start, total, kind, answer.pace.end
            )
        finally:
            answer.release()

    def _follow(self, target: urls.Target, offset: int) -> _Answer:
        first = target.url
        for _ in range(self._limits.redirects + 1):
            answer = self._ask(target, offset)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            location = answer.headers.get("Location", "")
            answer.release()
            if not location:
                raise LocationError(target.url, f"HTTP {answer.status} without a location")
            target = urls.redirect(target, location)
        raise LocationError(first, f"more than {self._limits.redirects} redirects")

    def _ask(self, target: urls.Target, offset: int) -> _Answer:
        url = urlsplit(target.url)._replace(fragment="")
        server = self._server(url, target.host)
        headers = _HEADERS | ({"Range": f"bytes={offset}-"} if offset else {})
        path = "/" + url.path.lstrip("/") + (f"?{url.query}" if url.query else "")
        if server.proxy and url.scheme == "http":
            path, headers = url.geturl(), headers | _credentials(server.proxy)
        connection = server.kept()
        connecting = connection is None
        try:
            connection = connection or server.opened(
                self._limits, self._tls if url.scheme == "https" else None
            )
            connecting = False
            connection.request("GET", path, headers=headers)
            answer = cast("_Answer", connection.getresponse())
        except (*_ERRORS, LocationError) as error:
            if connection is not None:
                connection.close()
            raise server.failed(target.url, error, connecting=connecting) from error
        answer.server, answer.connection = server, connection
        return answer

    def _server(self, url: SplitResult, host: str) -> _Server:
        name = f"{url.scheme}://{url.netloc}"
        if name not in self._servers:
            self._servers.setdefault(name, _Server(url, _proxy(url, host)))
        return self._servers[name]


def _proxy(url: SplitResult, host: str) -> SplitResult | None:
    """The proxy that the environment has for a server, as curl reads it.

    Raises:
        LocationError: it is one that is spoken to by another protocol than HTTP.
    """
    proxies = getproxies_environment()
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found or proxy_bypass(url.netloc, proxies):
        return None
    for network in proxies.get("no", "").split(","):
        with suppress(ValueError):  # most are names, and so are most hosts
            if ipaddress.ip_address(host) in ipaddress.ip_network(network.strip(), strict=False):
                return None
    proxy = urlsplit(found if "://" in found else f"http://{found}")
    if proxy.scheme != "http" or not proxy.hostname:
        shown = urls.hide_credentials(found)
        hint = f"set {url.scheme}_proxy to http://HOST:PORT, or name the host in no_proxy"
        raise LocationError(url.geturl(), f"the proxy {shown} is not one by http", hint=hint)
    return proxy


def _credentials(proxy: SplitResult) -> dict[str, str]:
    """The header that a proxy's user and password make."""
    if not proxy.username:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login).decode()}"}


def _check_status(url: str, answer: _Answer) -> None:
    code = answer.status
    if code in (200, 206):
        return
    length = _count(answer.headers.get("Content-Length", ""))
    if length is not None and length <= _DRAINED:
        with suppress(*_ERRORS):  # so that the connection can be kept
            answer.read()
    reason = f"HTTP {code}" + (f" {answer.reason}" if answer.reason else "")
    if code in (404, 410):
        raise LocationError(url, f"not found ({reason})", absent=True)
    if code in (401, 403, 407):
        raise LocationError(
            url,
            f"refused ({reason})",
            hint="whoever runs it must let the web server read that file: check its permissions",
        )
    if code == 429 or code >= 500:
        after = answer.headers.get("Retry-After", "")
        seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 7 else 0.0
        word = "too many requests" if code == 429 else "server error"
        raise LocationError(url, f"{word} ({reason})", transient=True, retry_after=seconds)
    raise LocationError(url, f"unexpected answer ({reason})")


def _extent(url: str, answer: _Answer, offset: int) -> tuple[int, int | None]:
    """Where the body begins and how long the whole is (RFC 9110, 14.4 Content-Range)."""
    if answer.status == 200:
        return 0, _count(answer.headers.get("Content-Length", ""))
    stated = answer.headers.get("Content-Range", "")
    unit, _, rest = stated.partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if not offset or unit != "bytes" or first != str(offset):
        raise LocationError(url, f"serves another range than was asked for: {stated[:80]!r}")
    return offset, _count(total)


def _count(text: str) -> int | None:
    """A number of bytes; None for what is none. Python reads no number of 5000 digits, and a
    length of 20 is beyond every cap."""
    return int(text[:20]) if text.isascii() and text.isdigit() else None


def _chunks(url: str, answer: _Answer, start: int, total: int | None, cap: int) -> Iterator[bytes]:
    position = start
    while True:
        try:
            # read1 returns what has come; read would wait for all of it
            chunk = answer.read1(_READ)
        except TimeoutError as error:
            reason = "stalled: too slow to be worth waiting for"
            raise LocationError(url, reason, transient=True) from error
        except _ERRORS as error:
            raise answer.server.failed(url, error) from error
        if not chunk:
            break
        answer.pace.came(len(chunk))
        position += len(chunk)
        check_cap(url, position, cap)
        yield chunk
    if total is not None and position < total:
        reason = f"connection ended after {position} of {total} bytes"
        raise LocationError(url, reason, transient=True)
