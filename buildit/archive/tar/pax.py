"""Fields of tar headers: numbers, PAX records and what they may override.

Source: POSIX.1-2024, pax, "pax Header Block" and "pax Extended Header"; base-256 numbers as GNU
tar writes them. All functions raise ValueError with the reason; `tarread` adds the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_MOST_SIZE = (1 << 63) - 1
_MOST_ID = (1 << 32) - 2
_MOST_TIME = 253402300799  # 9999-12-31T23:59:59Z, the last second that tools can print
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?[0-9]{1,12})(?:\.([0-9]{0,30}))?")
_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."
_PIECES = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_CHARSETS = (b"ISO-IR 10646 2000 UTF-8", b"BINARY")
_IGNORED = frozenset(
    (b"atime", b"ctime", b"uname", b"gname", b"comment", b"charset", b"path", b"linkpath")
)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the records before a header say in its place; None where they say nothing."""

    path: bytes | None = None
    linkpath: bytes | None = None
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    sparse: Mapping[bytes, bytes] = field(default_factory=dict)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


NOTHING = Overrides()


def strict_records(data: bytes) -> dict[bytes, bytes]:
    """The records of an extended header, each keyword once.

    Raises:
        ValueError: as `parse_records`, or a keyword appears twice.
    """
    records: dict[bytes, bytes] = {}
    for key, value in parse_records(data):
        if key in records:
            raise ValueError(f"the PAX keyword {ascii(key)[1:]} appears twice")
        records[key] = value
    return records


def last_records(data: bytes) -> dict[bytes, bytes]:
    """The records of an extended header: the last of a keyword counts, as POSIX has it, but the
    numbers of a sparse file (GNU's format 0.0 repeats two keywords) come as one list.

    Raises:
        ValueError: as `parse_records`.
    """
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    for key, value in parse_records(data):
        if key in _PIECES:
            pieces.append(value)
        else:
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


def overrides(records: Mapping[bytes, bytes], *, lenient: bool = False) -> Overrides:
    """The records of one member, typed. `lenient` is as GNU tar: sparse files are read, what is
    not known is passed over, and so are owners, which nothing of a source keeps.

    Raises:
        ValueError: a value is malformed, the file is sparse, or a keyword is not known.
    """
    if lenient:
        records = {key: value for key, value in records.items() if key not in (b"uid", b"gid")}
    for key, value in records.items():
        _check_keyword(key, value, lenient=lenient)
    return Overrides(
        path=records.get(b"path"),
        linkpath=records.get(b"linkpath"),
        size=_decimal(records, b"size", _MOST_SIZE),
        uid=_decimal(records, b"uid", _MOST_ID),
        gid=_decimal(records, b"gid", _MOST_ID),
        mtime=_time(records[b"mtime"], lenient=lenient) if b"mtime" in records else None,
        sparse={
            key.removeprefix(_SPARSE): value
            for key, value in records.items()
            if key.startswith(_SPARSE)
        },
        xattrs={
            key.removeprefix(_XATTR).decode("utf-8", "surrogateescape"): value
            for key, value in records.items()
            if key.startswith(_XATTR)
        },
    )


def check_global(records: Mapping[bytes, bytes], allowed: Iterable[bytes] = (b"comment",)) -> None:
    """Refuse global records that change members; git writes the commit as a comment.

    Raises:
        ValueError: there is any keyword that is not allowed.
    """
    for key in records:
        if key not in allowed:
            raise ValueError(f"a global PAX header sets {ascii(key)[1:]} for all members")


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


def _time(text: bytes, *, lenient: bool) -> int:
    """Seconds since 1970, rounded down."""
    matched = _TIME.fullmatch(text)
    if matched is None:
        raise ValueError(f"its PAX mtime is {ascii(text[:40])[1:]}")
    whole = int(matched[1])
    part = bool((matched[2] or b"").strip(b"0"))
    rounded = whole - 1 if part and text.startswith(b"-") else whole
    return rounded if lenient else checked_time(rounded)
