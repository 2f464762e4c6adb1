"""Archives onto the disk, beneath a root, with modes, owners and times that we chose.

A failure leaves what was unpacked so far: callers unpack into a scratch directory and rename it
when it is whole.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from buildit.archive.admit import OURS, Budget
from buildit.archive.beneath import Root
from buildit.archive.decompress import decompressed
from buildit.archive.links import escaping
from buildit.archive.names import parent, refused, shown
from buildit.archive.streams import Readable, Window
from buildit.archive.tarread import read_tar
from buildit.archive.zipread import is_zip, read_zip
from buildit.digest import CHUNK
from buildit.errors import BuilditError, StoreError
from buildit.model.tree import Entry, Kind

Members = Iterable[tuple[Entry, Readable | None]]
"""Entries in archive order, each with its bytes where it is a file."""

_PERMISSIONS = 0o777  # set-id and sticky never reach a disk of ours


def unpack_source(
    archive: Path,
    into: Root,
    *,
    strip: int,
    budget: Budget,
    owner: tuple[int, int] | None,
) -> int:
    """Unpack an upstream source (tar, plain or compressed, or zip); return its newest time.

    The first `strip` parts of all paths are left out. Files get mode 0644 or 0755, directories
    0755, all the archive's times in whole seconds, and `owner` (uid, gid) where it is given.

    Raises:
        IntegrityError: the archive is damaged or hostile, a link leads out of the tree, a path is
            there already, or a file has no more parts than `strip` removes.
        BuildError: a limit of the budget is exceeded.
        StoreError: the disk is full or broken.
    """
    name = archive.name
    newest = 0
    links: dict[str, str] = {}
    with archive.open("rb") as stream:
        writer = _Writer(into, owner, name)
        for member, content in _members(stream, budget, name):
            newest = max(newest, member.mtime)
            entry = _stripped(member, strip, name)
            if entry is None:
                continue
            if entry.kind is Kind.SYMLINK:
                links[entry.path] = entry.target
            writer.write(_normal(entry), content)
        for path, text in links.items():
            if escaping(path, links):
                reason = f"it is a link to {shown(text)!r}, which leads out of the tree"
                raise refused(name, path, reason)
        writer.finish()
    return newest


def unpack_layer(layer: BinaryIO, into: Root) -> None:
    """Unpack a plain tar of our own, whose digest the caller checks: exact modes, no set-id.

    Owners, attributes and durability are left to the caller.

    Raises:
        IntegrityError: it is no tar that our writer made.
        StoreError: the disk is full or broken.
    """
    unpack_entries(read_tar(layer, OURS, "layer"), into, "layer")


def unpack_entries(members: Members, into: Root, name: str = "archive") -> None:
    """Unpack entries of any reader with their modes, without set-id, and times.

    Raises:
        IntegrityError: a path is there already, but for directories, or goes through a link.
        StoreError: the disk is full or broken.
    """
    writer = _Writer(into, None, name)
    for entry, content in members:
        writer.write(entry, content)
    writer.finish()


def _members(stream: BinaryIO, budget: Budget, name: str) -> Iterator[tuple[Entry, Window | None]]:
    if is_zip(stream):
        return read_zip(stream, budget, name)
    return read_tar(decompressed(stream, budget, name), budget, name)


def _stripped(entry: Entry, strip: int, name: str) -> Entry | None:
    """The entry without the first parts of its path; None for a directory that is all of them."""
    if not strip:
        return entry
    path = _without(entry.path, strip)
    if not path:
        if entry.kind is Kind.DIRECTORY:
            return None
        hint = f"set the source's strip to {entry.path.count('/')} or less"
        reason = f"it has no more path parts than strip = {strip} removes"
        raise refused(name, entry.path, reason, hint)
    hard = entry.kind is Kind.HARDLINK
    return replace(entry, path=path, target=_without(entry.target, strip) if hard else entry.target)


def _without(path: str, strip: int) -> str:
    return "/".join(path.split("/")[strip:])


def _normal(entry: Entry) -> Entry:
    runs = entry.kind is Kind.DIRECTORY or entry.mode & 0o111
    return replace(entry, mode=0o755 if runs else 0o644, mtime=max(entry.mtime, 0))


@dataclass(frozen=True, slots=True)
class _Directory:
    mode: int
    mtime: int


class _Writer:
    """Writes entries beneath a root; directories get their mode and time when all is in them."""

    def __init__(self, into: Root, owner: tuple[int, int] | None, name: str) -> None:
        self._into = into
        self._owner = owner
        self._name = name
        self._directories: dict[str, _Directory | None] = {"": None}

    def write(self, entry: Entry, content: Readable | None) -> None:
        try:
            self._ensure(parent(entry.path))
            self._node(entry, content)
        except BuilditError as error:
            error.place = error.place or self._name
            raise
        except FileExistsError as error:
            raise refused(self._name, entry.path, "its path is there already") from error
        except NotADirectoryError as error:
            raise refused(self._name, entry.path, "it lies below a file") from error
        except OSError as error:
            raise self._broken(entry.path, error) from error

    def finish(self) -> None:
        """Set modes and times of directories, the deepest first: a child changes its parent."""
        for path in sorted(self._directories, reverse=True):
            wanted = self._directories[path]
            if wanted is None:
                continue
            try:
                self._into.utime(path, wanted.mtime)
                self._into.chmod(path, wanted.mode)
            except OSError as error:
                raise self._broken(path, error) from error

    def _node(self, entry: Entry, content: Readable | None) -> None:
        into, path = self._into, entry.path
        match entry.kind:
            case Kind.DIRECTORY:
                self._ensure(path)
                self._directories[path] = _Directory(entry.mode & _PERMISSIONS, entry.mtime)
            case Kind.FILE if content is not None:
                self._file(entry, content)
            case Kind.FILE:
                raise ValueError(f"a file without bytes: {path!r}")
            case Kind.SYMLINK:
                into.symlink(entry.target, path)
                into.utime(path, entry.mtime)
                if self._owner is not None:
                    into.chown(path, *self._owner)
            case Kind.HARDLINK:
                into.link(entry.target, path)

    def _file(self, entry: Entry, content: Readable) -> None:
        fd = self._into.create(entry.path, entry.mode & _PERMISSIONS)
        try:
            if self._owner is not None:
                os.fchown(fd, *self._owner)
            while part := content.read(CHUNK):
                while part:
                    part = part[os.write(fd, part) :]
            os.utime(fd, ns=(entry.mtime * 10**9, entry.mtime * 10**9))
        finally:
            os.close(fd)

    def _ensure(self, path: str) -> None:
        """Make a directory and those above it; one that is there is taken, a link is not."""
        if path in self._directories:
            return
        self._ensure(parent(path))
        try:
            self._into.mkdir(path, 0o700)
        except FileExistsError:
            # a directory of an earlier source stays as that source left it
            self._into.listdir(path)
            self._directories[path] = None
            return
        if self._owner is not None:
            self._into.chown(path, *self._owner)
        self._directories[path] = _Directory(0o755, 0)

    def _broken(self, path: str, error: OSError) -> BuilditError:
        hint = "free some space, then run again" if error.errno == errno.ENOSPC else None
        return StoreError(
            f"cannot write {shown(path)!r}: {error.strerror}",
            place=self._name,
            hint=hint or "check the disk and its permissions, then run again",
        )
