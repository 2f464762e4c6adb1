"""Where bytes come from: the transport protocol, the transport of local files, which URLs of the
web are asked at all, and how long a host is borne.

A transport serves bytes and never judges them: the caller compares the digest. HTTP is in
`remote.web`, SFTP in `remote.sftp.login`; each is loaded when the first URL needs it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urljoin, urlsplit

from buildit.digest import CHUNK
from buildit.errors import FetchError
from buildit.files import NotRegularError, open_regular
from buildit.model.config import Ssh, parse_ssh


@dataclass(eq=False, repr=False)
class LocationError(FetchError):
    """One location failed; another may serve the bytes.

    `transient` says that the same location may serve them later, `retry_after` when (seconds).
    `absent` says that the location simply does not have them, `wrong` that it serves too many,
    `unreachable` that its host cannot be talked to at all, `refused` that this file is not for us.
    """

    url: str
    reason: str
    _: KW_ONLY
    hint: str | None = None
    transient: bool = False
    absent: bool = False
    wrong: bool = False
    retry_after: float = 0.0
    unreachable: bool = False
    refused: bool = False

    def __post_init__(self) -> None:
        super().__init__(self.reason, place=self.url, hint=self.hint)


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Seconds to connect, for all headers of one answer, and of one window in which the body must
    move `least` bytes; how many redirects are followed."""

    connect: float = 10.0
    headers: float = 20.0
    window: float = 20.0
    least: int = 20 * 1024
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class Response:
    """A body under way.

    `offset` is the position of the first byte in the whole (0 where the location cannot resume),
    `total` the size of the whole in bytes where known. `chunks` raises `LocationError` when the
    location fails half-way. `abort` ends it from any thread.
    """

    chunks: Iterator[bytes]
    offset: int
    total: int | None
    abort: Callable[[], None]


class Transport(Protocol):
    """Bytes by URL. Thread-safe."""

    def get(self, url: str, offset: int, cap: int) -> AbstractContextManager[Response]:
        """Open `url` at `offset`; more than `cap` bytes in all are refused.

        Raises:
            LocationError: the location does not serve it.
        """

    def close(self) -> None:
        """Let idle connections go."""


def local_path(url: str) -> Path | None:
    """The path that a `file:` URL (RFC 8089) or an absolute path names; None for other URLs.

    Raises:
        LocationError: a `file:` URL of another machine, or one that is not absolute.
    """
    if url.startswith("/"):
        return Path(url)
    if not url.lower().startswith("file:"):
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise LocationError(url, f"file: URL names another host, {parts.netloc!r}")
    path = unquote(parts.path, errors="surrogateescape")
    if not path.startswith("/") or "\0" in path:
        raise LocationError(url, "file: URL is not an absolute path", hint="write file:///path")
    return Path(path)


def ssh_address(text: str) -> Ssh:
    """Read `user@host:port/path`, with or without `ssh://`; two slashes begin an absolute path.

    Raises:
        LocationError: it is not that.
    """
    found = parse_ssh(text)
    if found is None:
        hint = "write user@host/path or user@host:port//path"
        raise LocationError(text, "not a directory behind SSH", hint=hint)
    return found


class LocalTransport:
    """`file:` URLs and absolute paths: regular files only, and no links unless `follow`."""

    def __init__(self, *, follow: bool = True) -> None:
        self._follow = follow

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        path = local_path(url)
        if path is None:
            raise LocationError(url, "not a file: URL or an absolute path")
        try:
            opened = open_regular(path, follow=self._follow, buffering=0)
        except FileNotFoundError as error:
            raise LocationError(url, "no such file", absent=True) from error
        except OSError as error:
            raise LocationError(url, f"cannot be read: {error.strerror}") from error
        except NotRegularError as error:
            raise LocationError(url, "is not a regular file") from error
        with opened as stream:
            size = os.fstat(stream.fileno()).st_size
            check_cap(url, size, cap)
            start = offset if offset <= size else 0
            stream.seek(start)
            chunks = _file_chunks(stream.read, url, cap - start)
            yield Response(chunks, start, size, lambda: None)

    def close(self) -> None:
        return


class ClosedTransport:
    """The network of a run that asks no other machine: every request is refused by name."""

    def get(self, url: str, offset: int, cap: int) -> AbstractContextManager[Response]:  # noqa: ARG002  # the protocol's
        raise LocationError(url, "not asked (--offline)", hint="run once without --offline")

    def close(self) -> None:
        return


