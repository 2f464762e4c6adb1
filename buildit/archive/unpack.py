"""Archives onto the disk, beneath a root, with modes, owners and times that we chose.

A failure leaves what was unpacked so far: callers unpack into a scratch directory and rename it
when it is whole.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import BinaryIO

from buildit.archive.beneath import Root
from buildit.archive.streams import Readable
from buildit.archive.tar.admit import OURS, Remark, parent, refused, shown
from buildit.archive.tar.read import read_tar
from buildit.digest import CHUNK
from buildit.errors import BuilditError, StoreError
from buildit.model.tree import Entry, Kind

Members = Iterable[tuple[Entry, Readable | None]]
"""Entries in archive order, each with its bytes where it is a file."""

_HOLE = bytes(CHUNK)  # whole chunks of zeros take no room on the disk
_REASONS = {
    errno.EEXIST: "its path is there already",
    errno.ENOTDIR: "it lies below a file",
    errno.ENAMETOOLONG: "a name too long for the system",
}
_PERMISSIONS = 0o777  # set-id and sticky never reach a disk of ours


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
    writer = Writer(into, None, name)
    for entry, content in members:
        writer.write(entry, content)
    writer.finish()


class Writer:
    """Writes entries beneath a root; directories get their mode and time when all is in them.

    `owner` (uid, gid) is given to all where it is set. With `remark` an entry replaces what is in
    its place, but for a directory that is not empty, and what an earlier writer left is told of.
    `unsaid` is the time of directories that no entry speaks of.
    """

    def __init__(
        self,
        into: Root,
        owner: tuple[int, int] | None,
        name: str,
        remark: Remark | None = None,
        unsaid: int = 0,
    ) -> None:
        self._into = into
        self._owner = owner
        self.name = name
        self._remark = remark
        self._unsaid = unsaid
        self._own: set[str] = set()
        self._directories: dict[str, tuple[int, int] | None] = {"": None}

    def write(self, entry: Entry, content: Readable | None) -> None:
        try:
            self._ensure(parent(entry.path))
            self._place(entry, content)
        except BuilditError as error:
            error.place = error.place or self.name
            raise
        except OSError as error:
            reason = _REASONS.get(error.errno or 0)
            if reason is not None:
                raise refused(self.name, entry.path, reason) from error
            raise self._broken(entry.path, error) from error

    def finish(self) -> None:
        """Set modes and times of directories, the deepest first: a child changes its parent."""
        for path in sorted(self._directories, reverse=True):
            wanted = self._directories[path]
            if wanted is None:
                continue
            try:
                mode, mtime = wanted
                self._into.utime(path, mtime)
                self._into.chmod(path, mode)
            except OSError as error:
                raise self._broken(path, error) from error

    def _place(self, entry: Entry, content: Readable | None) -> None:
        if self._remark is None:
            self._node(entry, content)
            return
        if entry.kind is Kind.DIRECTORY and entry.path not in self._directories:
            self._make_room(entry, self._remark)
        try:
            self._node(entry, content)
        except FileExistsError:  # before a byte of its content was read
            self._make_room(entry, self._remark)
            self._node(entry, content)
        self._own.add(entry.path)

    def _make_room(self, entry: Entry, remark: Remark) -> None:
        """Remove what is in an entry's place; never what a link there leads to."""
        path = entry.path
        try:
            there = self._into.lstat(path)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(there.st_mode):
            if entry.kind is Kind.DIRECTORY:
                return
            try:
                self._into.rmdir(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                reason = "a directory that is not empty is in its place"
                raise refused(self.name, path, reason) from error
            self._directories.pop(path, None)
        else:
            self._into.unlink(path)
        if path not in self._own:
            remark(f"{shown(path)!r} replaces that of an earlier source")

    def _node(self, entry: Entry, content: Readable | None) -> None:
        into, path = self._into, entry.path
        match entry.kind:
            case Kind.DIRECTORY:
                self._ensure(path)
                self._directories[path] = (entry.mode & _PERMISSIONS, entry.mtime)
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
            end, hole = 0, False
            while part := content.read(CHUNK):
                end += len(part)
                if hole := part == _HOLE:
                    os.lseek(fd, end, os.SEEK_SET)
                    continue
                while part:
                    part = part[os.write(fd, part) :]
            if hole:
                os.ftruncate(fd, end)  # what ends in a hole has its size from here
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
            there = self._into.lstat(path)
            was = (stat.S_IMODE(there.st_mode), int(there.st_mtime))
            self._directories[path] = was if self._remark is not None else None
            return
        if self._owner is not None:
            self._into.chown(path, *self._owner)
        self._directories[path] = (0o755, self._unsaid)

    def _broken(self, path: str, error: OSError) -> BuilditError:
        hint = "free some space, then run again" if error.errno == errno.ENOSPC else None
        return StoreError(
            f"cannot write {shown(path)!r}: {error.strerror}",
            place=self.name,
            hint=hint or "check the disk and its permissions, then run again",
        )
