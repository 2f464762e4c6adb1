"""HTTP and HTTPS, over connections that are kept; the only module that imports `requests`.

Every body has a size cap, every wait a limit: connecting, the whole of the headers, and a least
rate of the body, so that no server holds us up (THREATS F2). Redirects are followed by hand under
`transport.redirect`. Nothing of the user's is sent: no cookies, no ~/.netrc, no credentials.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, BinaryIO, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests import adapters, utils
from urllib3 import connection, connectionpool, exceptions

from buildit.remote import transport
from buildit.remote.transport import LocationError, Response, WebLimits

AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian's ca-certificates are."""
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name other ones, as requests, curl and OpenSSL have it."""
_UNTOUCHED = ("retries", "redirect", "preload_content", "decode_content", "assert_same_host")
"""What urllib3 is not to do by itself; a proxy's pool is of the proxy, another host."""
_READ = 1 << 18
_DRAINED = 16 << 10
"""Bytes of an answer that is of no use and yet read, so that its connection can be kept."""
_LARGEST_REFUSAL = 1 << 20
"""Bytes of what a host says where it does not serve a file."""
_ERRORS = (requests.RequestException, exceptions.HTTPError, OSError)


class _LinkLocalError(OSError):
    """A name led to a link-local address, where cloud metadata services live (THREATS A6)."""


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
    def __init__(self, limits: WebLimits, sock: socket.socket, **options: Any) -> None:  # noqa: ANN401
        super().__init__(sock, **options)
        self.pace = _Paced(sock, self.fp, limits)
        self.fp = io.BufferedReader(self.pace)


def _guarded(
    pool: type[connectionpool.HTTPConnectionPool],
    parent: type[connection.HTTPConnection],
    limits: WebLimits,
) -> type[connectionpool.HTTPConnectionPool]:
    class Connection(parent):  # type: ignore[misc, valid-type]  # a class given at run time
        response_class = partial(_Answer, limits)

        def connect(self) -> None:
            try:
                super().connect()
            except TimeoutError as error:  # of the TLS handshake: it belongs to connecting
                raise exceptions.ConnectTimeoutError(self, "no handshake") from error
            peer = self.sock.getpeername() if self.sock is not None else ("",)
            if transport.is_link_local(str(peer[0])):
                self.close()
                raise _LinkLocalError(f"the host's address {peer[0]} is link-local")

    return type("Pool", (pool,), {"ConnectionCls": Connection})


