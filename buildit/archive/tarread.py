"""The one strict tar reader: ustar, PAX and GNU long names; whatever else there is, is refused.

It tells of one path once, knows one size per member, and reads to the end of the stream, so that
no two readers can see two archives in the same bytes (CVE-2025-62518 and its kin).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from buildit.archive.admit import Budget, Gate, over
from buildit.archive.names import link_text, member_path, refused, shown
from buildit.archive.pax import (
    NOTHING,
    Overrides,
    check_global,
    checked_id,
    checked_size,
    checked_time,
    number,
    overrides,
    parse_records,
)
from buildit.archive.streams import Readable, Window, read_up_to
from buildit.archive.tarheader import BLOCK
from buildit.digest import CHUNK
from buildit.model.tree import Entry, Kind

_ZEROS = bytes(BLOCK)
_MOST_RECORDS = 1 << 20  # bytes of one extended header; attributes are at most 64 KiB each
_MOST_OCTAL = 0o77777777777  # what libarchive leaves in a header whose size is a PAX record
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,  # "contiguous": POSIX lets a reader take it as a file
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"5": Kind.DIRECTORY,
}
_REFUSED = {
    b"3": "it is a character device",
    b"4": "it is a block device",
    b"6": "it is a FIFO",
    b"S": "it is a sparse file, which is not supported",
    b"M": "it continues another volume",
    b"V": "it is a volume label, not a file",
}


@dataclass(frozen=True, slots=True)
class _Before:
    """What the headers before a member's own said of it; `kinds` keeps each from coming twice."""

    records: Overrides = NOTHING
    long_name: bytes | None = None
    long_link: bytes | None = None
    kinds: bytes = b""


def read_tar(
    stream: Readable, budget: Budget, name: str = "archive", *, root: bool = False
) -> Iterator[tuple[Entry, Window | None]]:
    """The members of a plain tar, each with its bytes where it is a file.

    A member's bytes are readable until the next member is asked for. Entries have normal paths
    (`./a/` is `a`; the root itself is "" with `root`, else left out), no digests, modes as in the
    archive, and hard links that name an earlier file; one that names an earlier symbolic link
    becomes a symbolic link too. `name` is the place that errors give.

    Raises:
        IntegrityError: the archive is truncated, damaged, ambiguous, or holds what is refused.
        BuildError: a limit of the budget is exceeded.
    """
    gate = Gate(budget, name)
    total = 0
    while (found := _next_header(stream, budget, name)) is not None:
        header, before = found
        entry = _entry(header, before, name)
        total += entry.size
        if total > budget.total_bytes:
            raise over(name, "total_bytes", budget.total_bytes, f"at {shown(entry.path)!r}")
        if not entry.path:
            gate.count(".")
            if root:
                yield entry, None
            continue
        entry = _admitted(gate, entry)
        if entry.kind is not Kind.FILE:
            yield entry, None
            continue
        content = Window(stream, entry.size, name, entry.path)
        yield entry, content
        content.drain()
        padding = -entry.size % BLOCK
        if len(read_up_to(stream, padding)) < padding:
            raise refused(name, entry.path, "the archive is truncated after it")
    _check_end(stream, name)


def _admitted(gate: Gate, entry: Entry) -> Entry:
    """GNU tar stores a second name of a symbolic link as a hard link to it."""
    if entry.kind is Kind.HARDLINK:
        text = gate.symlink_text(entry.target)
        if text is not None:
            entry = Entry(
                entry.path, Kind.SYMLINK, entry.mode, entry.mtime, entry.uid, entry.gid, target=text
            )
    gate.admit(entry)
    return entry


def _next_header(stream: Readable, budget: Budget, name: str) -> tuple[bytes, _Before] | None:
    """The next member's own header, after those that describe it; None at the end mark."""
    before = _Before()
    globals_seen = 0
    while True:
        header = _block(stream, name)
        if header == _ZEROS:
            if before.kinds:
                raise refused(name, None, "the archive ends after a header for a member to come")
            return None
        _check_sum(header, name)
        kind = header[156:157]
        if kind == b"g":
            globals_seen += 1
            if before.kinds or globals_seen > 1:
                raise refused(name, None, "a global PAX header is out of place")
            _global(_description(stream, header, _MOST_RECORDS, name), name)
        elif kind in (b"x", b"L", b"K"):
            most = _MOST_RECORDS if kind == b"x" else budget.path_bytes + 1
            before = _described(before, kind, _description(stream, header, most, name), name)
        else:
            return header, before


def _described(before: _Before, kind: bytes, data: bytes, name: str) -> _Before:
    if kind in before.kinds:
        raise refused(name, None, "two headers describe the same member")
    kinds = before.kinds + kind
    if kind == b"x":
        try:
            records = overrides(parse_records(data))
        except ValueError as error:
            raise refused(name, None, str(error)) from error
        return _Before(records, before.long_name, before.long_link, kinds)
    if not data.endswith(b"\0") or b"\0" in data[:-1] or len(data) < 2:
        raise refused(name, None, "a GNU long name is not one text that ends in NUL")
    if kind == b"L":
        return _Before(before.records, data[:-1], before.long_link, kinds)
    return _Before(before.records, before.long_name, data[:-1], kinds)


def _global(data: bytes, name: str) -> None:
    try:
        check_global(parse_records(data))
    except ValueError as error:
        raise refused(name, None, str(error)) from error