class SchemeTransport:
    """One transport per URL scheme (`file` also serves absolute paths), made at first use."""

    def __init__(self, factories: Mapping[str, Callable[[], Transport]]) -> None:
        self._factories = dict(factories)
        self._made: dict[Callable[[], Transport], Transport] = {}

    def get(self, url: str, offset: int, cap: int) -> AbstractContextManager[Response]:
        scheme = "file" if url.startswith("/") else url.partition(":")[0].lower()
        factory = self._factories.get(scheme)
        if factory is None:
            known = ", ".join(sorted(self._factories))
            raise LocationError(url, f"URL scheme {scheme!r} is refused", hint=f"use {known}")
        if factory not in self._made:
            # setdefault is atomic: two threads may make two, one is kept, the other never opened
            self._made.setdefault(factory, factory())
        return self._made[factory].get(url, offset, cap)

    def close(self) -> None:
        for transport in self._made.values():
            transport.close()


def read_small(transport: Transport, url: str, cap: int) -> bytes:
    """The whole of a small file, at most `cap` bytes.

    Raises:
        LocationError: it is not served, or is longer.
    """
    with transport.get(url, 0, cap) as response:
        return b"".join(response.chunks)


def check_cap(url: str, size: int, cap: int) -> None:
    """Raises LocationError: `size` bytes are more than were asked for."""
    if size > cap:
        reason = f"serves {size} bytes, more than the {cap} that it may have"
        raise LocationError(url, reason, wrong=True)


def _file_chunks(read: Callable[[int], bytes | None], url: str, cap: int) -> Iterator[bytes]:
    left = cap
    while True:
        try:
            chunk = read(CHUNK)
        except OSError as error:
            raise LocationError(url, f"cannot be read: {error.strerror}") from error
        if not chunk:
            return
        left -= len(chunk)
        if left < 0:  # the file grew while we read it
            reason = f"serves more than the {cap} bytes that it may have"
            raise LocationError(url, reason, wrong=True)
        yield chunk


# -- which URLs of the web we ask, and which redirects we follow (THREATS A6 and F3): a URL of
# recipes, configuration or servers may choose what is asked, never how: no user names, no odd
# hosts, no other scheme, never from https down to http


MAX_URL = 4096
"""Longest URL in characters."""

_METADATA = ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")
"""Of clouds that do not use a link-local address for it."""
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Target:
    """A checked web URL: `host` in lower case, an IPv6 address without brackets."""

    url: str
    scheme: str
    host: str


