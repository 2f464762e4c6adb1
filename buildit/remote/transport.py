"""Where bytes come from: the transport protocol, and the one for local files.

A transport serves bytes and never judges them: the caller compares the digest. HTTP is in
`remote.http.web`, SFTP in `remote.sftp.login`; each is loaded when the first URL needs it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from buildit.digest import CHUNK
from buildit.errors import FetchError
from buildit.files import NotRegularError, open_regular
from buildit.model.config import Ssh, parse_ssh


class LocationError(FetchError):
    """One location failed; another may serve the bytes.

    `transient` says that the same location may serve them later, `retry_after` when (seconds).
    `absent` says that the location simply does not have them, `wrong` that it serves too many,
    `unreachable` that its host cannot be talked to at all, `refused` that this file is not for us.
    """

    def __init__(
        self,
        url: str,
        reason: str,
        *,
        hint: str | None = None,
        transient: bool = False,
        absent: bool = False,
        wrong: bool = False,
        retry_after: float = 0.0,
        unreachable: bool = False,
        refused: bool = False,
    ) -> None:
        super().__init__(reason, place=url, hint=hint)
        self.reason = reason
        self.transient = transient
        self.absent = absent
        self.wrong = wrong
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.refused = refused


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
        ...

    def close(self) -> None:
        """Let idle connections go."""
        ...


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
        raise LocationError(
            text, "not a directory behind SSH", hint="write user@host/path or user@host:port//path"
        )
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

    def get(
        self,
        url: str,
        offset: int,  # noqa: ARG002  # the protocol's
        cap: int,  # noqa: ARG002
    ) -> AbstractContextManager[Response]:
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


# -- a host that does not answer is asked once in a run, not once for every package


_ROOT_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How much of a host is borne: `failures` in a row, where it can be talked to; and `waited`
    seconds for its answers in all, where they take `slow` seconds and more on average."""

    failures: int = 3
    waited: float = 30.0
    slow: float = 3.0


class Circuit:
    """A transport of one host; once the host has failed, everything fails at once.

    Answers that it has not got something are no failures; answers that each come just before we
    would give up are, together. A host that never answered is waited for once. `tell` is called
    once. Some hosts refuse what they lack (object stores that list nothing): where `root`, a file
    that such a host has, is not refused, that is an absent file, which `warn` is told of once.
    """

    def __init__(
        self,
        inner: Transport,
        tell: Callable[[LocationError], None],
        patience: Patience | None = None,
        root: str = "",
        warn: Callable[[LocationError], None] = lambda _: None,
    ) -> None:
        self._inner = inner
        self._tell = tell
        self._patience = patience or Patience()
        self._root = root
        self._warn = warn
        self._hides: bool | None = None
        self._waited = 0.0
        self._answers = 0
        self._lock = threading.Lock()
        self._failures = 0
        self._broken: LocationError | None = None

    @property
    def broken(self) -> LocationError | None:
        """Why the host is left alone; None while it is not."""
        return self._broken

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        if self._broken is not None:
            raise LocationError(url, f"not asked again: {self._broken.reason}", unreachable=True)
        begun = time.monotonic()
        answered = False
        try:
            with self._inner.get(url, offset, cap) as response:
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
            if self._hides is None and self._root:
                try:
                    with self._inner.get(self._root, 0, _ROOT_LIMIT):
                        self._hides = True
                except LocationError as root:
                    self._hides = root.absent
                if self._hides:
                    self._warn(error)
            return bool(self._hides)

    def _note(self, url: str, seconds: float, failure: LocationError | None) -> None:
        """Take note of how long an answer, or a failure, was waited for. Over SSH one waits for
        one's turn, too: that is no fault of the host."""
        if not url.startswith("http"):
            return
        with self._lock:
            self._waited += seconds
            self._answers += failure is None
            slow = self._waited >= self._patience.slow * max(self._answers, 1)
            if not slow or (self._answers and self._waited < self._patience.waited):
                return
            average = self._waited / max(self._answers, 1)
            reason = f"too slow to be worth asking: {average:.0f} seconds for an answer"
            if failure is not None:
                reason = failure.reason
        self.count(LocationError(url, reason, unreachable=True))

    def count(self, error: LocationError) -> None:
        """Take note of a failure, however it was met."""
        with self._lock:
            if error.absent or error.wrong or self._broken is not None:
                return
            self._failures += 1
            if not error.unreachable and self._failures < self._patience.failures:
                return
            self._broken = error
        self._tell(error)

    def close(self) -> None:
        self._inner.close()
