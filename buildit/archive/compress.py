"""Layers compressed at the edge, by one pinned level each, and read back before they count.

A codec that errs, or memory that flips a bit, is found before the blob gets its name (the lesson
of restic's corrupt packs). The digest of a compressed form never identifies a layer; the diff_id
does, because another version of zlib or zstd may give other bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol

from buildit.archive.decompress import decompressed
from buildit.archive.gzipped import GzipWriter
from buildit.archive.tar.admit import Budget
from buildit.digest import CHUNK, Digest
from buildit.errors import IntegrityError

ZSTD_LEVEL = 3
TRUSTED = Budget(total_bytes=1 << 60, entries=1 << 40, depth=4096, ratio=1 << 40)
"""No limits: for reading what this process has just written."""


class Writer(Protocol):
    """A compressor over an open file; `close` ends its stream and leaves the file open."""

    def write(self, chunk: bytes, /) -> int: ...
    def close(self) -> None: ...


def compress_layer(source: BinaryIO, diff_id: Digest, codec: str, out: Path) -> tuple[Digest, int]:
    """Compress a layer's tar into a new file; its digest and size in bytes. `codec`: gzip, zstd.

    Raises:
        IntegrityError: what decompresses from the file is not the layer.
        OSError: the file cannot be written.
    """
    start: Callable[[BinaryIO], Writer] = GzipWriter if codec == "gzip" else _zstd_writer
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
    plain = hashlib.sha256()
    with path.open("rb") as stream:
        hashing = HashingReader(stream)
        with decompressed(hashing, TRUSTED, f"layer {diff_id}") as reader:
            while chunk := reader.read(CHUNK):
                plain.update(chunk)
        digest = hashing.digest()
    if plain.hexdigest() != diff_id:
        raise IntegrityError(
            f"a compressed layer came back as other bytes, sha256 {plain.hexdigest()[:12]}…",
            place=f"layer {diff_id}",
            hint="run `buildit store verify`; if the store is sound, suspect this machine's memory",
        )
    return digest, hashing.size


class HashingReader:
    """Takes the SHA-256 and the length of what is read through it."""

    __slots__ = ("_hash", "_stream", "size")

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size)
        self._hash.update(chunk)
        self.size += len(chunk)
        return chunk

    def digest(self) -> Digest:
        """Of everything up to the end of the stream."""
        while self.read(CHUNK):
            pass
        return Digest(self._hash.hexdigest())


def _zstd_writer(stream: BinaryIO) -> Writer:
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
