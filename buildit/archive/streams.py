"""Streams that know where they end: exact reads, a window of a stream, hashing while writing."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

from buildit.archive.tar.admit import refused
from buildit.archive.workers import submit
from buildit.digest import CHUNK, Digest

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