class _Adapter(adapters.HTTPAdapter):
    def __init__(self, limits: WebLimits) -> None:
        plain = connectionpool.HTTPConnectionPool, connection.HTTPConnection
        secure = connectionpool.HTTPSConnectionPool, connection.HTTPSConnection
        self._pools = {"http": _guarded(*plain, limits), "https": _guarded(*secure, limits)}
        super().__init__(pool_connections=1000, pool_maxsize=16)  # a pool is kept for the run

    def init_poolmanager(self, *sizes: Any, **options: Any) -> None:  # noqa: ANN401
        super().init_poolmanager(*sizes, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.PoolManager:  # noqa: ANN401
        manager: urllib3.PoolManager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class WebTransport:
    """Connections that are kept, shared by all threads."""

    def __init__(self, limits: WebLimits | None = None) -> None:
        self._limits = limits or WebLimits()
        self._adapter = _Adapter(self._limits)
        self._pools: dict[str, tuple[urllib3.HTTPConnectionPool, bool]] = {}
        named = (os.environ.get(name) for name in _BUNDLES)
        bundle = next(filter(None, named), AUTHORITIES)
        # where there is none, the library's own are taken
        self._authorities = bundle if os.path.exists(bundle) else True

    def close(self) -> None:
        self._adapter.close()

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        answer = self._follow(transport.parse_target(url), offset)
        if answer.status == 416 and offset:
            answer.close()  # the partial file is longer than the whole: start again
            answer, offset = self._follow(transport.parse_target(url), 0), 0
        with _body(answer) as pace:
            _check_status(url, answer)
            yield _response(url, answer, pace, offset, cap)

    @contextmanager
    def stream(
        self, url: str, headers: Mapping[str, str], offset: int, cap: int
    ) -> Iterator[Response | Reply]:
        """As `get`, by one request with these headers: what gives no bytes, such as a redirect or a
        refusal, is the answer.

        Raises:
            LocationError: the host cannot be talked to, or serves more than `cap` bytes.
        """
        ranged = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self._ask(transport.parse_target(url), "GET", {**headers, **ranged})
        with _body(answer) as pace:
            if answer.status in (200, 206):
                yield _response(url, answer, pace, offset, cap)
            else:
                yield _reply(url, answer, pace, _LARGEST_REFUSAL)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None = None,
        cap: int = 1 << 20,
    ) -> Reply:
        """One request, whose answer is of at most `cap` bytes; a redirect is an answer too. The
        length of a `body` that is a stream is among the `headers`.

        Raises:
            LocationError: the host cannot be talked to, or answers with more.
        """
        target = transport.parse_target(url)
        answer = self._ask(target, method, headers, body)
        with _body(answer) as pace:
            return _reply(url, answer, pace, cap, bodiless=method == "HEAD")

    def _follow(self, target: transport.Target, offset: int) -> urllib3.HTTPResponse:
        first = target.url
        for _ in range(self._limits.redirects + 1):
            answer = self._ask(target, "GET", {"Range": f"bytes={offset}-"} if offset else {})
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            location = answer.headers.get("Location", "")
            answer.close()
            if not location:
                raise LocationError(target.url, f"HTTP {answer.status} without a location")
            target = transport.redirect(target, location)
        raise LocationError(first, f"more than {self._limits.redirects} redirects")

    def _ask(
        self,
        target: transport.Target,
        method: str,
        more: Mapping[str, str],
        body: bytes | BinaryIO | None = None,
    ) -> urllib3.HTTPResponse:
        """One answer. Past requests' sessions: those read ~/.netrc, keep cookies between unrelated
        servers, and read the body of a redirect, whole and unpacked (THREATS F2)."""
        # identity: the bytes of the file, not of some transport's compression of it
        headers = {"User-Agent": "buildit", "Accept": "*/*", "Accept-Encoding": "identity", **more}
        try:
            url = target.url.partition("#")[0]
            parts = urlsplit(url)
            pool, by_proxy = self._pool(url, parts.scheme + parts.netloc)
            query = f"?{parts.query}" if parts.query else ""
            path = url if by_proxy else "/" + parts.path.lstrip("/") + query
            timeout = urllib3.Timeout(self._limits.connect, self._limits.window)
            options: dict[str, Any] = {"headers": headers, "timeout": timeout}
            options |= dict.fromkeys(_UNTOUCHED, False)
            answer = pool.urlopen(method, path, body=body, **options)
        except _ERRORS as error:
            raise _translated(target.url, error) from error
        return cast("urllib3.HTTPResponse", answer)

    def _pool(self, url: str, server: str) -> tuple[urllib3.HTTPConnectionPool, bool]:
        """The connections to a server, and whether a proxy is to be told the whole URL: as requests
        has it, which takes long to find out."""
        if server not in self._pools:
            request = requests.Request("GET", url).prepare()
            proxies = utils.get_environ_proxies(url)
            adapter, verify = self._adapter, self._authorities
            pool = adapter.get_connection_with_tls_context(request, verify, proxies)
            adapter.cert_verify(pool, url, verify, None)  # type: ignore[no-untyped-call]
            by_proxy = not adapter.request_url(request, proxies).startswith("/")
            self._pools[server] = cast("urllib3.HTTPConnectionPool", pool), by_proxy
        return self._pools[server]


@contextmanager
def _body(answer: urllib3.HTTPResponse) -> Iterator[_Paced]:
    """What watches over the body of an answer, whose connection is given back at the end."""
    pace = cast("_Answer", answer._original_response).pace  # noqa: SLF001  # as requests does
    pace.body()
    try:
        yield pace
    finally:
        answer.close()
        answer.release_conn()


def _response(
    url: str, answer: urllib3.HTTPResponse, pace: _Paced, offset: int, cap: int
) -> Response:
    start, total = _extent(url, answer, offset)
    transport.check_cap(url, total or 0, cap)
    return Response(_chunks(url, answer, pace, start, total, cap), start, total, pace.end)


def _reply(
    url: str, answer: urllib3.HTTPResponse, pace: _Paced, cap: int, *, bodiless: bool = False
) -> Reply:
    total = None if bodiless else _count(answer.headers.get("Content-Length", ""))
    transport.check_cap(url, total or 0, cap)
    content = b"".join(_chunks(url, answer, pace, 0, total, cap))
    return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, content)


