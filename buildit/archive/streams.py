"""Streams that know where they end: exact reads, a window of a stream, hashing while writing; and
the threads that work beside them.

A machine may refuse to start a thread (a limit on processes: clone(2) says EAGAIN): what was to be
handed to a pool is then done by the caller.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Event, Lock
from typing import Protocol, TypeVar

from buildit.archive.admit import refused
from buildit.digest import CHUNK, Digest
from buildit.errors import Interrupted
from buildit.model.tree import Entry

_T = TypeVar("_T")


def submit(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> Future[_T]:
    """As `pool.submit`; done here and now where the pool cannot get a thread. Once in any case:
    the pool keeps what it could not start a thread for, and another thread of it may take it.

    Raises:
        RuntimeError: the pool was shut down.
    """
    future: Future[_T] = Future()
    claimed = Lock()

    def task() -> None:
        if not claimed.acquire(blocking=False) or not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller that asks
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        inner = pool.submit(task)
    except RuntimeError as error:
        if "shutdown" in str(error):
            raise
        task()
    else:
        inner.add_done_callback(lambda done: future.cancel() if done.cancelled() else None)
    return future


def run_all(
    works: Sequence[Callable[[], _T]], threads: int, give_up: Callable[[], None] = lambda: None
) -> list[_T]:
    """Run all works on a few threads; their results in the order of the works.

    `give_up` ends those under way, when one failed or the user pressed Ctrl-C.

    Raises:
        BaseException: what the first work that failed raised; that it was interrupted is only what
            another failure led to. Works that have not begun by then never begin, and those that
            have are waited for.
    """
    if min(threads, len(works)) < 2:
        return [work() for work in works]
    failed = Event()

    def begun(work: Callable[[], _T]) -> _T:
        if failed.is_set():
            raise CancelledError
        try:
            return work()
        except BaseException:
            failed.set()
            give_up()
            raise

    with ThreadPoolExecutor(min(threads, len(works)), "buildit-worker") as pool:
        try:
            futures = [submit(pool, partial(begun, work)) for work in works]
            wait(futures)
        except BaseException:
            failed.set()
            give_up()
            raise
    errors = [error for one in futures if (error := one.exception())]
    for error in sorted(errors, key=lambda one: isinstance(one, Interrupted | CancelledError)):
        raise error
    return [one.result() for one in futures]


_INLINE = 64 << 10  # below this, handing bytes to the other thread costs more than hashing them
_AHEAD = 4  # chunks that may wait for the hash


class Readable(Protocol):
    """What bytes are read from; a raw read may be short, an empty one means the end."""

    def read(self, size: int = -1, /) -> bytes | None: ...


class Writable(Protocol):
    """What bytes are written to; a raw stream may take fewer than it is given."""

    def write(self, data: bytes, /) -> int | None: ...


class Content(Protocol):
    """An open file's bytes, as `open(path, "rb")`, `io.FileIO` and `io.BytesIO` give them."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...

    def close(self) -> None: ...


def read_up_to(stream: Readable, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the stream."""
    first = stream.read(size) or b""
    if len(first) == size or not first:
        return first
    parts = [first]
    missing = size - len(first)
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def write_all(out: Writable, data: bytes) -> None:
    """Write all bytes, also to a raw stream that takes fewer at a time."""
    done = out.write(data)
    while done is not None and done < len(data):
        data = data[done:]
        done = out.write(data)


class Window(io.RawIOBase):
    """The next `size` bytes of a stream; a stream that ends earlier is an error."""

    def __init__(self, stream: Readable, size: int, archive: str, member: str) -> None:
        super().__init__()
        self._stream = stream
        self._archive = archive
        self._member = member
        self.remaining = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes, all that is left when negative.

        Raises:
            IntegrityError: the stream ends before the window does.
        """
        wanted = self.remaining if size < 0 else min(size, self.remaining)
        if self.closed:
            raise ValueError("this member's bytes are past: read them before the next member")
        if not wanted:
            return b""
        part = read_up_to(self._stream, wanted)
        if len(part) < wanted:
            raise refused(self._archive, self._member, "the archive is truncated inside it")
        self.remaining -= len(part)
        return part

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        part = self.read(min(len(buffer), CHUNK))
        buffer[: len(part)] = part
        return len(part)

    def drain(self) -> None:
        """Read to the end of the window and close it."""
        while self.remaining:
            self.read(CHUNK)
        self.close()


Members = Iterator[tuple[Entry, Window | None]]
"""The entries of an archive in its order, each with its bytes where it is a file."""


class Prefixed:
    """A stream of which some bytes were already read."""

    def __init__(self, first: bytes, stream: Readable) -> None:
        self._first = first
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if not self._first:
            return self._stream.read(size) or b""
        wanted = len(self._first) if size < 0 else size
        part, self._first = self._first[:wanted], self._first[wanted:]
        return part


class HashingWriter:
    """Writes to `out` and takes the SHA-256 of what it wrote.

    Big writes are hashed and written in a second thread, at most four of them behind the first, so
    `out` is complete only after `digest()` or `close()`.
    """

    def __init__(self, out: Writable) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self._waiting: deque[Future[None]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self.size = 0

    def write(self, data: bytes) -> int:
        """Take all of `data`.

        Raises:
            OSError: from the stream below, perhaps for an earlier write.
        """
        if len(data) < _INLINE:
            self._settle(0)
            self._put(data)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
            self._waiting.append(submit(self._pool, partial(self._put, bytes(data))))
            self._settle(_AHEAD)
        self.size += len(data)
        return len(data)

    def digest(self) -> Digest:
        """The digest of all bytes so far; ends the second thread.

        Raises:
            OSError: from the stream below.
        """
        self.close()
        return Digest(self._hash.hexdigest())

    def close(self) -> None:
        """Finish all writes and end the second thread; `out` stays open.

        Raises:
            OSError: from the stream below.
        """
        try:
            self._settle(0)
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        write_all(self._out, data)

    def _settle(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()
