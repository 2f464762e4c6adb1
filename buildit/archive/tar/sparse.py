"""Sparse members of GNU tars: which bytes of a file are stored, the rest are zeros.

Source: the manual of GNU tar, "Storing Sparse Files" (old GNU format, and PAX 0.0, 0.1 and 1.0).
All functions raise ValueError with the reason; `tarread` adds the place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from buildit.archive.streams import Readable, read_up_to
from buildit.archive.tar.header import BLOCK
from buildit.archive.tar.pax import checked_size, number

_MOST_PIECES = 1 << 20
_NUMBER = re.compile(rb"[0-9]{1,19}")
_IN_HEADER, _IN_EXTENSION = 4, 21  # pieces in a header at 386, in a block that follows at 0
_PIECE = 24


@dataclass(frozen=True, slots=True)
class Map:
    """`pieces` are (offset, size) in bytes, ascending; `size` is that of the whole file."""

    pieces: tuple[tuple[int, int], ...]
    size: int

    @property
    def stored(self) -> int:
        return sum(size for _, size in self.pieces)


def old_map(header: bytes, stream: Readable) -> Map:
    """The map of a member of type `S`, some of it in blocks after its header."""
    numbers = _fields(header[386 : 386 + _IN_HEADER * _PIECE])
    size = checked_size(number(header[483:495]))
    extended = header[482] != 0
    while extended:
        block = read_up_to(stream, BLOCK)
        if len(block) < BLOCK:
            raise ValueError("the archive is truncated inside the map of a sparse file")
        numbers += _fields(block[: _IN_EXTENSION * _PIECE])
        extended = block[504] != 0
        if len(numbers) > 2 * _MOST_PIECES:
            raise ValueError("the map of a sparse file has too many pieces")
    return _map(numbers, size)


def pax_map(records: Mapping[bytes, bytes]) -> Map:
    """The map in the records of formats 0.0 and 0.1, whose keywords lack `GNU.sparse.` here."""
    text = records.get(b"map", b"")
    numbers = [_decimal(part) for part in text.split(b",")] if text else []
    return _map(numbers, _decimal(records.get(b"size", b"")))


def data_map(stream: Readable, stored: int, size: int) -> tuple[Map, int]:
    """The map of format 1.0 from the begin of the member's data: decimal lines, padded to a block.

    Second, how many bytes of the data it took.
    """
    taken, rest, wanted = 0, b"", 1
    numbers: list[int] = []
    while len(numbers) < wanted:
        if b"\n" not in rest:
            block = read_up_to(stream, BLOCK)
            taken += BLOCK
            if taken > stored or len(block) < BLOCK or len(rest) > BLOCK:
                raise ValueError("the map of a sparse file is truncated")
            rest += block
            continue
        line, _, rest = rest.partition(b"\n")
        numbers.append(_decimal(line))
        if len(numbers) == 1:
            wanted = 1 + 2 * numbers[0]
            if numbers[0] > _MOST_PIECES:
                raise ValueError("the map of a sparse file has too many pieces")
    return _map(numbers[1:], size), taken


def is_data_map(records: Mapping[bytes, bytes]) -> bool:
    return records.get(b"major") == b"1" and records.get(b"minor", b"0") == b"0"


class Expanded:
    """A sparse member's bytes with its zeros in their place, from the stream of stored bytes."""

    def __init__(self, stored: Readable, sparse: Map) -> None:
        self._stored = stored
        self._pieces = list(reversed(sparse.pieces))
        self._at = 0
        self._size = sparse.size

    def read(self, size: int = -1, /) -> bytes:
        left = self._size - self._at
        wanted = left if size < 0 else min(size, left)
        start, length = self._pieces[-1] if self._pieces else (self._size, 0)
        if self._at < start:
            part = bytes(min(wanted, start - self._at))
        else:
            part = read_up_to(self._stored, min(wanted, start + length - self._at))
        self._at += len(part)
        while self._pieces and self._at >= sum(self._pieces[-1]):
            self._pieces.pop()
        return part


def _fields(data: bytes) -> list[int]:
    """Pairs of 12-byte numbers, up to the first empty one."""
    numbers: list[int] = []
    for at in range(0, len(data), _PIECE):
        if not data[at + 12]:
            break
        numbers += (
            checked_size(number(data[at : at + 12])),
            checked_size(number(data[at + 12 : at + 24])),
        )
    return numbers


def _map(numbers: Sequence[int], size: int) -> Map:
    if len(numbers) % 2 or len(numbers) > 2 * _MOST_PIECES:
        raise ValueError("the map of a sparse file is malformed")
    pieces = []
    end = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if offset < end or offset + length > size:
            raise ValueError("the map of a sparse file overlaps or is longer than the file")
        end = offset + length
        if length:
            pieces.append((offset, length))
    return Map(tuple(pieces), size)


def _decimal(text: bytes) -> int:
    if not _NUMBER.fullmatch(text) or int(text) >= 1 << 63:
        raise ValueError("a number of a sparse file is malformed")
    return int(text)