def _proxy(url: str) -> str:
    """The proxy that the environment has for this URL, without its password; "" for none."""
    found = utils.select_proxy(url, utils.get_environ_proxies(url))
    return transport.hide_credentials(found) if found else ""


def _check_status(url: str, answer: urllib3.HTTPResponse) -> None:
    code = answer.status
    if code in (200, 206):
        return
    length = _count(answer.headers.get("Content-Length", ""))
    if length is not None and length <= _DRAINED:
        with suppress(*_ERRORS):  # so that the connection can be kept
            answer.read(decode_content=False)
    reason = f"HTTP {code}" + (f" {answer.reason}" if answer.reason else "")
    if code in (404, 410):
        raise LocationError(url, f"not found ({reason})", absent=True)
    if code in (401, 403, 407):
        hint = "whoever runs it must let the web server read that file: check its permissions"
        raise LocationError(url, f"refused ({reason})", hint=hint, refused=code == 403)
    if code == 429 or code >= 500:
        after = answer.headers.get("Retry-After", "")
        seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 7 else 0.0
        word = "too many requests" if code == 429 else "server error"
        raise LocationError(url, f"{word} ({reason})", transient=True, retry_after=seconds)
    raise LocationError(url, f"unexpected answer ({reason})")


def _extent(url: str, answer: urllib3.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Where the body begins and how long the whole is (RFC 9110, 14.4 Content-Range)."""
    if answer.status == 200:
        length = answer.headers.get("Content-Length", "")
        return 0, _count(length)
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


def _chunks(
    url: str, raw: urllib3.HTTPResponse, pace: _Paced, start: int, total: int | None, cap: int
) -> Iterator[bytes]:
    position = start
    while True:
        try:
            # read1 returns what has come; read would wait for all of it
            chunk = raw.read1(_READ, decode_content=False)
        except _ERRORS as error:
            if any(isinstance(one, TimeoutError) for one in _causes(error)):
                reason = "stalled: too slow to be worth waiting for"
                raise LocationError(url, reason, transient=True) from error
            raise _translated(url, error) from error
        if not chunk:
            break
        pace.came(len(chunk))
        position += len(chunk)
        transport.check_cap(url, position, cap)
        yield chunk
    if total is not None and position < total:
        reason = f"connection ended after {position} of {total} bytes"
        raise LocationError(url, reason, transient=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it wraps, however each library does it."""
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [current.__cause__, current.__context__, getattr(current, "reason", None)]
        pending += list(current.args)


def _translated(url: str, error: BaseException) -> LocationError:
    """What a library's exception means for the user; with a proxy, a connection that cannot be
    made is the proxy's: buildit makes no other.
    """
    causes = tuple(_causes(error))
    shown = transport.hide_credentials(url)

    def found(*types: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, types)), None)

    if (tls := found(ssl.SSLError, ssl.CertificateError)) is not None:
        verify = getattr(tls, "verify_message", "") or getattr(tls, "reason", "") or str(tls)
        clock = "check the clock and the machine's CA certificates"
        return LocationError(shown, f"TLS failed: {verify}", hint=clock, unreachable=True)
    if (local := found(_LinkLocalError)) is not None:
        return LocationError(shown, str(local), unreachable=True)
    last = str(causes[-1]) or type(causes[-1]).__name__
    reason, hint = "", ""
    if found(socket.gaierror, exceptions.NameResolutionError) is not None:
        reason, hint = "host name does not resolve", "check the name and DNS"
    elif found(ConnectionRefusedError) is not None:
        reason = "connection refused"
    elif found(exceptions.ConnectTimeoutError) is not None:
        reason = "timed out while connecting"
    elif found(exceptions.ProxyError) is not None:
        reason = last
    if reason and (proxy := _proxy(url)):
        hint = f"check {urlsplit(url).scheme}_proxy, or name the host in no_proxy"
        reason = f"the proxy {proxy}: {reason}"
    if reason:
        return LocationError(shown, reason, hint=hint or None, unreachable=True)
    if found(TimeoutError, exceptions.TimeoutError) is not None:
        return LocationError(shown, "timed out while waiting for an answer", transient=True)
    return LocationError(shown, f"connection failed: {last}", transient=True)
