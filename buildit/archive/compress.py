"""Plain bytes out of gzip, bzip2, xz, zstd or none, told apart by their first bytes.

Every member's check is verified, all members are read, and nothing may follow the last one but
zeros: what a digest covered and what is unpacked are the same bytes (THREATS.md, C2 and C3). A
reading with a listener (`admit.Remark`) knows lzip and the old lzma too, and passes over what
follows the last member where gzip, bzip2 and lzip do.

lzip's members are decoded as LZMA, with the checks that its manual has ("File format"): magic and
version, the coded size of the dictionary, an LZMA stream with lc 3, lp 0, pb 2 and an end marker,
then CRC-32, sizes of the data and of the member.

Layers are compressed at the edge, by one pinned level each, and read back before they count: a
codec that errs, or memory that flips a bit, is found before the blob gets its name (the lesson of
restic's corrupt packs). The digest of a compressed form never identifies a layer; the diff_id does,
because another version of zlib or zstd may give other bytes.

Gzip is made with the same bytes on every run and for every number of threads (RFC 1952, one
member). The input is cut into blocks of a fixed size. Each is compressed on its own, with the end
of the one before as dictionary, and ends on a byte boundary (zlib's Z_SYNC_FLUSH), so that blocks
can be compressed side by side and still make one ordinary stream. zlib drops Python's lock
meanwhile.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from buildit.archive.admit import Budget, Remark, over, refused
from buildit.archive.streams import Prefixed, Readable, Writable, read_up_to, submit, write_all
from buildit.digest import CHUNK, Digest, digest_file, digest_stream
from buildit.errors import IntegrityError

if TYPE_CHECKING:
    import lzma

_IN = 128 << 10
_MAGIC_SIZE = 6


class Decoder(Protocol):
    """One member's decoder, as `bz2`, `lzma` and `compression.zstd` have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decoder in the shape of the others; checks CRC and length (RFC 1952)."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        # a full answer may have left more inside, even where all input was taken
        return not (self._full or self._inner.unconsumed_tail)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        part = self._inner.decompress(self._inner.unconsumed_tail + data, max(max_length, 0))
        self._full = len(part) == max_length
        return part


def _bzip2(_: int) -> Decoder:
    import bz2

    return bz2.BZ2Decompressor()


def _lzma(form: str, memory: int) -> Decoder:
    import lzma

    return lzma.LZMADecompressor(getattr(lzma, form), memlimit=memory)


def _zstd_module() -> ModuleType:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd
    module: ModuleType = zstd
    return module


def _zstd(memory: int) -> Decoder:
    zstd = _zstd_module()
    window = max(10, memory.bit_length() - 1)
    option = {zstd.DecompressionParameter.window_log_max: min(window, 31)}
    decoder: Decoder = zstd.ZstdDecompressor(options=option)
    return decoder


_LZIP, _LZMA, _ZSTD = b"LZIP", b"\x5d\0\0", b"\x28\xb5\x2f\xfd"
_REFUSED = {
    _LZIP: ("it is compressed with lzip", ""),
    b"\x1f\x9d": ("it is compressed with compress", "gzip -dc FILE | tar -x"),
    b"\x1f\xa0": ("it is compressed with compress", "gzip -dc FILE | tar -x"),
    _LZMA: ("it is compressed with the old lzma", ""),
    b"\x89LZO": ("it is compressed with lzop", "lzop -dc FILE | tar -x (debian:lzop)"),
    b"7z\xbc\xaf": ("it is a 7z archive", "7zr x FILE (debian:p7zip)"),
    b"Rar!": ("it is a RAR archive", "unar FILE (debian:unar)"),
    b"MSCF": ("it is a cabinet file", "cabextract FILE (debian:cabextract)"),
    b"\xed\xab\xee\xdb": ("it is an RPM package", "rpm2cpio FILE | cpio -id (debian:rpm2cpio)"),
}
AS_IT_IS = "`unpack: no` takes the file as it is"
"""What a source's recipe can say instead; a step of its own may unpack it then."""


class _Codec(NamedTuple):
    """How a codec's decoder is made, given the most memory it may take, and whether only a reading
    with a listener knows it, or passes over what follows its last member, as its tool does."""

    name: str
    start: Callable[[int], Decoder]
    lenient: bool = False
    forgiving: bool = False


def _codec(magic: bytes) -> _Codec | None:
    """What decodes a stream that begins so; None where it is plain, or not known."""
    if magic[1:4] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50:
        magic = _ZSTD  # RFC 8878, 3.1.2: a skippable frame, before those of 3.1.1
    return next((known for start, known in _CODECS.items() if magic.startswith(start)), None)


def codec(magic: bytes) -> str:
    """What a source that begins so is compressed with; "" where it is plain, or not known."""
    known = _codec(magic)
    return known.name if known else ""


