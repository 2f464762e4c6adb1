"""Debian's binary packages: their control fields, and their files with merged /usr applied.

Debian 12 packages still carry /lib, /lib64, /bin and /sbin; every Debian 12 system has links
there. Here the files move to /usr/…, relative links are rewritten so that they lead to the same
file, and the links themselves are left to the caller: `MERGED_LINKS`. Sources: deb(5), deb822(5),
Debian's TC decision on merged /usr (bug 914897).

The outer form of a .deb: an `ar` archive, read strictly. Source: deb(5), ar(5).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import BinaryIO

from buildit.archive.decompress import decompressed
from buildit.archive.merged import MERGED_LINKS, MERGED_USR, Merge, merged_path
from buildit.archive.streams import Readable, Window, read_up_to
from buildit.archive.tar.admit import Budget, over, refused, shown
from buildit.archive.tar.read import read_tar
from buildit.digest import CHUNK
from buildit.model.tree import Entry, Kind

__all__ = ["MERGED_LINKS", "MERGED_USR", "merged_path", "read_deb", "read_deb_control"]

_MOST_CONTROL = 1 << 20
_FIELD = re.compile(r"([!\"$-,.-9;-~][!-9;-~]*):[ \t]*(.*)")


def read_deb(
    deb: BinaryIO, budget: Budget, name: str = "package"
) -> Iterator[tuple[Entry, Readable | None]]:
    """The files of a package, /usr merged; no maintainer script is read. `deb` is seekable.

    Paths are unique among what is not a directory; parents may be missing. Modes and owners are
    the package's.

    Raises:
        IntegrityError: the package is truncated, damaged, or two of its files meet in /usr.
        BuildError: a limit of the budget is exceeded.
    """
    merge = Merge(name)
    with closing(_data(deb, budget, name)) as members:
        for entry, content in members:
            moved = merge.admit(entry)
            if moved is not None:
                yield moved, content
                continue
            earlier = merge.same_file(entry)
            if earlier is not None:
                _check_same(deb, budget, name, (entry, content), earlier)


def read_deb_control(deb: BinaryIO, budget: Budget, name: str = "package") -> dict[str, str]:
    """The fields of a package's `control` file, in its order; further lines keep their newlines.

    Raises:
        IntegrityError: the package or the file is damaged, or there is none.
    """
    for member, content in _parts(deb, name):
        if not member.startswith("control.tar"):
            continue
        for entry, text in read_tar(decompressed(content, budget, name), budget, name):
            if entry.path == "control" and text is not None:
                if entry.size > _MOST_CONTROL:
                    raise over(name, "control", _MOST_CONTROL, "its control file is larger")
                return _fields(text.read(), name)
    raise refused(name, None, "it has no control file")


def _parts(deb: BinaryIO, name: str) -> Iterator[tuple[str, Window]]:
    """The members of a .deb, in deb(5)'s order; those whose name begins with `_` are skipped."""
    wanted = ["debian-binary", "control.tar", "data.tar"]
    for member, content in read_ar(deb, name):
        if not wanted:
            continue  # deb(5): further members are for later formats
        if member.startswith("_") and len(wanted) < 3:
            continue
        expected = wanted.pop(0)
        stem = member if expected == "debian-binary" else member.removesuffix(_suffix(member))
        if stem != expected:
            raise refused(name, member, f"a .deb has {expected} in its place")
        if expected == "debian-binary":
            _check_version(content.read(), name)
            continue
        yield member, content
    if wanted:
        raise refused(name, None, f"it is truncated: {wanted[0]} is missing")


def _suffix(member: str) -> str:
    return next((end for end in (".gz", ".xz", ".zst", ".bz2") if member.endswith(end)), "")


def _check_version(text: bytes, name: str) -> None:
    if not re.fullmatch(rb"2\.[0-9]+\n(?:[^\0]*)", text):
        raise refused(name, "debian-binary", "its format is not 2.x")


def _data(
    deb: BinaryIO, budget: Budget, name: str
) -> Generator[tuple[Entry, Window | None], None, None]:
    for member, content in _parts(deb, name):
        if member.startswith("data.tar"):
            yield from read_tar(decompressed(content, budget, name), budget, name)


def _check_same(
    deb: BinaryIO, budget: Budget, name: str, again: tuple[Entry, Window | None], earlier: str
) -> None:
    """Two files that meet in /usr must be the same; the earlier one is read a second time.

    Policy forbids such packages (Debian Policy 10.1), so the price of a second pass is fine.
    """
    entry, content = again
    if content is None or _digest_of(deb, budget, name, earlier) != _sha256(content):
        reason = f"it and {shown(earlier)!r} are two files that meet in /usr"
        raise refused(name, entry.path, reason, "take another version of the package")


def _digest_of(deb: BinaryIO, budget: Budget, name: str, path: str) -> bytes | None:
    """The digest of one file of the package, whose stream is left where it is."""
    position = deb.tell()
    deb.seek(0)
    try:
        for entry, content in _data(deb, budget, name):
            if entry.path == path and entry.kind is Kind.FILE and content is not None:
                return _sha256(content)
    finally:
        deb.seek(position)
    return None


def _sha256(content: Window) -> bytes:
    sha = hashlib.sha256()
    while part := content.read(CHUNK):
        sha.update(part)
    return sha.digest()


def _fields(raw: bytes, name: str) -> dict[str, str]:
    """One deb822 paragraph: `Name: value`, further lines indented. Names keep their case."""
    try:
        lines = raw.decode("utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise refused(name, "control", "it is not UTF-8") from error
    fields: dict[str, str] = {}
    seen: set[str] = set()
    last = ""
    for number, line in enumerate(lines, start=1):
        if line[:1] in (" ", "\t") and last:
            fields[last] += "\n" + line.strip()
            continue
        matched = _FIELD.fullmatch(line)
        if matched is None or matched[1].lower() in seen:
            raise refused(name, "control", f"line {number} is no field, or one given twice")
        last = matched[1]
        seen.add(last.lower())
        fields[last] = matched[2].strip()
    return fields


_MAGIC = b"!<arch>\n"
_HEADER = 60


def read_ar(stream: Readable, name: str) -> Iterator[tuple[str, Window]]:
    """Members' names and bytes, in order; each is read before the next is asked for.

    Raises:
        IntegrityError: it is no `ar` archive, is truncated, or a header is malformed.
    """
    if read_up_to(stream, len(_MAGIC)) != _MAGIC:
        raise refused(name, None, "it is no .deb: its first line is not '!<arch>'")
    while header := read_up_to(stream, _HEADER):
        member, size = _parsed(header, name)
        content = Window(stream, size, name, member)
        yield member, content
        content.drain()
        if size % 2 and read_up_to(stream, 1) not in (b"\n", b""):
            raise refused(name, member, "it is not followed by a newline")


def _parsed(header: bytes, name: str) -> tuple[str, int]:
    digits = header[48:58].rstrip(b" ")
    raw = header[:16].rstrip(b" ").removesuffix(b"/")
    if len(header) < _HEADER or header[58:60] != b"`\n":
        raise refused(name, None, "an ar header is truncated or malformed")
    if not digits.isdigit() or not raw.isascii() or not raw.decode().isprintable() or not raw:
        raise refused(name, None, "an ar header has no plain name or size")
    return raw.decode(), int(digits)
