"""The one tar reader: V7, ustar, PAX and GNU; strict, unless its caller listens to remarks.

A strict reading tells of one path once, knows one size per member, and reads to the end of the
stream, so that no two readers can see two archives in the same bytes (CVE-2025-62518 and its kin):
so layers, images and .debs are read. A source, whose digest the recipe pins, is read as GNU tar
reads it, and what that got over is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

from buildit.archive.streams import Readable, Window, read_up_to
from buildit.archive.tar.admit import Budget, Gate, Remark, over
from buildit.archive.tar.header import BLOCK
from buildit.archive.tar.names import link_text, member_path, refused, shown
from buildit.archive.tar.pax import (
    NOTHING,
    Expanded,
    Map,
    Overrides,
    check_global,
    checked_id,
    checked_size,
    checked_time,
    data_map,
    is_data_map,
    last_records,
    number,
    old_map,
    overrides,
    pax_map,
    strict_records,
)
from buildit.digest import CHUNK
from buildit.errors import IntegrityError
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
_LEFT_OUT = {b"3": "it is a character device", b"4": "it is a block device", b"6": "it is a FIFO"}
_REFUSED = _LEFT_OUT | {
    b"S": "it is a sparse file, which is not supported",
    b"M": "it continues another volume",
    b"V": "it is a volume label, not a file",
}
_OF_ALL = (b"comment", b"mtime", b"uid", b"gid", b"uname", b"gname", b"charset", b"hdrcharset")
"""What a lenient reading lets a global header set for all members that follow."""


@dataclass(frozen=True, slots=True)
class _Before:
    """What the headers before a member's own said of it; `kinds` keeps each from coming twice."""

    records: Overrides = NOTHING
    long_name: bytes | None = None
    long_link: bytes | None = None
    kinds: bytes = b""


@dataclass(frozen=True, slots=True)
class _Found:
    """A member as its headers give it: `stored` bytes follow them, with `zeros` put in its place.

    `left_out` says why the member enters no tree; its bytes follow all the same.
    """

    entry: Entry
    stored: int
    zeros: Map | None = None
    left_out: str = ""


def read_tar(
    stream: Readable,
    budget: Budget,
    name: str = "archive",
    remark: Remark | None = None,
    *,
    root: bool = False,
) -> Iterator[tuple[Entry, Window | None]]:
    """The members of a plain tar, each with its bytes where it is a file.

    A member's bytes are readable until the next member is asked for. Entries have normal paths
    (`./a/` is `a`; the root itself is "" with `root`, else left out), no digests, modes as in the
    archive, and hard links that name an earlier file; one that names an earlier symbolic link
    becomes a symbolic link too. `name` is the place that errors give.

    With `remark` (see `Remark`) a path may come again, and the later member counts; devices and
    FIFOs are left out; absolute names begin at the root; sparse files are read; the end is the
    first zero block, whatever follows, or where the bytes end.

    Raises:
        IntegrityError: the archive is truncated, damaged, ambiguous, or holds what is refused.
        BuildError: a limit of the budget is exceeded.
    """
    gate = Gate(budget, name, remark)
    absent: set[str] = set()
    total = 0
    for header, before in _Headers(stream, budget, name, remark):
        found = _found(header, before, stream, name, remark)
        entry = found.entry
        total += max(entry.size, found.stored)
        if total > budget.total_bytes:
            raise over(name, "total_bytes", budget.total_bytes, f"at {shown(entry.path)!r}")
        gone = found.left_out
        if entry.kind is Kind.HARDLINK and entry.target in absent:
            gone = f"it is a hard link to {shown(entry.target)!r}, which is left out"
        if gone and remark is not None:
            absent.add(entry.path)
            remark(f"member {shown(entry.path)!r} is left out: {gone}")
        if not entry.path or gone:
            gate.count(".")
            _skip(stream, found, name)
            if root and not gone:
                yield entry, None
            continue
        entry = _admitted(gate, entry)
        absent.discard(entry.path)
        if entry.kind is not Kind.FILE:
            yield entry, None
            continue
        stored = Window(stream, found.stored, name, entry.path)
        content = stored
        if found.zeros is not None:
            content = Window(Expanded(stored, found.zeros), entry.size, name, entry.path)
        yield entry, content
        content.drain()
        stored.drain()
        _pad(stream, found, name)


def _skip(stream: Readable, found: _Found, name: str) -> None:
    Window(stream, found.stored, name, found.entry.path).drain()
    _pad(stream, found, name)


def _pad(stream: Readable, found: _Found, name: str) -> None:
    padding = -found.stored % BLOCK
    if len(read_up_to(stream, padding)) < padding:
        raise refused(name, found.entry.path, "the archive is truncated after it")


def _admitted(gate: Gate, entry: Entry) -> Entry:
    """GNU tar stores a second name of a symbolic link as a hard link to it."""
    path = gate.through_links(entry.path)
    entry = replace(entry, path=path) if path != entry.path else entry
    if entry.kind is Kind.HARDLINK:
        text = gate.symlink_text(entry.target)
        if text is not None:
            entry = Entry(
                entry.path, Kind.SYMLINK, entry.mode, entry.mtime, entry.uid, entry.gid, target=text
            )
    gate.admit(entry)
    return entry