def decompressed(
    stream: Readable, budget: Budget, name: str = "archive", remark: Remark | None = None
) -> BinaryIO:
    """The plain bytes of a stream, decoded as they are read; `name` is the place of errors.

    Raises (also while reading):
        IntegrityError: it is truncated, damaged, followed by other bytes or of no known form.
        BuildError: more bytes come out than the budget allows, in all or by ratio, or the decoder
            would need more memory.
    """
    magic = read_up_to(stream, _MAGIC_SIZE)
    known = _codec(magic)
    if known is not None and (remark is not None or not known.lenient):
        return io.BufferedReader(_Decoded(magic, stream, budget, name, known, remark), CHUNK)
    for start, (reason, way) in _REFUSED.items():
        if magic.startswith(start):
            step = f"{AS_IT_IS}; unpack it in the prepare step: {way}" if remark and way else None
            raise refused(name, None, reason, step)
    return io.BufferedReader(_Plain(magic, stream, budget, name), CHUNK)


class _Plain(io.RawIOBase):
    """A stream whose first bytes were already read; counts towards `total_bytes`."""

    def __init__(self, first: bytes, stream: Readable, budget: Budget, name: str) -> None:
        super().__init__()
        self._stream = Prefixed(first, stream)
        self._budget = budget
        self._name = name
        self._out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        part = self._part(min(len(buffer), CHUNK))
        self._out += len(part)
        if self._out > self._budget.total_bytes:
            raise over(self._name, "total_bytes", self._budget.total_bytes, "in all")
        buffer[: len(part)] = part
        return len(part)

    def _part(self, size: int) -> bytes:
        return self._stream.read(size)


class _Decoded(_Plain):
    """All members of a compressed stream, one after the other."""

    def __init__(
        self,
        first: bytes,
        stream: Readable,
        budget: Budget,
        name: str,
        known: _Codec,
        remark: Remark | None,
    ) -> None:
        super().__init__(b"", stream, budget, name)
        self._remark = remark
        self._codec = known
        self._decoder = known.start(budget.memory)
        self._input = first
        self._in = len(first)
        self._ended = False

    def _part(self, size: int) -> bytes:
        while not self._ended:
            if self._decoder.eof:
                self._next_member()
                continue
            if not self._input and self._decoder.needs_input:
                self._input = self._more()
                if not self._input:
                    raise refused(self._name, None, "the compressed data is truncated")
            data, self._input = self._input, b""
            part = self._decode(data, size)
            out = self._out + len(part)
            if out > self._budget.ratio_free and out > self._in * self._budget.ratio:
                what = f"{out} bytes out of {self._in}"
                raise over(self._name, "ratio", self._budget.ratio, what)
            if part:
                return part
        return b""

    def _decode(self, data: bytes, size: int) -> bytes:
        try:
            return self._decoder.decompress(data, size)
        except Exception as error:
            # those of lzma and zstd, whose modules are not imported before they are needed
            own = type(error).__name__ in ("LZMAError", "ZstdError")
            if own and "memory" in str(error).lower():
                what = "the decoder asks for more"
                raise over(self._name, "memory", self._budget.memory, what) from error
            if own or isinstance(error, (OSError, EOFError, ValueError, MemoryError, zlib.error)):
                reason = f"the compressed data is damaged: {error}"
                raise refused(self._name, None, reason) from error
            raise

    def _more(self) -> bytes:
        more = self._stream.read(_IN)
        self._in += len(more)
        return more

    def _next_member(self) -> None:
        """Begin the next member, or end where only zeros (padding) are left."""
        rest = self._decoder.unused_data + self._input
        while not rest.strip(b"\0"):
            rest = self._more()
            if not rest:
                self._ended = True
                return
        rest = rest.lstrip(b"\0") + read_up_to(self._stream, _MAGIC_SIZE)
        if _codec(rest) is self._codec:
            self._decoder = self._codec.start(self._budget.memory)
            self._input = rest
        elif self._codec.forgiving and self._remark is not None:
            self._remark("bytes follow the compressed data; they are not read")
            self._ended = True
        else:
            raise refused(self._name, None, "other bytes follow the compressed data")


_HEAD = 6
_TRAILER = struct.Struct("<LQQ")
_DICTIONARIES = range(4 << 10, (512 << 20) + 1)


