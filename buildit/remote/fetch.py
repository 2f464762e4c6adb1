"""Fetch what is named by digest from the first location whose bytes verify.

Locations are tried in the order given; a `distfiles/` directory or a file binhost are only earlier
ones. Bytes get their name in the store after they were verified, and from the very file that was
(THREATS F8). Nothing here trusts a server with more than its bandwidth.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from buildit.archive.streams import run_all
from buildit.digest import CHUNK, Digest
from buildit.errors import FetchError, IntegrityError, Interrupted, RecipeError, StoreError
from buildit.events import Fetching, LocationFailed, Reporter, silent
from buildit.remote import transport
from buildit.remote.transport import LocationError, Response, Transport, WebLimits

if TYPE_CHECKING:
    from buildit.remote.web import WebTransport

ATTEMPTS = 3
"""Tries at one location while it fails in a way that may pass."""
_LONGEST_PAUSE = 10.0
"""Seconds that a `Retry-After` can make us wait."""
LARGEST_DOWNLOAD = 16 << 30
"""Most bytes of one download whose size nobody stated but whose digest is known."""
_LARGEST_UNPINNED = 64 << 20
"""Most bytes of one download of which nothing is known: patches and signatures."""
_TICK = 0.1
"""Seconds between two `Fetching` events of one download."""
_T = TypeVar("_T")
BINHOST_SCHEME = "binhost://"
"""How URLs of what a binhost has begin; which transport serves them is the caller's matter."""
_HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml")


@dataclass(frozen=True, slots=True)
class Fetch:
    """What is wanted: `name` for people, where it may be, and what it must be.

    `urls` are URLs, absolute paths, or `mirror://NAME/path`. `size` is in bytes where known; no
    more is read. Without a digest only https and this machine are asked, and the first answer is
    taken: for pinning, never for building. `proves_itself` says that the caller checks the bytes in
    another way (an OpenPGP signature), so that plain http will do. `largest` is what is taken, in
    bytes, where neither size nor digest is known.
    """

    name: str
    urls: tuple[str, ...]
    digest: Digest | None = None
    size: int | None = None
    proves_itself: bool = False
    largest: int = _LARGEST_UNPINNED


class Ingest(Protocol):
    """A blob being written; it exists from `commit` on."""

    def write(self, data: bytes, /) -> object: ...

    def commit(self, expected: Digest | None = None) -> Digest: ...


class BlobSink(Protocol):
    """Where verified bytes go; the store is one."""

    def has(self, digest: Digest) -> bool: ...

    def ingest(self) -> AbstractContextManager[Ingest]: ...


Mirrors = Callable[[str], tuple[str, ...]]
"""The base URLs of a mirror list by name; raises RecipeError for a name that it does not know.
Called only when a download comes to that location, so it may itself be dear."""


def web_transport(limits: WebLimits | None = None) -> WebTransport:
    from buildit.remote.web import WebTransport

    return WebTransport() if limits is None else WebTransport(limits)


def listed_mirrors(lists: Mapping[str, Sequence[str]]) -> Mirrors:
    """The mirror lists of a configuration."""

    def bases(name: str) -> tuple[str, ...]:
        if name in lists:
            return tuple(lists[name])
        near = get_close_matches(name, lists, 1)
        hint = f"did you mean mirror://{near[0]}/…?" if near else "name it under `mirrors:`"
        raise RecipeError(f"unknown mirror list {name!r}", hint=hint)

    return bases


no_mirrors = listed_mirrors({})


def locations(urls: tuple[str, ...], mirrors: Mirrors) -> Iterator[str]:
    """The URLs with mirror lists put in, each once, each list only when it is reached.

    Raises:
        RecipeError: a mirror list is not known, or the URL is not `mirror://NAME/path`.
    """
    seen: set[str] = set()
    for url in urls:
        for location in _expanded(url, mirrors):
            if location not in seen:
                seen.add(location)
                yield location