class _Headers:
    """The members' own headers in turn, each with what the headers before it said.

    The caller reads the member's bytes from the same stream before it asks for the next one.
    """

    def __init__(self, stream: Readable, budget: Budget, name: str, remark: Remark | None) -> None:
        self._stream = stream
        self._budget = budget
        self._name = name
        self._remark = remark
        self._of_all: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[tuple[bytes, _Before]]:
        first = True
        while (found := self._next(first=first)) is not None:
            yield found
            first = False

    def _next(self, *, first: bool) -> tuple[bytes, _Before] | None:
        """None at the end."""
        before = _Before(self._records({}))
        globals_seen = 0
        while True:
            header = self._block(first=first)
            if header in (_ZEROS, b""):
                if before.kinds:
                    reason = "the archive ends after a header for a member to come"
                    raise refused(self._name, None, reason)
                if header:
                    self._check_end()
                return None
            _check_sum(header, self._name)
            first = False
            kind = header[156:157]
            if kind == b"g":
                globals_seen += 1
                if self._remark is None and (before.kinds or globals_seen > 1):
                    raise refused(self._name, None, "a global PAX header is out of place")
                self._global(self._description(header, _MOST_RECORDS))
                before = before if before.kinds else _Before(self._records({}))
            elif kind in (b"x", b"L", b"K", b"X"):
                most = _MOST_RECORDS if kind in (b"x", b"X") else self._budget.path_bytes + 1
                before = self._described(before, kind, self._description(header, most))
            elif kind == b"V" and self._remark is not None:
                continue  # GNU's label of the volume, which names no file
            else:
                return header, before

    def _block(self, *, first: bool) -> bytes:
        block = read_up_to(self._stream, BLOCK)
        if len(block) == BLOCK:
            return block
        if block.strip(b"\0"):
            raise refused(self._name, None, "the archive is truncated inside a header")
        if self._remark is None or first:
            raise refused(self._name, None, "it has no end mark")
        self._remark("the archive has no end mark")
        return b""

    def _check_end(self) -> None:
        """After the first zero block: a second one, then nothing but zeros to the end.

        GNU tar reads no further than the first zero block, and so does a lenient reading; the
        stream is read to its end all the same, since that is what checks a compressed one.
        """
        second = read_up_to(self._stream, BLOCK)
        follows = b"" if second == _ZEROS else second
        if self._remark is None and len(second) < BLOCK:
            raise refused(self._name, None, "it has no end mark: a single zero block")
        if self._remark is None and follows:
            raise refused(self._name, None, "bytes follow a single zero block")
        if self._remark is not None and second != _ZEROS:
            self._remark("the archive ends with a lone zero block")
        zeros = follows.count(0) == len(follows)
        while rest := self._stream.read(CHUNK):
            zeros = zeros and rest.count(0) == len(rest)
            if not zeros and self._remark is None:
                raise refused(self._name, None, "bytes follow the end of the archive")
        if not zeros and self._remark is not None:
            self._remark("bytes follow the end of the archive; as tar does, they are not read")

    def _described(self, before: _Before, kind: bytes, data: bytes) -> _Before:
        kind = kind.lower() if kind == b"X" else kind
        if kind in before.kinds and self._remark is None:
            raise refused(self._name, None, "two headers describe the same member")
        kinds = before.kinds + kind
        if kind == b"x":
            try:
                parsed = strict_records if self._remark is None else last_records
                records = self._records(parsed(data))
            except ValueError as error:
                raise refused(self._name, None, str(error)) from error
            return _Before(records, before.long_name, before.long_link, kinds)
        if not data.endswith(b"\0") or b"\0" in data[:-1] or len(data) < 2:
            raise refused(self._name, None, "a GNU long name is not one text that ends in NUL")
        if kind == b"L":
            return _Before(before.records, data[:-1], before.long_link, kinds)
        return _Before(before.records, before.long_name, data[:-1], kinds)

    def _records(self, records: dict[bytes, bytes]) -> Overrides:
        if not records and not self._of_all:
            return NOTHING
        return overrides(self._of_all | records, lenient=self._remark is not None)

    def _global(self, data: bytes) -> None:
        try:
            if self._remark is None:
                check_global(strict_records(data))
                return
            records = last_records(data)
            check_global(records, _OF_ALL)
            self._of_all |= {key: records[key] for key in records if key == b"mtime"}
        except ValueError as error:
            raise refused(self._name, None, str(error)) from error

    def _description(self, header: bytes, most: int) -> bytes:
        try:
            size = checked_size(number(header[124:136]))
        except ValueError as error:
            raise refused(self._name, None, str(error)) from error
        if size > most:
            if header[156:157] in (b"x", b"X", b"g"):
                raise refused(self._name, None, f"a PAX header of {size} bytes is beyond {most}")
            raise over(self._name, "path_bytes", most - 1, f"a GNU long name of {size} bytes")
        padded = size + -size % BLOCK
        data = read_up_to(self._stream, padded)
        if len(data) < padded:
            raise refused(self._name, None, "the archive is truncated inside a header")
        return data[:size]


