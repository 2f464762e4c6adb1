"""Every file operation on trees that somebody else shaped: through a directory's descriptor.

Paths are relative to the root and plain, and are walked one component at a time, each opened by
openat(2) below the one before. No operation here follows a symbolic link, whatever the tree holds
(THREATS.md, 5.1).

A `Root` keeps the descriptor of the last parent, so it is for one thread, and for trees that no
other process changes meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Self

from buildit.archive.admit import path_bytes, shown
from buildit.errors import IntegrityError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP = _HANDLE | os.O_DIRECTORY


class Root:
    """A directory, and everything beneath it; "" names the directory itself.

    All methods raise `IntegrityError` where a path is unsafe or goes through a symbolic link, and
    `OSError` for what any file operation may meet (absent, exists, full disk).
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._parent_path = b""
        self._parent_fd = fd

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a host directory; the path itself is trusted and may be a symbolic link.

        Raises:
            OSError: it is no directory or cannot be opened.
        """
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def inner(self, path: str) -> Self:
        """A directory beneath this one as a root of its own.

        Raises:
            IntegrityError: it is a symbolic link, or lies behind one.
            OSError: it is no directory.
        """
        return type(self)(self._directory(_checked(path), path))

    def close(self) -> None:
        self._forget()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = self._parent_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open_read(self, path: str) -> int:
        """A descriptor of a regular file, to read; a FIFO or device never blocks.

        Raises:
            IntegrityError: it is not a regular file.
        """
        fd = self._opened(path, _READ)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _unsafe(path, "it is not a regular file")
        return fd

    def open_file(self, path: str) -> BufferedReader:
        """The same as a stream.

        Raises:
            IntegrityError: it is not a regular file.
        """
        return os.fdopen(self.open_read(path), "rb")

    def create(self, path: str, mode: int) -> int:
        """A descriptor of a file that did not exist, to write, with exactly this mode."""
        directory, name = self._parent(path)
        fd = os.open(name, _CREATE, mode & 0o600, dir_fd=directory)
        try:
            os.fchmod(fd, mode)
        except OSError:
            os.close(fd)
            raise
        return fd

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        directory, name = self._parent(path)
        os.mkdir(name, mode, dir_fd=directory)
        self.chmod(path, mode)  # the umask took its part

    def symlink(self, target: str, path: str) -> None:
        directory, name = self._parent(path)
        os.symlink(path_bytes(target), name, dir_fd=directory)

    def whiteout(self, path: str) -> None:
        """What an overlay takes as a deletion: the one device that any user may make."""
        directory, name = self._parent(path)
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)

    def mark(self, path: str, attribute: str, value: bytes) -> None:
        """Give a directory an attribute."""
        fd = self._opened(path, _DIRECTORY)
        try:
            os.setxattr(fd, attribute, value)
        finally:
            os.close(fd)

    def link(self, existing: str, path: str) -> None:
        """Make `path` a further name of the file or link `existing`."""
        self._from(existing, partial(os.link, follow_symlinks=False), path)

    def rename(self, old: str, path: str) -> None:
        """Move within the tree; a file at `path` is replaced."""
        self._from(old, os.rename, path)
        self._forget()

    def _from(self, old: str, call: Callable[..., None], path: str) -> None:
        above, _, last = _checked(old).rpartition(b"/")
        source = self._directory(above, old)
        try:
            directory, name = self._parent(path)
            call(last, name, src_dir_fd=source, dst_dir_fd=directory)
        finally:
            os.close(source)

    def unlink(self, path: str) -> None:
        directory, name = self._parent(path)
        os.unlink(name, dir_fd=directory)

    def rmdir(self, path: str) -> None:
        directory, name = self._parent(path)
        os.rmdir(name, dir_fd=directory)
        self._forget()

    def readlink(self, path: str) -> str:
        directory, name = self._parent(path)
        return os.readlink(name, dir_fd=directory).decode("utf-8", "surrogateescape")

    def lstat(self, path: str) -> os.stat_result:
        directory, name = self._node(path)
        return os.lstat(name, dir_fd=directory)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, in bytewise order."""
        fd = self._opened(path, _DIRECTORY)
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)
        return [name.decode("utf-8", "surrogateescape") for name in names]

    def chmod(self, path: str, mode: int) -> None:
        """Set the mode of a file or directory.

        Raises:
            IntegrityError: it is a symbolic link.
        """
        fd = self._opened(path, _HANDLE)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise _unsafe(path, "it is a symbolic link")
            # fchmod(2) refuses O_PATH descriptors; their magic link names the very inode
            os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Set the owner of a node, of the link itself where it is one."""
        directory, name = self._node(path)
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)

    def utime(self, path: str, mtime: int) -> None:
        """Set both times of a node, in whole seconds, of the link itself where it is one."""
        directory, name = self._node(path)
        times = (mtime * 10**9, mtime * 10**9)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)

    def walk(
        self, enter: Callable[[str], bool] | None = None
    ) -> Iterator[tuple[str, os.stat_result]]:
        """Every node with its lstat, in the bytewise order of paths; links are never followed.

        `enter` is asked of each directory that was yielded, before what is in it is.
        """
        pending = [(b"", iter(self._children(b"")))]
        while pending:
            above, children = pending[-1]
            for key, found in children:
                if key.endswith(b"/"):
                    deeper = above + key
                    if enter and not enter(deeper[:-1].decode("utf-8", "surrogateescape")):
                        continue
                    pending.append((deeper, iter(self._children(deeper[:-1]))))
                    break
                yield (above + key).decode("utf-8", "surrogateescape"), found
            else:
                pending.pop()

    def _children(self, path: bytes) -> list[tuple[bytes, os.stat_result]]:
        """Names with their lstat; a directory has a second element `name/`, to be entered there.

        So sorted they give the bytewise order of whole paths: `a`, `a-b`, `a/c`.
        """
        fd = self._directory(path, path.decode("utf-8", "surrogateescape"))
        found = []
        try:
            for name in map(os.fsencode, os.listdir(fd)):
                status = os.lstat(name, dir_fd=fd)
                found.append((name, status))
                if stat.S_ISDIR(status.st_mode):
                    found.append((name + b"/", status))
        finally:
            os.close(fd)
        found.sort(key=lambda child: child[0])
        return found

    def _parent(self, path: str) -> tuple[int, bytes]:
        """The descriptor of the directory that holds `path`, and the last part of the path."""
        above, _, name = _checked(path).rpartition(b"/")
        if above != self._parent_path:
            fd = self._directory(above, path)
            self._forget()
            self._parent_path, self._parent_fd = above, fd
        return self._parent_fd, name

    def _forget(self) -> None:
        if self._parent_fd != self._fd:
            os.close(self._parent_fd)
        self._parent_path, self._parent_fd = b"", self._fd

    def _node(self, path: str) -> tuple[int, bytes]:
        """The same, for what the root has as well."""
        return self._parent(path) if path else (self._fd, b".")

    def _opened(self, path: str, flags: int) -> int:
        return _walked(*self._node(path), flags, path)

    def _directory(self, path: bytes, whole: str) -> int:
        return _walked(self._fd, path or b".", _DIRECTORY, whole)


def _walked(held: int, path: bytes, flags: int, whole: str) -> int:
    """A descriptor of what lies beneath the directory `held`; `flags` are for the last component.

    Raises:
        IntegrityError: a component is a symbolic link, or too long.
    """
    parts = path.split(b"/")
    for number, part in enumerate(parts, 1):
        try:
            deeper = os.open(part, flags if number == len(parts) else _STEP, dir_fd=held)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise _unsafe(whole[:80], "it is longer than the system allows") from error
            # with O_DIRECTORY a link is "not a directory"
            refused = error.errno in (errno.ELOOP, errno.ENOTDIR)
            if refused and stat.S_ISLNK(os.lstat(part, dir_fd=held).st_mode):
                raise _unsafe(whole, "it goes through a symbolic link") from error
            raise
        finally:
            if number > 1:
                os.close(held)
        held = deeper
    return held


def _checked(path: str) -> bytes:
    raw = path_bytes(path)
    if b"\0" in raw or any(part in (b"", b".", b"..") for part in raw.split(b"/")):
        raise _unsafe(path, "it is not a plain relative path")
    return raw


def _unsafe(path: str, reason: str) -> IntegrityError:
    hint = "nothing outside the tree was touched; check what put this path there"
    return IntegrityError(f"refusing to use the path {shown(path)!r}: {reason}", hint=hint)
