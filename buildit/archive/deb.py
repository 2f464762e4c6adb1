"""Debian's binary packages: their files with merged /usr applied, which is a change of names, entry
by entry.

Debian 12 packages still carry /lib, /lib64, /bin and /sbin; every Debian 12 system has links
there. Here the files move to /usr/…, relative links are rewritten so that they lead to the same
file, and the links themselves are left to the caller: `contents.MERGED_LINKS`. Sources: deb(5),
Debian's TC decision on merged /usr (bug 914897).

The outer form of a .deb: an `ar` archive, read strictly. Source: deb(5), ar(5).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import BinaryIO

from buildit.archive.admit import Budget, parent, refused, shown
from buildit.archive.compress import decompressed
from buildit.archive.contents import TOPS, merged_path
from buildit.archive.streams import Members, Readable, Window, read_up_to
from buildit.archive.tar.read import read_tar
from buildit.digest import Digest, digest_stream
from buildit.model.tree import Entry, Kind

_CODEC = re.compile(r"\.(gz|xz|zst|bz2)$")
_MAGIC = b"!<arch>\n"
_HEADER = 60


def read_deb(deb: BinaryIO, budget: Budget, name: str = "package") -> Members:
    """The files of a package, /usr merged; no maintainer script is read. `deb` is seekable.

    Paths are unique among what is not a directory; parents may be missing. Modes and owners are
    the package's.

    Raises:
        IntegrityError: the package is truncated, damaged, or two of its files meet in /usr.
        BuildError: a limit of the budget is exceeded.
    """
    merge = _Merge(name)
    with closing(_data(deb, budget, name)) as members:
        for entry, content in members:
            moved = merge.admit(entry)
            if moved is not None:
                yield moved, content
                continue
            earlier = merge.same_file(entry)
            if earlier is None:
                continue
            # Policy forbids such packages (Debian Policy 10.1): a second pass is a fine price
            if content is None or _digest_of(deb, budget, name, earlier) != digest_stream(content):
                reason = f"it and {shown(earlier)!r} are two files that meet in /usr"
                raise refused(name, entry.path, reason, "take another version of the package")


def _data(
    deb: BinaryIO, budget: Budget, name: str
) -> Generator[tuple[Entry, Window | None], None, None]:
    """The members of the data, which is the last member of a .deb in deb(5)'s order; those whose
    name begins with `_` are skipped before it, any after it, as they are for later formats."""
    wanted = ["debian-binary", "control.tar", "data.tar"]
    for member, content in read_ar(deb, name):
        if not wanted or (member.startswith("_") and len(wanted) < 3):
            continue
        expected = wanted.pop(0)
        stem = member if expected == "debian-binary" else _CODEC.sub("", member)
        if stem != expected:
            raise refused(name, member, f"a .deb has {expected} in its place")
        if expected == "debian-binary":
            if not re.fullmatch(rb"2\.[0-9]+\n(?:[^\0]*)", content.read()):
                raise refused(name, "debian-binary", "its format is not 2.x")
        elif expected == "data.tar":
            yield from read_tar(decompressed(content, budget, name), budget, name)
    if wanted:
        raise refused(name, None, f"it is truncated: {wanted[0]} is missing")


def _digest_of(deb: BinaryIO, budget: Budget, name: str, path: str) -> Digest | None:
    """The digest of one file of the package, whose stream is left where it is."""
    position = deb.tell()
    deb.seek(0)
    try:
        for entry, content in _data(deb, budget, name):
            if entry.path == path and entry.kind is Kind.FILE and content is not None:
                return digest_stream(content)
    finally:
        deb.seek(position)
    return None


def read_ar(stream: Readable, name: str) -> Iterator[tuple[str, Window]]:
    """Members' names and bytes, in order; each is read before the next is asked for.

    Raises:
        IntegrityError: it is no `ar` archive, is truncated, or a header is malformed.
    """
    if read_up_to(stream, len(_MAGIC)) != _MAGIC:
        raise refused(name, None, "it is no .deb: its first line is not '!<arch>'")
    while header := read_up_to(stream, _HEADER):
        digits = header[48:58].rstrip(b" ")
        raw = header[:16].rstrip(b" ").removesuffix(b"/")
        if len(header) < _HEADER or header[58:60] != b"`\n":
            raise refused(name, None, "an ar header is truncated or malformed")
        if not digits.isdigit() or not raw.isascii() or not raw.decode().isprintable() or not raw:
            raise refused(name, None, "an ar header has no plain name or size")
        member, size = raw.decode(), int(digits)
        content = Window(stream, size, name, member)
        yield member, content
        content.drain()
        if size % 2 and read_up_to(stream, 1) not in (b"\n", b""):
            raise refused(name, member, "it is not followed by a newline")


def merged_text(path: str, text: str) -> str:
    """The text of the link that was at `path`, so that it leads to the same file after the move.

    Absolute texts and those that neither end moves stay as they are, byte for byte.
    """
    if text.startswith("/"):
        return text
    old = _resolved(path, text)
    new = merged_path(old)
    if merged_path(path) == path and new == old:
        return text
    above = posixpath.relpath(f"/{parent(new)}", f"/{parent(merged_path(path))}")
    return posixpath.normpath(f"{above}/{posixpath.basename(new)}")


class _Merge:
    """Applies the transform to one package's entries, in order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: dict[str, Entry] = {}
        self._sources: dict[str, str] = {}

    def admit(self, entry: Entry) -> Entry | None:
        """The entry where it now lies; None where nothing is to be made.

        Raises:
            IntegrityError: it meets an entry of another kind, or a link with another text.
        """
        path = entry.path
        if path in TOPS and entry.kind is Kind.SYMLINK:
            if entry.target.strip("/") != f"usr/{path}":
                reason = f"it is a link to {shown(entry.target)!r}, not to 'usr/{path}'"
                raise refused(self._name, path, reason)
            return None
        moved = _moved(entry)
        target = moved.target
        if moved.kind is Kind.SYMLINK:
            target = merged_path(_resolved(moved.path, target))
        if target == moved.path:
            return None  # `lib/x -> /usr/lib/x` beside the file: one name now
        before = self._seen.setdefault(moved.path, moved)
        if before is moved:
            self._sources[moved.path] = path
            return moved
        same = before.kind is moved.kind and before.target == moved.target
        if not same or before.size != moved.size:
            reason = f"it and {shown(self._sources[moved.path])!r} meet in /usr and differ"
            raise refused(self._name, path, reason, "take another version of the package")
        return None

    def same_file(self, entry: Entry) -> str | None:
        """The earlier path, as the package has it, of a file whose bytes must be compared."""
        earlier = self._sources.get(merged_path(entry.path))
        return earlier if entry.kind is Kind.FILE and earlier != entry.path else None


def _moved(entry: Entry) -> Entry:
    path = merged_path(entry.path)
    match entry.kind:
        case Kind.SYMLINK:
            return replace(entry, path=path, target=merged_text(entry.path, entry.target))
        case Kind.HARDLINK:
            return replace(entry, path=path, target=merged_path(entry.target))
        case _:
            return entry if path == entry.path else replace(entry, path=path)


def _resolved(path: str, text: str) -> str:
    """Where a link's text leads by names alone, as in a chroot: `..` of the root is the root."""
    return posixpath.normpath(posixpath.join("/", parent(path), text)).lstrip("/")