def _found(
    header: bytes, before: _Before, stream: Readable, name: str, remark: Remark | None
) -> _Found:
    """One member; its path is "" where it is the root.

    Raises:
        IntegrityError: with the member's name as far as it is known.
    """
    raw = _name(header, before, name)
    try:
        if remark is None:
            entry = _parsed(header, before, raw)
            return _Found(entry, entry.size)
        return _leniently(header, before, raw, stream, remark)
    except ValueError as error:
        text = raw.decode("utf-8", "surrogateescape")
        raise refused(name, text or None, str(error)) from error


def _leniently(
    header: bytes, before: _Before, raw: bytes, stream: Readable, remark: Remark
) -> _Found:
    """A member as GNU tar takes it; owners are nothing's matter, as no source keeps them."""
    flag = header[156:157]
    records = before.records
    raw = _relative(records.sparse.get(b"name", raw), "member names", remark)
    path = member_path(raw)
    if flag in _LEFT_OUT:
        stored = checked_size(number(header[124:136]))
        return _Found(Entry(path, Kind.FILE, 0, 0), stored, left_out=_LEFT_OUT[flag])
    if flag == b"M":
        raise ValueError(_REFUSED[flag])
    kind = _KINDS.get(flag, Kind.DIRECTORY if flag == b"D" else Kind.FILE)
    if flag not in _KINDS and flag not in (b"D", b"S"):
        remark(f"member {shown(path)!r} has the type {ascii(flag)[1:]}: it is taken as a file")
    if kind is Kind.FILE and raw.endswith(b"/"):
        kind = Kind.DIRECTORY
        if flag == b"0" and _size(header, records, Kind.FILE):
            raise ValueError("it is a file whose name ends in a slash")
    if not path and kind is not Kind.DIRECTORY:
        raise ValueError("it replaces the root of the tree")
    # POSIX and GNU: the size of a link or directory announces no bytes, but for GNU's list of names
    stored = _size(header, records, Kind.FILE) if kind is Kind.FILE or flag == b"D" else 0
    zeros, taken = _zeros(header, records, stream, stored) if kind is Kind.FILE else (None, 0)
    entry = Entry(
        path=path,
        kind=kind,
        mode=number(header[100:108]) & 0o7777,
        mtime=_first(records.mtime, number(header[136:148])),
        size=(zeros.size if zeros else stored) if kind is Kind.FILE else 0,
        target=_target(header, before, kind, remark),
        xattrs=records.xattrs,
    )
    return _Found(entry, stored - taken, zeros)


def _zeros(
    header: bytes, records: Overrides, stream: Readable, stored: int
) -> tuple[Map | None, int]:
    """The map of a sparse member, and how many of its stored bytes the map itself took."""
    taken = 0
    if header[156:157] == b"S":
        sparse = old_map(header, stream)
    elif not records.sparse:
        return None, 0
    elif is_data_map(records.sparse):
        size = records.sparse.get(b"realsize", b"")
        if not size.isdigit() or len(size) > 18:
            raise ValueError("the size of a sparse file is malformed")
        sparse, taken = data_map(stream, stored, int(size))
    else:
        sparse = pax_map(records.sparse)
    if sparse.stored != stored - taken:
        raise ValueError("the map of a sparse file does not fit its size")
    return sparse, taken


def _relative(raw: bytes, what: str, remark: Remark) -> bytes:
    if not raw.startswith(b"/"):
        return raw
    remark(f"{what} begin with '/', which is left out, as tar does")
    return raw.lstrip(b"/") or b"."


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


def _target(header: bytes, before: _Before, kind: Kind, remark: Remark | None = None) -> str:
    if kind in (Kind.FILE, Kind.DIRECTORY):
        if remark is not None:
            return ""
        if before.records.linkpath is not None or before.long_link is not None:
            raise ValueError(f"it is a {kind} and yet has a link target")
        return ""
    raw = before.records.linkpath or before.long_link or _text(header[157:257])
    if kind is Kind.SYMLINK:
        return link_text(raw)
    if remark is not None:
        raw = _relative(raw, "hard links' targets", remark)
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


def has_good_sum(header: bytes) -> bool:
    """Whether a block is a tar's header: no other file begins so."""
    try:
        _check_sum(header, "")
    except IntegrityError:
        return False
    return True


def _check_sum(header: bytes, name: str) -> None:
    """POSIX: the sum of all bytes, taken with the checksum's own eight bytes as spaces."""
    try:
        stated = number(header[148:156])
    except ValueError:
        _fail_sum(name)
    signed = sum(header) - 256 * sum(byte > 127 for byte in header)  # as some old tars took it
    own = header[148:156]
    unsigned_own, signed_own = sum(own), sum(own) - 256 * sum(byte > 127 for byte in own)
    if stated not in (sum(header) - unsigned_own + 8 * 0x20, signed - signed_own + 8 * 0x20):
        _fail_sum(name)


def _fail_sum(name: str) -> NoReturn:
    raise refused(name, None, "a tar header's checksum is wrong: no tar, or a damaged one")
