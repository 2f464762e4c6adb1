"""lzip's members, decoded as LZMA with the checks that the format has.

Source: the manual of lzip, "File format": magic and version, the coded size of the dictionary, an
LZMA stream with lc 3, lp 0, pb 2 and an end marker, then CRC-32, sizes of the data and the member.
"""

from __future__ import annotations

import lzma
import struct
import zlib

MAGIC = b"LZIP"
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
        if head[:4] != MAGIC or head[4] != 1:
            raise ValueError(f"lzip's version {head[4]} is not known")
        base = 1 << (head[5] & 0x1F)
        size = base - (base // 16) * (head[5] >> 5)
        if size not in _DICTIONARIES:
            raise ValueError("the size of its dictionary is malformed")
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
