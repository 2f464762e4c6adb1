"""A reader of zip sources, as unzip reads them: both directories agree, no member overlaps.

`zipfile` finds the central directory and decodes; what it would let pass is refused here: bytes
before the first member, overlapping members, encryption, names that only it shortens. What unzip
gets over is got over, and told. Source: APPNOTE.TXT 6.3, 4.3 and 4.4; unzip(1).
"""

from __future__ import annotations

import calendar
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, BinaryIO

from buildit.archive.admit import Budget, Gate, Remark, link_text, member_path, over, refused, shown
from buildit.archive.streams import Members, Window
from buildit.model.tree import YEAR_1980, Entry, Kind

_LOCAL = struct.Struct("<4s5H3L2H")
_DOS, _UNIX, _DARWIN = 0, 3, 19
_UTF8 = 0x800
_HINTS = 0x6 | _UTF8  # how well it was packed, and how its name is written: neither changes bytes
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_STREAMED = 0x8  # sizes follow the data instead of standing before it
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_DATA = (OSError, zlib.error, EOFError, struct.error, ValueError)  # of damaged data
_TIMES = 0x5455  # extra field "extended timestamp", seconds of UTC


def is_zip(stream: BinaryIO) -> bool:
    """Whether a stream at its start is a zip; it is left there."""
    magic = stream.read(4)
    stream.seek(0)
    return magic in (b"PK\x03\x04", b"PK\x05\x06")


def read_zip(stream: BinaryIO, budget: Budget, name: str, remark: Remark) -> Members:
    """The members of a zip, as `read_tar` gives those of a tar; the stream must be seekable.

    Where no member has a Unix mode, a file has mode 0: its bytes may say whether it is a script.

    Raises:
        IntegrityError: the archive is truncated, damaged, ambiguous, or holds what is refused.
        BuildError: a limit of the budget is exceeded.
    """
    with _translated(name):
        archive = zipfile.ZipFile(stream)
    with archive:
        members = archive.infolist()
        if len(members) > budget.entries:
            raise over(name, "entries", budget.entries, f"{len(members)} members")
        _check_layout(stream, archive, name)
        yield from _read(archive, budget, name, remark)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """`zipfile`'s errors, of the directory and of the data, as ours."""
    try:
        yield
    except (*_DATA, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, zipfile.BadZipFile):
            reason = f"the zip is damaged: {error}"
        elif isinstance(error, UnicodeDecodeError):
            reason = "the zip is damaged: a name that is flagged UTF-8 is not"
        elif not isinstance(error, _DATA):
            reason = f"the zip uses what is not supported: {error}"
        elif isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's; bzip2's own has no number
        else:
            reason = f"the zip's data is damaged: {error}"
        raise refused(name, None, reason) from error


class _Bytes:
    """A member's bytes; errors come up where they are read, not where the member was opened."""

    def __init__(self, content: IO[bytes], name: str) -> None:
        self._content = content
        self._name = name

    def read(self, size: int = -1, /) -> bytes:
        with _translated(self._name):
            return self._content.read(size)


def _read(archive: zipfile.ZipFile, budget: Budget, name: str, remark: Remark) -> Members:
    gate = Gate(budget, name, remark)
    modes = [_attributes(member) & 0o7777 for member in archive.infolist()]
    unknown = 0o644 if any(modes) else 0
    total = packed = 0
    for member in archive.infolist():
        total += member.file_size
        packed += member.compress_size
        if total > budget.total_bytes:
            raise over(name, "total_bytes", budget.total_bytes, f"at {shown(member.filename)!r}")
        if total > budget.ratio_free and total > packed * budget.ratio:
            raise over(name, "ratio", budget.ratio, f"{total} bytes out of {packed}")
        raw = _raw_name(member, name, remark)
        if _left_out(member, raw, name, remark):
            gate.count(".")
            continue
        with _translated(name):
            opened = archive.open(member)
        with opened:
            content = _Bytes(opened, name)
            entry = _entry(member, raw, content, budget, name, unknown)
            if not entry.path:
                gate.count(".")
                continue
            path = gate.through_links(entry.path)
            entry = replace(entry, path=path) if path != entry.path else entry
            gate.admit(entry)
            if entry.kind is not Kind.FILE:
                yield entry, None
                continue
            window = Window(content, entry.size, name, entry.path)
            yield entry, window
            window.drain()
            if content.read(1):  # the read at the end is also what checks the CRC
                raise refused(name, entry.path, "it is longer than its directory says")


def _entry(
    member: zipfile.ZipInfo, raw: bytes, content: _Bytes, budget: Budget, name: str, unknown: int
) -> Entry:
    """`unknown` is the mode of a file that has none."""
    try:
        kind = _kind(member, raw)
        path = member_path(raw)
        if not path and kind is not Kind.DIRECTORY:
            raise ValueError("it replaces the root of the tree")
        if kind is Kind.DIRECTORY and member.file_size:
            raise ValueError("it is a directory and yet has content")
        symlink = kind is Kind.SYMLINK
        target = link_text(content.read(budget.path_bytes + 1)) if symlink else ""
        mtime = _mtime(member)
    except ValueError as error:
        raise refused(name, member.orig_filename, str(error)) from error
    mode = _attributes(member) & 0o7777 or (0o755 if kind is Kind.DIRECTORY else unknown)
    size = member.file_size if kind is Kind.FILE else 0
    return Entry(path, kind, mode, mtime, size=size, target=target)


