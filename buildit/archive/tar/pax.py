"""Fields of tar headers: numbers, PAX records and what they may override.

Source: POSIX.1-2024, pax, "pax Header Block" and "pax Extended Header"; base-256 numbers as GNU
tar writes them. All functions raise ValueError with the reason; `tar.read` adds the place.

Sparse members of GNU tars: which bytes of a file are stored, the rest are zeros.

Source: the manual of GNU tar, "Storing Sparse Files" (old GNU format, and PAX 0.0, 0.1 and 1.0).
All functions raise ValueError with the reason; `tar.read` adds the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildit.archive.streams import Readable, read_up_to
from buildit.archive.tar.write import BLOCK

_MOST_SIZE = (1 << 63) - 1
_MOST_ID = (1 << 32) - 2
_MOST_TIME = 253402300799  # 9999-12-31T23:59:59Z, the last second that tools can print
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?[0-9]{1,12})(?:\.([0-9]{0,30}))?")
_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."
_PIECES = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_CHARSETS = (b"ISO-IR 10646 2000 UTF-8", b"BINARY")
_IGNORED = frozenset(b"atime ctime uname gname comment charset path linkpath".split())


@dataclass(frozen=True, slots=True)
class Said:
    """What the headers before a member's own say in its place; None where they say nothing.

    `kinds` are the types of those headers, which keeps each from coming twice.
    """

    path: bytes | None = None
    linkpath: bytes | None = None
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    sparse: Mapping[bytes, bytes] = field(default_factory=dict)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    long_name: bytes | None = None
    long_link: bytes | None = None
    kinds: bytes = b""


def header_records(data: bytes, *, lenient: bool) -> dict[bytes, bytes]:
    """The records of an extended header, each keyword once.

    In a `lenient` reading the last of a keyword counts, as POSIX has it, but the numbers of a
    sparse file (GNU's format 0.0 repeats two keywords) come as one list.

    Raises:
        ValueError: as `parse_records`, or a keyword appears twice.
    """
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    for key, value in parse_records(data):
        if lenient and key in _PIECES:
            pieces.append(value)
            continue
        if key in records and not lenient:
            raise ValueError(f"the PAX keyword {ascii(key)[1:]} appears twice")
        records[key] = value
    return records | ({_SPARSE + b"map": b",".join(pieces)} if pieces else {})


def parse_records(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    """`LENGTH KEYWORD=VALUE\\n` records of an extended header.

    Raises:
        ValueError: a length does not end at a record's newline, or a keyword is empty.
    """
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        if not _DECIMAL.fullmatch(digits) or digits.startswith(b"0"):
            raise ValueError("a PAX record has no length")
        end = position + int(digits)
        equals = data.find(b"=", space + 1, end)
        if end > len(data) or equals < 0 or data[end - 1 : end] != b"\n":
            raise ValueError("a PAX record does not end where its length says")
        key = data[space + 1 : equals]
        if not key:
            raise ValueError("a PAX keyword is empty")
        yield key, data[equals + 1 : end - 1]
        position = end


def with_records(said: Said, records: Mapping[bytes, bytes], *, lenient: bool) -> Said:
    """`said` with the records of one member, typed. `lenient` is as GNU tar: sparse files are read,
    what is not known is passed over, and so are owners, which nothing of a source keeps.

    Raises:
        ValueError: a value is malformed, the file is sparse, or a keyword is not known.
    """
    if lenient:
        records = {key: value for key, value in records.items() if key not in (b"uid", b"gid")}
    for key, value in records.items():
        _check_keyword(key, value, lenient=lenient)
    sparse = {k.removeprefix(_SPARSE): v for k, v in records.items() if k.startswith(_SPARSE)}
    xattrs = {k.removeprefix(_XATTR): v for k, v in records.items() if k.startswith(_XATTR)}
    return replace(
        said,
        path=records.get(b"path"),
        linkpath=records.get(b"linkpath"),
        size=_decimal(records, b"size", _MOST_SIZE),
        uid=_decimal(records, b"uid", _MOST_ID),
        gid=_decimal(records, b"gid", _MOST_ID),
        mtime=seconds(records[b"mtime"], lenient) if b"mtime" in records else said.mtime,
        sparse=sparse,
        xattrs={key.decode("utf-8", "surrogateescape"): value for key, value in xattrs.items()},
    )


def number(field_bytes: bytes) -> int:
    """A header's number: octal digits, or GNU's base-256.

    Raises:
        ValueError: it is neither, or does not fit 63 bits.
    """
    first = field_bytes[0]
    if first in (0x80, 0xFF):
        value = int.from_bytes(field_bytes[1:], "big", signed=first == 0xFF)
        if first == 0xFF and value >= 0:
            raise ValueError("a header's base-256 number is malformed")
        if not -_MOST_SIZE <= value <= _MOST_SIZE:
            raise ValueError("a header's base-256 number is beyond 63 bits")
        return value
    text = field_bytes.strip(b" \0")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise ValueError(f"a header's number is not octal: {ascii(field_bytes)[1:]}")
    return int(text, 8)


def checked_id(value: int) -> int:
    if not 0 <= value <= _MOST_ID:
        raise ValueError(f"its owner {value} is impossible")
    return value


def checked_time(value: int) -> int:
    if not -_MOST_TIME <= value <= _MOST_TIME:
        raise ValueError(f"its time {value} is impossible")
    return value


def checked_size(value: int) -> int:
    if value < 0:
        raise ValueError(f"its size {value} is negative")
    return value


def _check_keyword(key: bytes, value: bytes, *, lenient: bool) -> None:
    if key.startswith(_SPARSE) and not lenient:
        raise ValueError("it is a sparse file, which is not supported")
    if key == b"hdrcharset" and value not in _CHARSETS and not lenient:
        raise ValueError(f"its character set is {ascii(value)[1:]}")
    if key in (b"path", b"linkpath") and not value:
        raise ValueError(f"its PAX {key.decode()} is empty")
    known = key in _IGNORED or key in (b"size", b"uid", b"gid", b"mtime", b"hdrcharset")
    # vendors name theirs `VENDOR.keyword`; those describe, none that we let pass redefine
    if not known and b"." not in key and not lenient:
        raise ValueError(f"the PAX keyword {ascii(key)[1:]} is not known")


def _decimal(records: Mapping[bytes, bytes], key: bytes, most: int) -> int | None:
    text = records.get(key)
    if text is None:
        return None
    if not _DECIMAL.fullmatch(text) or int(text) > most:
        raise ValueError(f"its PAX {key.decode()} is {ascii(text[:40])[1:]}")
    return int(text)


def seconds(text: bytes, lenient: bool) -> int:
    """Seconds since 1970, rounded down.

    Raises:
        ValueError: it is malformed, or impossible.
    """
    matched = _TIME.fullmatch(text)
    if matched is None:
        raise ValueError(f"its PAX mtime is {ascii(text[:40])[1:]}")
    part = (matched[2] or b"").strip(b"0")
    rounded = int(matched[1]) - bool(part and text.startswith(b"-"))
    return rounded if lenient else checked_time(rounded)


_MOST_PIECES = 1 << 20
_IN_HEADER, _IN_EXTENSION = 4, 21  # pieces in a header at 386, in a block that follows at 0
_PIECE = 24


@dataclass(frozen=True, slots=True)
class Map:
    """`pieces` are (offset, size) in bytes, ascending; `size` is that of the whole file."""

    pieces: tuple[tuple[int, int], ...]
    size: int


def sparse_map(
    header: bytes, records: Mapping[bytes, bytes], stream: Readable, stored: int
) -> tuple[Map | None, int]:
    """The map of a member, None where it is not sparse, and how many of its `stored` bytes the map
    itself took. `records` are those of the keywords `GNU.sparse.`, which they lack here."""
    taken = 0
    if header[156:157] == b"S":
        sparse = _old_map(header, stream)
    elif not records:
        return None, 0
    elif records.get(b"major") == b"1" and records.get(b"minor", b"0") == b"0":
        size = records.get(b"realsize", b"")
        if not size.isdigit() or len(size) > 18:
            raise ValueError("the size of a sparse file is malformed")
        sparse, taken = _data_map(stream, stored, int(size))
    else:  # formats 0.0 and 0.1
        text = records.get(b"map", b"")
        numbers = [_number_of(part) for part in text.split(b",")] if text else []
        sparse = _map(numbers, _number_of(records.get(b"size", b"")))
    if sum(size for _, size in sparse.pieces) != stored - taken:
        raise ValueError("the map of a sparse file does not fit its size")
    return sparse, taken


def _old_map(header: bytes, stream: Readable) -> Map:
    """The map of a member of type `S`, some of it in blocks after its header."""
    numbers = _fields(header[386 : 386 + _IN_HEADER * _PIECE])
    extended = header[482] != 0
    while extended:
        block = read_up_to(stream, BLOCK)
        if len(block) < BLOCK:
            raise ValueError("the archive is truncated inside the map of a sparse file")
        numbers += _fields(block[: _IN_EXTENSION * _PIECE])
        extended = block[504] != 0
        if len(numbers) > 2 * _MOST_PIECES:
            raise ValueError("the map of a sparse file has too many pieces")
    return _map(numbers, checked_size(number(header[483:495])))


def _data_map(stream: Readable, stored: int, size: int) -> tuple[Map, int]:
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
        numbers.append(_number_of(line))
        wanted = 1 + 2 * numbers[0]
        if numbers[0] > _MOST_PIECES:
            raise ValueError("the map of a sparse file has too many pieces")
    return _map(numbers[1:], size), taken


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
        numbers += (checked_size(number(data[cut : cut + 12])) for cut in (at, at + 12))
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


def _number_of(text: bytes) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) >= 1 << 63:
        raise ValueError("a number of a sparse file is malformed")
    return int(text)