class LzipDecoder:
    """One member, in the shape of `lzma.LZMADecompressor`; a wrong check is a ValueError.

    `memory` is the most that its dictionary may take, in bytes.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._head = b""
        self._tail = b""
        self._inner: lzma.LZMADecompressor | None = None
        self._taken = self._size = self._crc = 0
        self.eof = False
        self.unused_data = b""

    @property
    def needs_input(self) -> bool:
        return self._inner is None or self._inner.eof or self._inner.needs_input

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._inner is None:
            self._head += data
            if len(self._head) < _HEAD:
                return b""
            self._inner = self._begin(self._head[:_HEAD])
            data = self._head[_HEAD:]
        part = b""
        if not self._inner.eof:
            part = self._inner.decompress(data, max_length)
            self._taken += len(data)
            self._crc = zlib.crc32(part, self._crc)
            self._size += len(part)
            if not self._inner.eof:
                return part
            data = self._inner.unused_data
            self._taken -= len(data)
        self._tail += data
        if len(self._tail) >= _TRAILER.size:
            self._end(*_TRAILER.unpack(self._tail[: _TRAILER.size]))
        return part

    def _begin(self, head: bytes) -> lzma.LZMADecompressor:
        if head[:4] != _LZIP or head[4] != 1:
            raise ValueError(f"lzip's version {head[4]} is not known")
        base = 1 << (head[5] & 0x1F)
        size = base - (base // 16) * (head[5] >> 5)
        if size not in _DICTIONARIES:
            raise ValueError("the size of its dictionary is malformed")
        import lzma

        if size > self._memory:
            raise lzma.LZMAError("memory usage limit was exceeded")
        fields = {"id": lzma.FILTER_LZMA1, "dict_size": size, "lc": 3, "lp": 0, "pb": 2}
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[fields])

    def _end(self, crc: int, size: int, member: int) -> None:
        if crc != self._crc:
            raise ValueError("CRC error")
        if size != self._size or member != _HEAD + self._taken + _TRAILER.size:
            raise ValueError("its sizes are wrong")
        self.eof = True
        self.unused_data = self._tail[_TRAILER.size :]


_CODECS: Mapping[bytes, _Codec] = {
    b"\x1f\x8b": _Codec("gzip", lambda _: _Gzip(), forgiving=True),
    b"BZh": _Codec("bzip2", _bzip2, forgiving=True),
    b"\xfd7zXZ\0": _Codec("xz", partial(_lzma, "FORMAT_XZ")),
    _ZSTD: _Codec("zstd", _zstd),
    _LZIP: _Codec("lzip", LzipDecoder, lenient=True, forgiving=True),
    _LZMA: _Codec("lzma", partial(_lzma, "FORMAT_ALONE"), lenient=True),
}

ZSTD_LEVEL = 3
TRUSTED = Budget(total_bytes=1 << 60, entries=1 << 40, depth=4096, ratio=1 << 40)
"""No limits: for reading what this process has just written."""


def compress_layer(source: BinaryIO, diff_id: Digest, codec: str, out: Path) -> tuple[Digest, int]:
    """Compress a layer's tar into a new file; its digest and size in bytes. `codec` is gzip, zstd
    or xz.

    Raises:
        IntegrityError: what decompresses from the file is not the layer.
        OSError: the file cannot be written.
    """
    starts: Mapping[str, Callable[[BinaryIO], BinaryIO | XzWriter | GzipWriter]]
    starts = {"gzip": GzipWriter, "zstd": _zstd_writer, "xz": XzWriter}
    with out.open("xb") as stream, closing(starts[codec](stream)) as writer:
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
        what = f"a compressed layer came back as other bytes, sha256 {plain[:12]}…"
        hint = "run `buildit store verify`; if the store is sound, suspect this machine's memory"
        raise IntegrityError(what, place=f"layer {diff_id}", hint=hint)
    return digest_file(path), path.stat().st_size


def zstd_block(block: bytes, level: int) -> bytes:
    """One frame that says its size, without a checksum."""
    zstd = _zstd_module()
    packed: bytes = zstd.compress(block, level)
    return packed


def unpack_zstd_block(block: bytes, most: int) -> bytes:
    """What a frame holds, up to `most` bytes of it."""
    zstd = _zstd_module()
    content: bytes = zstd.ZstdDecompressor().decompress(block, most)
    return content


def _zstd_writer(stream: BinaryIO) -> BinaryIO:
    zstd = _zstd_module()
    options = {
        zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    writer: BinaryIO = zstd.ZstdFile(stream, "wb", options=options)
    return writer


XZ_PIECE = 4 << 20


class XzWriter(io.RawIOBase):
    """Compress what is written into `out` as streams of at most `XZ_PIECE` bytes behind each other
    (xz-file-format.txt, 2, "Overall Structure of .xz File"), so that threads share the work and the
    bytes do not depend on how many there are; `close` leaves `out` open.

    Memory: some 60 MB for each thread, as the dictionary is no larger than a piece.
    """

    def __init__(self, out: Writable, *, threads: int = 2) -> None:
        super().__init__()
        self._out = out
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "xz")
        self._pending: deque[Future[bytes]] = deque()
        self._piece = bytearray()
        self._begun = False

    def writable(self) -> bool:
        return True

    def write(self, chunk: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(chunk).cast("B")
        at = 0
        while at < len(view):
            part = view[at : at + XZ_PIECE - len(self._piece)]
            self._piece += part
            at += len(part)
            if len(self._piece) == XZ_PIECE:
                self._submit()
        return len(view)

    def _submit(self) -> None:
        piece = bytes(self._piece)
        self._piece.clear()
        self._begun = True
        self._pending.append(submit(self._pool, partial(_xz_stream, piece)))
        while len(self._pending) > self._threads:
            write_all(self._out, self._pending.popleft().result())

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._piece or not self._begun:
                self._submit()
            while self._pending:
                write_all(self._out, self._pending.popleft().result())
        finally:
            self._pool.shutdown(cancel_futures=True)
            super().close()


def _xz_stream(piece: bytes) -> bytes:
    """With xz's own settings, which liblzma has kept for years, but for the dictionary."""
    import lzma

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": XZ_PIECE}]
    return lzma.compress(piece, check=lzma.CHECK_CRC64, filters=filters)


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
