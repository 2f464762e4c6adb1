"""One file after the other over HTTP and HTTPS; the only module that imports `requests`.

Every body has a size cap, every wait a limit: connecting, the whole of the headers, and a least
rate of the body, so that no server holds us up (THREATS F2). Redirects are followed by hand under
`net.urls.redirect`. Nothing of the user's is sent: no cookies, no ~/.netrc, no credentials.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.utils
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
import urllib3.response

from buildit.remote.http import urls
from buildit.remote.http.watch import Watch, Watchman
from buildit.remote.http.web import Limits, authorities
from buildit.remote.transport import LocationError, Response, check_cap

READ = 1 << 18
_CUT = "buildit_cut"
"""The attribute of a response that ends its connection from any thread."""


class LinkLocalError(OSError):
    """A name led to a link-local address, where cloud metadata services live (THREATS A6)."""


def _connection_class(
    parent: type[urllib3.connection.HTTPConnection], limits: Limits, watchman: Watchman
) -> type[urllib3.connection.HTTPConnection]:
    class Guarded(parent):  # type: ignore[misc, valid-type]  # a class given at run time
        def connect(self) -> None:
            try:
                super().connect()
            except TimeoutError as error:  # of the TLS handshake: it belongs to connecting
                raise urllib3.exceptions.ConnectTimeoutError(self, "no handshake") from error
            peer = self.sock.getpeername() if self.sock is not None else ("",)
            if urls.is_link_local(str(peer[0])):
                self.close()
                raise LinkLocalError(f"the host's address {peer[0]} is link-local")

        def getresponse(self) -> urllib3.response.HTTPResponse:
            sock = self.sock
            with Watch(watchman, lambda: _shutdown(sock), limits.headers, 1) as watch:
                try:
                    response = super().getresponse()
                except Exception as error:
                    if watch.stalled:
                        raise TimeoutError("no complete headers") from error
                    raise
            if watch.stalled:  # http.client takes a connection's end for the end of the headers
                response.close()
                raise TimeoutError("no complete headers")
            # urllib3's own response.shutdown() stops reading only, and a server may go on sending
            setattr(response, _CUT, lambda: _shutdown(sock))
            return response  # type: ignore[no-any-return]  # as `parent` is

    return Guarded


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, limits: Limits, watchman: Watchman) -> None:
        self._limits = limits
        self._watchman = watchman
        super().__init__(pool_connections=16, pool_maxsize=16)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: object
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self._guard(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: object) -> urllib3.PoolManager:
        manager: urllib3.PoolManager = super().proxy_manager_for(proxy, **proxy_kwargs)
        self._guard(manager)
        return manager

    def _guard(self, manager: urllib3.PoolManager) -> None:
        plain = type(
            "GuardedHttpPool",
            (urllib3.connectionpool.HTTPConnectionPool,),
            {"ConnectionCls": self._class(urllib3.connection.HTTPConnection)},
        )
        secure = type(
            "GuardedHttpsPool",
            (urllib3.connectionpool.HTTPSConnectionPool,),
            {"ConnectionCls": self._class(urllib3.connection.HTTPSConnection)},
        )
        manager.pool_classes_by_scheme = {"http": plain, "https": secure}

    def _class(
        self, parent: type[urllib3.connection.HTTPConnection]
    ) -> type[urllib3.connection.HTTPConnection]:
        return _connection_class(parent, self._limits, self._watchman)


class _Session(requests.Session):
    """One that leaves redirects to us. Even where it follows none, requests would look where they
    lead, and for that read their bodies: whole, however long, and unpacked (THREATS F2)."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        return None