def _attributes(member: zipfile.ZipInfo) -> int:
    """The Unix type and permissions of a member, 0 where it has none."""
    return member.external_attr >> 16 if member.create_system in (_UNIX, _DARWIN) else 0


def _raw_name(member: zipfile.ZipInfo, archive: str, remark: Remark) -> bytes:
    """The name's bytes; `zipfile` decoded them, and cuts at a NUL, which is refused later.

    Windows programs wrote backslashes between the parts; unzip(1) reads them so where a name of
    DOS has no slash.
    """
    name = member.orig_filename
    try:
        utf8 = name.isascii() or member.flag_bits & _UTF8
        # what Unix tools wrote without the flag: bytes as they were
        raw = name.encode("utf-8", "surrogateescape") if utf8 else name.encode("cp437")
    except UnicodeEncodeError as error:
        raise refused(archive, name, "its name cannot be read") from error
    if member.create_system == _DOS and b"\\" in raw and b"/" not in raw:
        remark("member names have backslashes between their parts, which are taken as '/'")
        raw = raw.replace(b"\\", b"/")
    if raw.startswith(b"/"):
        remark("member names begin with '/', which is left out, as unzip does")
        raw = raw.lstrip(b"/") or b"."
    return raw


def _left_out(member: zipfile.ZipInfo, raw: bytes, archive: str, remark: Remark) -> bool:
    """Whether a member is no file, directory or link; a name must be sound all the same."""
    kind = stat.S_IFMT(_attributes(member))
    if kind in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return False
    try:
        path = member_path(raw)
    except ValueError as error:
        raise refused(archive, member.orig_filename, str(error)) from error
    what = _SPECIAL.get(kind, f"its type {kind:o} is not known")
    remark(f"member {shown(path)!r} is left out: {what}")
    return True


_SPECIAL = {
    stat.S_IFIFO: "it is a FIFO",
    stat.S_IFCHR: "it is a character device",
    stat.S_IFBLK: "it is a block device",
    stat.S_IFSOCK: "it is a socket",
}


def _kind(member: zipfile.ZipInfo, raw: bytes) -> Kind:
    if member.flag_bits & _ENCRYPTED:
        raise ValueError("it is encrypted")
    if member.compress_type not in _METHODS:
        raise ValueError(f"its compression method {member.compress_type} is not supported")
    kind = stat.S_IFMT(_attributes(member))
    if raw.endswith(b"/"):
        if kind == stat.S_IFLNK:
            raise ValueError("it is a link whose name ends in a slash")
        return Kind.DIRECTORY
    if kind == stat.S_IFDIR and not member.file_size:
        return Kind.DIRECTORY
    return Kind.SYMLINK if kind == stat.S_IFLNK else Kind.FILE


def _mtime(member: zipfile.ZipInfo) -> int:
    """The extended timestamp where there is one, else the DOS time, read as UTC."""
    extra = member.extra
    while len(extra) >= 4:
        tag, size = struct.unpack_from("<HH", extra)
        if tag == _TIMES and size >= 5 and extra[4] & 1 and len(extra) >= 9:
            return int(struct.unpack_from("<l", extra, 5)[0])
        extra = extra[4 + size :]
    _, month, day, *_ = member.date_time
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return YEAR_1980  # some writers leave the whole time 0
    return calendar.timegm((*member.date_time, 0, 0, 0))


def _check_layout(stream: BinaryIO, archive: zipfile.ZipFile, name: str) -> None:
    """Local headers agree with the directory, and members neither overlap nor leave bytes before.

    An overlap is how a small zip becomes a large tree; two headers that differ are how two readers
    see two archives.
    """
    end = 0
    for member in sorted(archive.infolist(), key=lambda each: each.header_offset):
        if member.header_offset < end or (end == 0 and member.header_offset):
            raise refused(name, member.orig_filename, "members overlap or bytes come before them")
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL.size)
        if len(header) < _LOCAL.size:
            raise refused(name, member.orig_filename, "the zip is truncated inside its header")
        magic, _, flags, method, _, _, *sizes, name_size, extra_size = _LOCAL.unpack(header)
        if magic != b"PK\x03\x04":
            raise refused(name, member.orig_filename, "its local header is missing")
        differ = ((flags ^ member.flag_bits) & ~_HINTS, method - member.compress_type) != (0, 0)
        if not flags & _STREAMED and 0xFFFFFFFF not in sizes[1:]:
            differ |= sizes != [member.CRC, member.compress_size, member.file_size]
        if differ:
            raise refused(name, member.orig_filename, "its two headers differ")
        end = member.header_offset + _LOCAL.size + name_size + extra_size + member.compress_size
    stream.seek(0)
