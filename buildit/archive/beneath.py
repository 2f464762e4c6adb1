"""Every file operation on trees that somebody else shaped: through a directory's descriptor.

Paths are relative to the root and resolved by openat2(2) with BENEATH, NO_SYMLINKS and
NO_MAGICLINKS; kernels and containers without it get a walk of one component at a time. No
operation here follows a symbolic link, whatever the tree holds (THREATS.md, 5.1).

A `Root` keeps the descriptor of the last parent, so it is for one thread, and for trees that no
other process changes meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO, Self

from buildit.archive.tar.names import path_bytes, shown
from buildit.errors import IntegrityError

_OPENAT2 = 437  # the same on x86_64, aarch64 and every architecture since Linux 5.6
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS | NO_SYMLINKS | BENEATH, linux/openat2.h
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_RACES = 8  # openat2 answers EAGAIN where a rename raced with it; then it is asked again

Opener = Callable[[int, bytes, int, int], int]
"""(directory, relative path, flags, mode) -> descriptor; never through a symbolic link."""


class Root:
    """A directory, and everything beneath it; "" names the directory itself.

    All methods raise `IntegrityError` where a path is unsafe or goes through a symbolic link, and
    `OSError` for what any file operation may meet (absent, exists, full disk).
    """

    def __init__(self, fd: int, opener: Opener) -> None:
        self._fd = fd
        self._open = opener
        self._parent_path = b""
        self._parent_fd = fd

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a host directory; the path itself is trusted and may be a symbolic link.

        Raises:
            OSError: it is no directory or cannot be opened.
        """
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return cls(fd, opener_for(fd))

    def inner(self, path: str) -> Self:
        """A directory beneath this one as a root of its own.

        Raises:
            IntegrityError: it is a symbolic link, or lies behind one.
            OSError: it is no directory.
        """
        fd = self._beneath_bytes(_checked(path), _DIRECTORY, path)
        return type(self)(fd, self._open)

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
        fd = self._beneath(path, _READ, 0)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _unsafe(path, "it is not a regular file")
        return fd

    def open_file(self, path: str) -> BinaryIO:
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

    def link(self, existing: str, path: str) -> None:
        """Make `path` a further name of the file or link `existing`."""
        checked = _checked(existing)
        above, _, last = checked.rpartition(b"/")
        source = self._beneath_bytes(above, _DIRECTORY, existing)
        try:
            directory, name = self._parent(path)
            os.link(last, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def rename(self, old: str, path: str) -> None:
        """Move within the tree; a file at `path` is replaced."""
        checked = _checked(old)
        above, _, last = checked.rpartition(b"/")
        source = self._beneath_bytes(above, _DIRECTORY, old)
        try:
            directory, name = self._parent(path)
            os.rename(last, name, src_dir_fd=source, dst_dir_fd=directory)
        finally:
            os.close(source)
            self._forget()

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
        if not path:
            return os.fstat(self._fd)
        directory, name = self._parent(path)
        return os.lstat(name, dir_fd=directory)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, in bytewise order."""
        fd = self._beneath(path, _DIRECTORY, 0)
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
        fd = self._beneath(path, _HANDLE, 0)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise _unsafe(path, "it is a symbolic link")
            # fchmod(2) refuses O_PATH descriptors; their magic link names the very inode
            os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Set the owner of a node, of the link itself where it is one."""
        if not path:
            os.fchown(self._fd, uid, gid)
            return
        directory, name = self._parent(path)
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)

    def utime(self, path: str, mtime: int) -> None:
        """Set both times of a node, in whole seconds, of the link itself where it is one."""
        times = (mtime * 10**9, mtime * 10**9)
        if not path:
            os.utime(self._fd, ns=times)
            return
        directory, name = self._parent(path)
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
        fd = self._beneath_bytes(path, _DIRECTORY, path.decode("utf-8", "surrogateescape"))
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
            fd = self._beneath_bytes(above, _DIRECTORY, path)
            self._forget()
            self._parent_path, self._parent_fd = above, fd
        return self._parent_fd, name

    def _forget(self) -> None:
        if self._parent_fd != self._fd:
            os.close(self._parent_fd)
        self._parent_path, self._parent_fd = b"", self._fd

    def _beneath(self, path: str, flags: int, mode: int) -> int:
        if not path:
            return self._open(self._fd, b".", flags, mode)
        directory, name = self._parent(path)
        # one component below a resolved parent needs no more than O_NOFOLLOW, and no ctypes
        return _guarded(by_walk, directory, name, flags, path)

    def _beneath_bytes(self, path: bytes, flags: int, whole: str) -> int:
        return _guarded(self._open, self._fd, path or b".", flags, whole)


def _guarded(opener: Opener, directory: int, path: bytes, flags: int, whole: str) -> int:
    try:
        return opener(directory, path, flags, 0)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV):
            raise _unsafe(whole, "it goes through a symbolic link") from error
        if error.errno == errno.ENAMETOOLONG:
            raise _unsafe(whole[:80], "it is longer than the system allows") from error
        raise


def _checked(path: str) -> bytes:
    raw = path_bytes(path)
    if b"\0" in raw or any(part in (b"", b".", b"..") for part in raw.split(b"/")):
        raise _unsafe(path, "it is not a plain relative path")
    return raw


def _unsafe(path: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"refusing to use the path {shown(path)!r}: {reason}",
        hint="nothing outside the tree was touched; check what put this path there",
    )


def opener_for(fd: int) -> Opener:
    """openat2 where the kernel (and the container around us) lets it through, else a walk."""
    try:
        os.close(by_openat2(fd, b".", _DIRECTORY, 0))
    except OSError as error:
        # a seccomp filter that does not know the call answers EPERM (moby before 20.10)
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return by_walk
        raise
    return by_openat2


def by_openat2(directory: int, path: bytes, flags: int, mode: int) -> int:
    """openat2(2): struct open_how is flags, mode, resolve, each an u64."""
    if not flags & os.O_PATH:
        flags &= ~os.O_NOFOLLOW  # NO_SYMLINKS says ELOOP of a link; this would make it ENOTDIR
    how = struct.pack("=QQQ", flags, mode, _RESOLVE)
    number = errno.EAGAIN
    for _ in range(_RACES):
        fd = int(_syscall()(_OPENAT2, directory, path, how, len(how)))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), os.fsdecode(path))


def by_walk(directory: int, path: bytes, flags: int, mode: int) -> int:
    """The same with openat(2): each component opened without following a link."""
    *above, last = path.split(b"/")
    held = os.dup(directory)
    try:
        for part in above:
            deeper = _step(held, part)
            os.close(held)
            held = deeper
        try:
            return os.open(last, flags | os.O_NOFOLLOW, mode, dir_fd=held)
        except NotADirectoryError:
            _refuse_link(held, last)
            raise
    finally:
        os.close(held)


def _step(directory: int, name: bytes) -> int:
    if name == b"..":
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(name))
    try:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=directory)
    except NotADirectoryError:
        _refuse_link(directory, name)
        raise


def _refuse_link(directory: int, name: bytes) -> None:
    """openat with O_DIRECTORY says ENOTDIR of a link; openat2 says ELOOP. Make them agree."""
    if stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(name))


@cache
def _syscall() -> Callable[[int, int, bytes, bytes, int], int]:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    return call