def _expanded(url: str, mirrors: Mirrors) -> tuple[str, ...]:
    if not url.startswith("mirror://"):
        return (url,)
    name, slash, path = url.removeprefix("mirror://").partition("/")
    if not name or not slash or not path or ".." in path.split("/"):
        raise RecipeError(f"not a mirror URL: {url}", hint="write mirror://NAME/path/of/file")
    return tuple(f"{base.rstrip('/')}/{path}" for base in mirrors(name))


class Abort:
    """Ends downloads under way when a sibling failed or the user pressed Ctrl-C."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = threading.Event()
        self._open: dict[int, Callable[[], None]] = {}

    def check(self) -> None:
        if self._set.is_set():
            raise Interrupted("download given up")

    def pause(self, seconds: float) -> None:
        self._set.wait(seconds)
        self.check()

    @contextmanager
    def covering(self, response: Response) -> Iterator[None]:
        with self._lock:
            self._open[id(response)] = response.abort
        try:
            self.check()
            yield
        finally:
            with self._lock:
                del self._open[id(response)]

    def all(self) -> None:
        self._set.set()
        with self._lock:
            for abort in self._open.values():
                abort()


# -- downloads under way: one file per wanted digest, so that an interrupted one goes on


class Partial:
    """One locked partial file, which one process at a time fills. `size` bytes of it are hashed;
    anything behind is cut off. It proves nothing: it is hashed again from its first byte before
    more is added, and one with wrong bytes is dropped, never mended."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._stream: BinaryIO = open(fd, "r+b", buffering=0)  # noqa: SIM115  # close() ends it
        self._hash, self.size = hashlib.sha256(), 0

    def rehash(self) -> int:
        """Hash what is there from byte 0; the number of bytes."""
        self._hash, self.size = hashlib.sha256(), 0
        self._stream.seek(0)
        while chunk := self._stream.read(CHUNK):
            self._hash.update(chunk)
            self.size += len(chunk)
        return self.size

    def add(self, chunk: bytes) -> None:
        """Append.

        Raises:
            StoreError: the disk is full or fails.
        """
        try:
            view = memoryview(chunk)
            while view:
                view = view[self._stream.write(view) :]
        except OSError as error:
            reason = f"cannot write: {error.strerror}"
            hint = "free some space, then run the same command again: it goes on from there"
            raise StoreError(reason, place=str(self.path), hint=hint) from error
        self._hash.update(chunk)
        self.size += len(chunk)

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def rewind(self) -> BinaryIO:
        self._stream.seek(0)
        return self._stream

    def head(self, length: int) -> bytes:
        return os.pread(self._stream.fileno(), length, 0)

    def restart(self) -> None:
        """Go on in a fresh file: whoever still has the old one open changes nothing here."""
        fresh = _locked(self.path, os.O_CREAT | os.O_EXCL, replace=True)
        self._stream.close()
        self._stream = open(fresh, "r+b", buffering=0)  # noqa: SIM115  # close() ends it
        self._hash, self.size = hashlib.sha256(), 0

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)

    def descriptor(self) -> int:
        """One more descriptor of the file, which keeps it locked when this object lets go."""
        return os.dup(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


@contextmanager
def open_partial(folder: Path, name: str) -> Iterator[Partial]:
    """The partial file `name`, locked; waits while another process fills it.

    An empty file is removed at the end, one with bytes stays for the next try.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Partial(path, _locked(path, os.O_CREAT, replace=False))
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror}", place=str(path)) from error
    try:
        yield partial
    finally:
        if partial.size == 0:
            partial.drop()
        partial.close()


def _locked(path: Path, flags: int, *, replace: bool) -> int:
    """Open and lock `path`, until the file that we hold is the one that the name means."""
    if replace:
        path.unlink(missing_ok=True)
    while True:
        mode = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags
        fd = os.open(path, mode, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            held, named = os.fstat(fd), os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            os.close(fd)  # its former holder finished and removed it
            continue
        except BaseException:
            os.close(fd)
            raise
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
            return fd
        os.close(fd)


# -- one thing from its locations


class _WrongBytesError(LocationError):
    """A location serves bytes of another digest."""


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches into `sink`, through `transport`; `partials` holds downloads under way.

    `reporter` is called from several threads. `pause` is the wait in seconds before the second try
    at one location; it grows with each.
    """

    sink: BlobSink
    transport: Transport
    partials: Path
    mirrors: Mirrors = no_mirrors
    reporter: Reporter = silent
    abort: Abort = field(default_factory=Abort)
    pause: float = 0.2

    def fetch(self, want: Fetch) -> Digest:
        """Bring one thing into the sink.

        Raises:
            FetchError: no location serves it.
            IntegrityError: no location serves it, and one at least served other bytes.
            RecipeError: a mirror list is not known.
            StoreError: it cannot be written.
        """
        if want.digest is not None and self.sink.has(want.digest):
            return want.digest
        partial_name = want.digest or f"unpinned-{threading.get_native_id()}"
        with open_partial(self.partials, partial_name) as partial:
            # another process may have brought it while we waited for the lock
            if want.digest is not None and self.sink.has(want.digest):
                partial.drop()
                return want.digest
            failures: dict[str, LocationError] = {}
            for location in locations(want.urls, self.mirrors):
                if failures:  # told once there is another place; the error tells of the last
                    self._tell(want, *[*failures.items()][-1])
                try:
                    self.from_location(location, want, partial)
                    return self._keep(want, partial)
                except LocationError as error:
                    failures[location] = error
            raise _failed(want, failures)

    def fetch_all(self, wants: Sequence[Fetch], jobs: int) -> tuple[Digest, ...]:
        """Bring several things, `jobs` at once; the digests in the order of `wants`.

        The first error ends all other downloads; their partial files stay.

        Raises:
            as `fetch`; KeyboardInterrupt after the downloads were ended.
        """
        unique: dict[str, Fetch] = {}
        for want in wants:
            same = unique.setdefault(_identity(want), want)
            urls = tuple(dict.fromkeys((*same.urls, *want.urls)))
            unique[_identity(want)] = replace(same, urls=urls)
        abort = Abort()
        fetcher = replace(self, abort=abort)
        tasks = [partial(fetcher.fetch, want) for want in unique.values()]
        digests = dict(zip(unique, run_all(tasks, jobs, abort.all), strict=True))
        return tuple(digests[_identity(want)] for want in wants)

    def from_location(self, location: str, want: Fetch, partial: Partial) -> None:
        """Fill `partial` from one location until its bytes are right.

        Raises:
            LocationError: it does not serve them.
        """
        if want.digest is None and not want.proves_itself and plain_http(location):
            raise LocationError(location, "http is refused for what no digest pins")
        for attempt in range(1, ATTEMPTS + 1):
            before = partial.rehash()
            if want.size is not None and before > want.size:
                partial.restart()
                before = 0
            try:
                resumed = self._receive(location, want, partial, before)
            except LocationError as error:
                if want.digest is None:
                    partial.restart()
                if not error.transient or attempt == ATTEMPTS:
                    raise
                self.abort.pause(min(error.retry_after or self.pause * attempt, _LONGEST_PAUSE))
                continue
            got = partial.digest()
            if want.digest is None or got == want.digest:
                return
            head = partial.head(512)
            partial.restart()
            if not resumed:
                raise _WrongBytesError(location, _wrong(want.digest, got, head), wrong=True)
        raise _WrongBytesError(location, "its bytes change between two answers", wrong=True)

    def _receive(self, location: str, want: Fetch, partial: Partial, before: int) -> bool:
        """True when the bytes were added to those of an earlier try."""
        unstated = LARGEST_DOWNLOAD if want.digest else want.largest
        cap = unstated if want.size is None else want.size
        if before and before == want.size:
            return True
        self.abort.check()
        with (
            self.transport.get(location, before if want.digest else 0, cap) as response,
            self.abort.covering(response),
        ):
            resumed = response.offset > 0
            if not resumed and before:
                partial.restart()
            last = 0.0
            for chunk in response.chunks:
                self.abort.check()
                partial.add(chunk)
                if time.monotonic() - last >= _TICK:
                    last = time.monotonic()
                    self.reporter(Fetching(want.name, partial.size, want.size or response.total))
        self.abort.check()
        return resumed

    def _keep(self, want: Fetch, partial: Partial) -> Digest:
        with self.sink.ingest() as blob:
            stream = partial.rewind()
            while chunk := stream.read(CHUNK):
                blob.write(chunk)
            # the sink hashes what it writes: what was verified is what is kept
            digest = blob.commit(partial.digest())
        self.reporter(Fetching(want.name, partial.size, partial.size, done=True))
        partial.drop()
        return digest

    def _tell(self, want: Fetch, location: str, failure: LocationError) -> None:
        # a distfiles/ directory or a binhost that lacks the file is no news, nor is a host that
        # does not answer: whoever watches over it told of it
        silent = failure.absent or failure.unreachable
        lacks = silent and location.startswith(BINHOST_SCHEME)
        if isinstance(failure, _WrongBytesError) or not (lacks or _is_near(location)):
            self.reporter(LocationFailed(want.name, location, failure.reason))


def _identity(want: Fetch) -> str:
    """Equal for wants that one download serves."""
    return want.digest or f"{want.name} {' '.join(want.urls)}"


def retried(work: Callable[[], _T], tries: int, abort: Abort, longest: float) -> _T:
    """What the work gives, tried again while a location fails in a way that may pass; `longest` are
    the seconds that a pause takes at most.

    Raises:
        LocationError: as the last try did.
    """
    for attempt in range(1, tries):
        try:
            return work()
        except LocationError as error:
            if not error.transient:
                raise
            abort.pause(min(error.retry_after or 0.2 * attempt, longest))
    return work()


def plain_http(location: str) -> bool:
    """Whether somebody on the way could change the bytes."""
    if not location.lower().startswith("http:"):
        return False
    try:
        return not transport.is_loopback(transport.parse_target(location).host)
    except LocationError:
        return True


def _is_near(location: str) -> bool:
    try:
        return transport.local_path(location) is not None
    except LocationError:
        return False


def _wrong(expected: Digest, got: Digest, head: bytes) -> str:
    reason = f"wrong bytes: expected sha256:{expected}, got sha256:{got}"
    if head.lstrip().lower().startswith(_HTML):
        reason += " (an HTML page: an error page or a login page instead of the file)"
    return reason


def _failed(want: Fetch, failures: Mapping[str, LocationError]) -> FetchError | IntegrityError:
    details = tuple(f"{location}: {one.reason}" for location, one in failures.items())
    if not failures:
        return FetchError("no location is known", place=want.name, hint="give it a url or a mirror")
    wrong = [at for at, one in failures.items() if isinstance(one, _WrongBytesError)]
    if wrong:
        # What was served is known to be wrong; who did not answer might have had the right bytes.
        asked = [at for at, one in failures.items() if not (one.absent or _is_near(at))]
        silent = len({*asked} - {*wrong})
        hint = (
            "is the sha256 right? Upstream may have replaced the file, or someone tampers with it: "
            "compare with a copy that you trust before you change the sha256"
        )
        if silent:
            hint += f"; {silent} more could not be asked: check the network"
        reason = "no location serves the bytes that are pinned, and what is served is another file"
        return IntegrityError(reason, place=want.name, hint=hint, details=details)
    offline = any("--offline" in failure.reason for failure in failures.values())
    first = "leave out --offline" if offline else "check the network, add a mirror"
    hint = f"{first}, or put the file into distfiles/"
    return FetchError("no location serves it", place=want.name, hint=hint, details=details)