class HttpSession:
    """One session with keep-alive, shared by all threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._session = _Session()
        self._watchman = Watchman()
        adapter = _Adapter(self._limits, self._watchman)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        known = authorities()
        if known is not None:
            self._session.verify = known
        # requests would look into ~/.netrc, and keep cookies between unrelated servers
        self._session.auth = _no_credentials
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        self._session.headers["User-Agent"] = "buildit"

    def close(self) -> None:
        self._session.close()
        self._watchman.close()

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        answer = self._follow(urls.parse_target(url), offset)
        if answer.status_code == 416 and offset:
            answer.close()  # the partial file is longer than the whole: start again
            answer, offset = self._follow(urls.parse_target(url), 0), 0
        try:
            _check_status(url, answer)
            start, total = _extent(url, answer, offset)
            check_cap(url, total or 0, cap)
            cut: Callable[[], None] = getattr(answer.raw, _CUT)
            with Watch(self._watchman, cut, self._limits.window, self._limits.least) as watch:
                kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                chunks = _chunks(url, answer.raw, watch, start, total, cap)
                yield Response(chunks, start, total, kind, cut)
        finally:
            answer.close()

    def _follow(self, target: urls.Target, offset: int) -> requests.Response:
        first = target.url
        for _ in range(self._limits.redirects + 1):
            answer = self._ask(target, offset)
            if answer.status_code not in (301, 302, 303, 307, 308):
                return answer
            location = answer.headers.get("Location", "")
            answer.close()
            if not location:
                raise LocationError(target.url, f"HTTP {answer.status_code} without a location")
            target = urls.redirect(target, location)
        raise LocationError(first, f"more than {self._limits.redirects} redirects")

    def _ask(self, target: urls.Target, offset: int) -> requests.Response:
        # identity: the bytes of the file, not of some transport's compression of it
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            return self._session.get(
                target.url,
                headers=headers,
                timeout=(self._limits.connect, self._limits.window * 2),
                stream=True,
                allow_redirects=False,
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _translated(target.url, error) from error


def has_proxy(url: str) -> bool:
    """Whether the environment has a proxy for this URL, `no_proxy` minded."""
    return bool(requests.utils.get_environ_proxies(url))


def _proxy(url: str) -> str:
    """The proxy that the environment has for this URL, without its password; "" for none."""
    found = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    return urls.hide_credentials(found) if found else ""


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _shutdown(sock: socket.socket | None) -> None:
    if sock is None:
        return
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already: what we wanted


def _check_status(url: str, answer: requests.Response) -> None:
    code = answer.status_code
    if code in (200, 206):
        return
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


def _extent(url: str, answer: requests.Response, offset: int) -> tuple[int, int | None]:
    """Where the body begins and how long the whole is (RFC 9110, 14.4 Content-Range)."""
    if answer.status_code == 200:
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
    url: str,
    raw: urllib3.response.HTTPResponse,
    watch: Watch,
    start: int,
    total: int | None,
    cap: int,
) -> Iterator[bytes]:
    position = start
    while True:
        try:
            # read1 returns what has come; read would wait for all of it and hide a slow server
            chunk = raw.read1(READ, decode_content=False)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            slow = watch.stalled or any(isinstance(one, TimeoutError) for one in _causes(error))
            raise _stalled(url) if slow else _translated(url, error) from error
        if not chunk:
            break
        watch.received += len(chunk)
        position += len(chunk)
        check_cap(url, position, cap)
        yield chunk
    if watch.stalled:
        raise _stalled(url)
    if total is not None and position < total:
        reason = f"connection ended after {position} of {total} bytes"
        raise LocationError(url, reason, transient=True)


def _stalled(url: str) -> LocationError:
    return LocationError(url, "stalled: too slow to be worth waiting for", transient=True)


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
    shown = urls.hide_credentials(url)

    def found(*types: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, types)), None)

    if (tls := found(ssl.SSLError, ssl.CertificateError)) is not None:
        verify = getattr(tls, "verify_message", "") or getattr(tls, "reason", "") or str(tls)
        clock = "check the clock and the machine's CA certificates"
        return LocationError(shown, f"TLS failed: {verify}", hint=clock, unreachable=True)
    if (local := found(LinkLocalError)) is not None:
        return LocationError(shown, str(local), unreachable=True)
    last = str(causes[-1]) or type(causes[-1]).__name__
    reason, hint = "", ""
    if found(socket.gaierror, urllib3.exceptions.NameResolutionError) is not None:
        reason, hint = "host name does not resolve", "check the name and DNS"
    elif found(ConnectionRefusedError) is not None:
        reason = "connection refused"
    elif found(urllib3.exceptions.ConnectTimeoutError) is not None:
        reason = "timed out while connecting"
    elif found(urllib3.exceptions.ProxyError) is not None:
        reason = last
    if reason and (proxy := _proxy(url)):
        hint = f"check {urlsplit(url).scheme}_proxy, or name the host in no_proxy"
        reason = f"the proxy {proxy}: {reason}"
    if reason:
        return LocationError(shown, reason, hint=hint or None, unreachable=True)
    if found(TimeoutError, urllib3.exceptions.TimeoutError) is not None:
        return LocationError(shown, "timed out while waiting for an answer", transient=True)
    return LocationError(shown, f"connection failed: {last}", transient=True)
