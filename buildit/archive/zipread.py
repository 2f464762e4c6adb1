"""A strict reader of zip sources: one member per name, both directories agreeing.

`zipfile` finds the central directory and decodes; what it would let pass is refused here: bytes
before the first member, overlapping members, encryption, devices, names that only it shortens.
Source: APPNOTE.TXT 6.3, 4.3 and 4.4.
"""

from __future__ import annotations

import calendar
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO

from buildit.archive.admit import Budget, Gate, over
from buildit.archive.names import link_text, member_path, refused, shown
from buildit.archive.streams import Window
from buildit.model.tree import Entry, Kind

_LOCAL = struct.Struct("<4s5H3L2H")
_UNIX = 3
_UTF8 = 0x800
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_STREAMED = 0x8  # sizes follow the data instead of standing before it
_TIMES = 0x5455  # extra field "extended timestamp", seconds of UTC


def is_zip(stream: BinaryIO) -> bool:
    """Whether a stream at its start is a zip; it is left there."""
    magic = stream.read(4)
    stream.seek(0)
    return magic in (b"PK\x03\x04", b"PK\x05\x06")


def read_zip(
    stream: BinaryIO, budget: Budget, name: str = "archive"
) -> Iterator[tuple[Entry, Window | None]]:
    """The members of a zip, as `read_tar` gives those of a tar; the stream must be seekable.

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
        yield from _read(archive, budget, name)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """`zipfile`'s errors, of the directory and of the data, as ours."""
    try:
        yield
    except zipfile.BadZipFile as error:
        raise refused(name, None, f"the zip is damaged: {error}") from error
    except (zlib.error, EOFError, struct.error) as error:
        raise refused(name, None, f"the zip's data is damaged: {error}") from error
    except (NotImplementedError, RuntimeError) as error:
        raise refused(name, None, f"the zip uses what is not supported: {error}") from error


class _Bytes:
    """A member's bytes; errors come up where they are read, not where the member was opened."""

    def __init__(self, content: IO[bytes], name: str) -> None:
        self._content = content
        self._name = name

    def read(self, size: int = -1, /) -> bytes:
        with _translated(self._name):
            return self._content.read(size)


def _read(
    archive: zipfile.ZipFile, budget: Budget, name: str
) -> Iterator[tuple[Entry, Window | None]]:
    gate = Gate(budget, name)
    total = packed = 0
    for member in archive.infolist():
        total += member.file_size
        packed += member.compress_size
        if total > budget.total_bytes:
            raise over(name, "total_bytes", budget.total_bytes, f"at {shown(member.filename)!r}")
        if total > budget.ratio_free and total > packed * budget.ratio:
            raise over(name, "ratio", budget.ratio, f"{total} bytes out of {packed}")
        with _translated(name):
            opened = archive.open(member)
        with opened:
            content = _Bytes(opened, name)
            entry = _entry(member, content, budget, name)
            if not entry.path:
                continue
            gate.admit(entry)
            if entry.kind is not Kind.FILE:
                yield entry, None
                continue
            window = Window(content, entry.size, name, entry.path)
            yield entry, window
            window.drain()
            if content.read(1):  # the read at the end is also what checks the CRC
                raise refused(name, entry.path, "it is longer than its directory says")


def _entry(member: zipfile.ZipInfo, content: _Bytes, budget: Budget, name: str) -> Entry:
    try:
        kind = _kind(member)
        path = member_path(_raw_name(member))
        if not path and kind is not Kind.DIRECTORY:
            raise ValueError("it replaces the root of the tree")
        if kind is Kind.DIRECTORY and member.file_size:
            raise ValueError("it is a directory and yet has content")
        target = ""
        if kind is Kind.SYMLINK:
            target = link_text(content.read(budget.path_bytes + 1))
        mtime = _mtime(member)
    except ValueError as error:
        raise refused(name, member.orig_filename, str(error)) from error
    mode = (member.external_attr >> 16) & 0o7777 if member.create_system == _UNIX else 0
    default = 0o755 if kind is Kind.DIRECTORY else 0o644
    size = member.file_size if kind is Kind.FILE else 0
    return Entry(path, kind, mode or default, mtime, size=size, target=target)


def _raw_name(member: zipfile.ZipInfo) -> bytes:
    """The name's bytes; `zipfile` decoded them, and cuts at a NUL, which is refused here."""
    encoding = "utf-8" if member.flag_bits & _UTF8 else "cp437"
    name = member.orig_filename
    if "\\" in name:
        raise ValueError("its name holds a backslash")
    if name.isascii() or encoding == "utf-8":
        return name.encode("utf-8", "surrogateescape")
    return name.encode("cp437")  # what Unix tools wrote without the flag: bytes as they were


def _kind(member: zipfile.ZipInfo) -> Kind:
    if member.flag_bits & _ENCRYPTED:
        raise ValueError("it is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its compression method {member.compress_type} is not supported")
    directory = member.orig_filename.endswith("/")
    kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == _UNIX else 0
    if directory and kind in (0, stat.S_IFDIR):
        return Kind.DIRECTORY
    if not directory and kind in (0, stat.S_IFREG):
        return Kind.FILE
    if not directory and kind == stat.S_IFLNK:
        return Kind.SYMLINK
    raise ValueError(f"its type {kind:o} is refused")


def _mtime(member: zipfile.ZipInfo) -> int:
    """The extended timestamp where there is one, else the DOS time, read as UTC."""
    extra = member.extra
    while len(extra) >= 4:
        tag, size = struct.unpack_from("<HH", extra)
        if tag == _TIMES and size >= 5 and extra[4] & 1 and len(extra) >= 9:
            return int(struct.unpack_from("<l", extra, 5)[0])
        extra = extra[4 + size :]
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
        (magic, _, flags, method, _, _, crc, packed, size, name_size, extra_size) = _LOCAL.unpack(
            header
        )
        if magic != b"PK\x03\x04":
            raise refused(name, member.orig_filename, "its local header is missing")
        stated = (flags, method, crc, packed, size)
        listed = (
            member.flag_bits,
            member.compress_type,
            member.CRC,
            member.compress_size,
            member.file_size,
        )
        open_sizes = flags & _STREAMED or 0xFFFFFFFF in (packed, size)
        if stated[: 2 if open_sizes else 5] != listed[: 2 if open_sizes else 5]:
            raise refused(name, member.orig_filename, "its two headers differ")
        end = member.header_offset + _LOCAL.size + name_size + extra_size + member.compress_size
    stream.seek(0)
