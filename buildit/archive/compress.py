"""Layers compressed at the edge, by one pinned level each, and read back before they count.

A codec that errs, or memory that flips a bit, is found before the blob gets its name (the lesson
of restic's corrupt packs). The digest of a compressed form never identifies a layer; the diff_id
does, because another version of zlib or zstd may give other bytes.

Gzip with the same bytes on every run and for every number of threads (RFC 1952, one member).

The input is cut into blocks of a fixed size. Each is compressed on its own, with the end of the
one before as dictionary, and ends on a byte boundary (zlib's Z_SYNC_FLUSH), so that blocks can be
compressed side by side and still make one ordinary stream. zlib drops Python's lock meanwhile.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

from buildit.archive.decompress import decompressed
from buildit.archive.streams import Writable, write_all
from buildit.archive.tar.admit import Budget
from buildit.archive.workers import submit
from buildit.digest import CHUNK, Digest, digest_file, digest_stream
from buildit.errors import IntegrityError

ZSTD_LEVEL = 3
TRUSTED = Budget(total_bytes=1 << 60, entries=1 << 40, depth=4096, ratio=1 << 40)
"""No limits: for reading what this process has just written."""


def compress_layer(source: BinaryIO, diff_id: Digest, codec: str, out: Path) -> tuple[Digest, int]:
    """Compress a layer's tar into a new file; its digest and size in bytes. `codec`: gzip, zstd.

    Raises:
        IntegrityError: what decompresses from the file is not the layer.
        OSError: the file cannot be written.
    """
    start: Callable[[BinaryIO], BinaryIO | GzipWriter]
    start = GzipWriter if codec == "gzip" else _zstd_writer
    with out.open("xb") as stream, closing(start(stream)) as writer:
        while chunk := source.read(CHUNK):
            writer.write(chunk)
    out.chmod(0o644)
    return confirm(out, diff_id)


def confirm(path: Path, diff_id: Digest) -> tuple[Digest, int]:
    """Digest and size of a compressed layer, after decompressing all of it.

    Raises:
        IntegrityError: it does not hold the layer.
    """
    with path.open("rb") as stream, decompressed(stream, TRUSTED, f"layer {diff_id}") as reader:
        plain = digest_stream(reader)
    if plain != diff_id:
        raise IntegrityError(
            f"a compressed layer came back as other bytes, sha256 {plain[:12]}…",
            place=f"layer {diff_id}",
            hint="run `buildit store verify`; if the store is sound, suspect this machine's memory",
        )
    return digest_file(path), path.stat().st_size


def _zstd_writer(stream: BinaryIO) -> BinaryIO:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd
    options = {
        zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.ZstdFile(  # type: ignore[no-any-return, unused-ignore]
        stream, "wb", options=options
    )


LEVEL = 5
GZIP_BLOCK = 1 << 20
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
            part = view[at : at + GZIP_BLOCK - len(self._block)]
            self._block += part
            at += len(part)
            if len(self._block) == GZIP_BLOCK:
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
    dictionary = (before,) if before else ()
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY, *dictionary)
    return squeeze.compress(block) + squeeze.flush(flush)