def _description(stream: Readable, header: bytes, most: int, name: str) -> bytes:
    try:
        size = checked_size(number(header[124:136]))
    except ValueError as error:
        raise refused(name, None, str(error)) from error
    if size > most:
        if header[156:157] == b"x":
            raise refused(name, None, f"a PAX header of {size} bytes is beyond {most}")
        raise over(name, "path_bytes", most - 1, f"a GNU long name of {size} bytes")
    padded = size + -size % BLOCK
    data = read_up_to(stream, padded)
    if len(data) < padded:
        raise refused(name, None, "the archive is truncated inside a header")
    return data[:size]


def _entry(header: bytes, before: _Before, name: str) -> Entry:
    """One member's entry; its path is "" where it is the root.

    Raises:
        IntegrityError: with the member's name as far as it is known.
    """
    raw = _name(header, before, name)
    try:
        return _parsed(header, before, raw)
    except ValueError as error:
        text = raw.decode("utf-8", "surrogateescape")
        raise refused(name, text or None, str(error)) from error


def _parsed(header: bytes, before: _Before, raw: bytes) -> Entry:
    records = before.records
    kind = _kind(header, raw)
    path = member_path(raw)
    if not path and kind is not Kind.DIRECTORY:
        raise ValueError("it replaces the root of the tree")
    return Entry(
        path=path,
        kind=kind,
        mode=number(header[100:108]) & 0o7777,
        mtime=_first(records.mtime, checked_time(number(header[136:148]))),
        uid=_first(records.uid, _owner(header[108:116], records.uid)),
        gid=_first(records.gid, _owner(header[116:124], records.gid)),
        size=_size(header, records, kind),
        target=_target(header, before, kind),
        xattrs=records.xattrs,
    )


def _kind(header: bytes, raw: bytes) -> Kind:
    flag = header[156:157]
    kind = _KINDS.get(flag)
    if kind is None:
        raise ValueError(_REFUSED.get(flag, f"its type {ascii(flag)[1:]} is not known"))
    if kind is Kind.FILE and raw.endswith(b"/"):
        if flag != b"\0":
            raise ValueError("it is a file whose name ends in a slash")
        return Kind.DIRECTORY  # as tars before ustar have it
    return kind


def _name(header: bytes, before: _Before, name: str) -> bytes:
    if before.records.path is not None and before.long_name is not None:
        raise refused(name, None, "PAX and GNU headers name the same member")
    if before.records.linkpath is not None and before.long_link is not None:
        raise refused(name, None, "PAX and GNU headers give the same member's link")
    if before.records.path is not None:
        return before.records.path
    if before.long_name is not None:
        return before.long_name
    short = _text(header[:100])
    # only POSIX has a prefix there; GNU's magic `ustar  ` has times in its place
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + short if prefix else short


def _size(header: bytes, records: Overrides, kind: Kind) -> int:
    stated = checked_size(number(header[124:136]))
    size = stated
    if records.size is not None:
        if stated not in (0, _MOST_OCTAL, records.size):
            raise ValueError(f"its header says {stated} bytes, its PAX record {records.size}")
        size = records.size
    if size and kind is not Kind.FILE:
        raise ValueError(f"it is a {kind} and yet has {size} bytes of content")
    return size


def _target(header: bytes, before: _Before, kind: Kind) -> str:
    if kind in (Kind.FILE, Kind.DIRECTORY):
        if before.records.linkpath is not None or before.long_link is not None:
            raise ValueError(f"it is a {kind} and yet has a link target")
        return ""
    raw = before.records.linkpath or before.long_link or _text(header[157:257])
    if kind is Kind.SYMLINK:
        return link_text(raw)
    try:
        target = member_path(raw)
    except ValueError as error:
        raise ValueError(f"its hard link's target is unsafe: {error}") from error
    if not target:
        raise ValueError("it is a hard link to the root")
    return target


def _owner(field_bytes: bytes, instead: int | None) -> int:
    """A header's owner; where a PAX record gives it, libarchive leaves what it likes there."""
    return 0 if instead is not None else checked_id(number(field_bytes))


def _first(value: int | None, other: int) -> int:
    return other if value is None else value


def _text(field_bytes: bytes) -> bytes:
    return field_bytes.partition(b"\0")[0]


def _block(stream: Readable, name: str) -> bytes:
    block = read_up_to(stream, BLOCK)
    if len(block) < BLOCK:
        reason = "the archive is truncated inside a header" if block else "it has no end mark"
        raise refused(name, None, reason, "fetch it again: it is not whole")
    return block


def _check_sum(header: bytes, name: str) -> None:
    """POSIX: the sum of all bytes, taken with the checksum's own eight bytes as spaces."""
    try:
        stated = number(header[148:156])
    except ValueError:
        _fail_sum(name)
    if stated != sum(header) - sum(header[148:156]) + 8 * 0x20:
        _fail_sum(name)


def _fail_sum(name: str) -> NoReturn:
    raise refused(name, None, "a tar header's checksum is wrong: no tar, or a damaged one")


def _check_end(stream: Readable, name: str) -> None:
    """After the first zero block: a second one, then nothing but zeros to the end."""
    if _block(stream, name) != _ZEROS:
        raise refused(name, None, "bytes follow a single zero block")
    while rest := stream.read(CHUNK):
        if rest.count(0) != len(rest):
            raise refused(name, None, "bytes follow the end of the archive")