def parse_target(url: str) -> Target:
    """Check one http or https URL.

    Raises:
        LocationError: another scheme, a user name, a host that is no name or address, a character
            that RFC 3986 does not allow, a link-local address (cloud metadata services).
    """
    if len(url) > MAX_URL:
        raise LocationError(f"{url[:80]}…", f"URL is longer than {MAX_URL} characters")
    if not _VISIBLE.fullmatch(url):
        hint = "percent-encode the path; write a foreign host name in its xn-- form"
        reason = "URL has a space, a control or a non-ASCII character"
        raise LocationError(ascii(url)[1:-1], reason, hint=hint)
    if "\\" in url:
        raise LocationError(url, "URL has a backslash", hint="percent-encode it as %5C")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        _ = parts.port  # raises ValueError where it is no number below 65536
    except ValueError as error:
        raise LocationError(url, f"not a URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise LocationError(url, f"URL scheme {parts.scheme!r} is refused", hint="use https")
    if "@" in parts.netloc:
        hint = "serve it without credentials"
        raise LocationError(hide_credentials(url), "URL holds a user name", hint=hint)
    if reason := _refused_host(host):
        raise LocationError(url, reason)
    return Target(url, parts.scheme, host)


def redirect(source: Target, location: str, does: str = "redirects") -> Target:
    """Where a redirect from `source` leads, or what else `source` has us ask, as `does` says it.

    Raises:
        LocationError: it leads to another scheme (RFC 9110, 15.4 allows any; we do not), from
            https down to http, from elsewhere to this machine, or to no URL.
    """
    try:
        joined = urljoin(source.url, location)
    except ValueError as error:
        raise LocationError(source.url, f"{does} to no URL: {location[:80]!r}") from error
    try:
        target = parse_target(joined.partition("#")[0])
    except LocationError as error:
        raise LocationError(source.url, f"{does} to {error.place}: {error.reason}") from error
    if source.scheme == "https" and target.scheme != "https":
        raise LocationError(source.url, f"{does} from https down to {target.url}")
    if is_loopback(target.host) and not is_loopback(source.host):
        raise LocationError(source.url, f"{does} to this machine: {target.url}")
    return target


def hide_credentials(url: str) -> str:
    """The URL for people, without what stands before the host's `@`."""
    return re.sub(r"//[^/?#]*@", "//…@", url)


def is_loopback(host: str) -> bool:
    name = host.rstrip(".")
    # RFC 6761, 6.3, and what distributions have in /etc/hosts besides
    if name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    address = as_address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_link_local(host: str) -> bool:
    """Whether it is a link-local address, or another one where clouds have their metadata."""
    address = as_address(host)
    return address is not None and (address.is_link_local or str(address) in _METADATA)


def as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells, an IPv4 one where it is mapped into IPv6 (RFC 4291, 2.5.5;
    RFC 6052, 2.1); None for names."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    low = int(address) & 0xFFFFFFFF
    compatible = int(address) >> 32 == 0 and low > 1  # :: and ::1 are addresses of their own
    mapped = address.ipv4_mapped is not None or compatible or address in _NAT64
    return ipaddress.IPv4Address(low) if mapped else address


@lru_cache(256)
def _refused_host(host: str) -> str:
    """Why a host is not asked; empty where it is. Thousands of URLs have the same one."""
    if as_address(host) is None:
        labels = host.split(".")
        if not _HOST.fullmatch(host) or len(host) > 253 or max(map(len, labels)) > 63:
            return f"{host!r} is not a host name or address"
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            # inet_aton reads 2852039166, 0xa9fea9fe and 127.0.0.0x1 as addresses
            return f"{host!r} is not a dotted IPv4 address with four parts"
    return f"{host} is a link-local address" if is_link_local(host) else ""


# -- a host that does not answer is asked once in a run, not once for every package


_ROOT_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How much of a host is borne: `failures` in a row, where it can be talked to; and `waited`
    seconds for its answers in all, where they take `slow` seconds and more on average."""

    failures: int = 3
    waited: float = 30.0
    slow: float = 3.0


@dataclass(slots=True)
class Circuit:
    """A transport of one host; once the host has failed, everything fails at once.

    Answers that it has not got something are no failures; answers that each come just before we
    would give up are, together. A host that never answered is waited for once. `tell` is called
    once. Some hosts refuse what they lack (object stores that list nothing): where `root`, a file
    that such a host has, is not refused, that is an absent file, which `warn` is told of once.
    `broken` says why the host is left alone, and is None while it is not.
    """

    inner: Transport
    tell: Callable[[LocationError], None]
    patience: Patience = Patience()
    root: str = ""
    warn: Callable[[LocationError], None] = lambda _: None
    broken: LocationError | None = None
    _hides: bool | None = None
    _waited: float = 0.0
    _answers: int = 0
    _failures: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        if self.broken is not None:
            raise LocationError(url, f"not asked again: {self.broken.reason}", unreachable=True)
        begun = time.monotonic()
        answered = False
        try:
            with self.inner.get(url, offset, cap) as response:
                answered = True
                self._note(url, time.monotonic() - begun, None)
                yield response
        except LocationError as error:
            if not answered:
                said = error.absent or error.refused
                self._note(url, time.monotonic() - begun, None if said else error)
            if error.refused and self._lacks(error):
                raise LocationError(url, error.reason, absent=True) from error
            self.count(error)
            raise
        self._failures = 0

    def _lacks(self, error: LocationError) -> bool:
        """Whether a file that is refused is one that is not there."""
        with self._lock:
            if self._hides is None and self.root:
                try:
                    with self.inner.get(self.root, 0, _ROOT_LIMIT):
                        self._hides = True
                except LocationError as root:
                    self._hides = root.absent
                if self._hides:
                    self.warn(error)
            return bool(self._hides)

    def _note(self, url: str, seconds: float, failure: LocationError | None) -> None:
        """Take note of how long an answer, or a failure, was waited for. Over SSH one waits for
        one's turn, too: that is no fault of the host."""
        if not url.startswith(("http", "oci:")):
            return
        with self._lock:
            self._waited += seconds
            self._answers += failure is None
            slow = self._waited >= self.patience.slow * max(self._answers, 1)
            if not slow or (self._answers and self._waited < self.patience.waited):
                return
            average = self._waited / max(self._answers, 1)
            reason = f"too slow to be worth asking: {average:.0f} seconds for an answer"
            if failure is not None:
                reason = failure.reason
        self.count(LocationError(url, reason, unreachable=True))

    def count(self, error: LocationError) -> None:
        """Take note of a failure, however it was met."""
        with self._lock:
            if error.absent or error.wrong or self.broken is not None:
                return
            self._failures += 1
            if not error.unreachable and self._failures < self.patience.failures:
                return
            self.broken = error
        self.tell(error)

    def close(self) -> None:
        self.inner.close()
