"""Gzip with the same bytes on every run and for every number of threads (RFC 1952, one member).

The input is cut into blocks of a fixed size. Each is compressed on its own, with the end of the
one before as dictionary, and ends on a byte boundary (zlib's Z_SYNC_FLUSH), so that blocks can be
compressed side by side and still make one ordinary stream. zlib drops Python's lock meanwhile.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from buildit.archive.streams import Writable, write_all
from buildit.archive.workers import submit

LEVEL = 5
BLOCK = 1 << 20
_WINDOW = 1 << 15
# RFC 1952, 2.3: deflate, no flags (so no name), mtime 0, no extra flags, unknown system.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class GzipWriter(io.RawIOBase):
    """Compress what is written into `out`; `close` ends the stream and leaves `out` open.

    Memory stays at a few blocks, however much is written.
    """

    def __init__(self, out: Writable, *, threads: int = 2) -> None:
        super().__init__()
        self._out = out
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "gzip")
        self._pending: deque[Future[bytes]] = deque()
        self._block = bytearray()
        self._before = b""
        self._crc = 0
        self._size = 0
        write_all(out, _HEADER)

    def writable(self) -> bool:
        return True

    def write(self, chunk: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(chunk).cast("B")
        self._crc = zlib.crc32(view, self._crc)
        self._size += len(view)
        at = 0
        while at < len(view):
            part = view[at : at + BLOCK - len(self._block)]
            self._block += part
            at += len(part)
            if len(self._block) == BLOCK:
                self._submit(zlib.Z_SYNC_FLUSH)
        return len(view)

    def _submit(self, flush: int) -> None:
        block = bytes(self._block)
        self._block.clear()
        self._pending.append(submit(self._pool, partial(_deflate, block, self._before, flush)))
        self._before = block[-_WINDOW:]
        while len(self._pending) > 2 * self._threads:
            write_all(self._out, self._pending.popleft().result())

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._submit(zlib.Z_FINISH)
            while self._pending:
                write_all(self._out, self._pending.popleft().result())
            write_all(self._out, struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF))
        finally:
            self._pool.shutdown(cancel_futures=True)
            super().close()


def _deflate(block: bytes, before: bytes, flush: int) -> bytes:
    # Raw deflate, the whole window, the memory level that zlib has by default.
    if before:
        squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY, before)
    else:
        squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY)
    return squeeze.compress(block) + squeeze.flush(flush)
