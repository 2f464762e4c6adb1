"""Mounts in the root of a container that is put together: they are where the links of the image
lead, within it."""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from buildit.errors import BuildError
from buildit.sandbox.spaces import call


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError."""
    text = [one.encode() for one in (source, target, kind)]
    call("mount", *text, ctypes.c_ulong(flags), options.encode() if options else None)


_OPENAT2 = 437
_ELSEWHERE = "name another place for a volume: --volume SRC:DEST; /proc, /dev and /sys must be free"


class Inside:
    """The root as a program inside sees it: links lead nowhere else (openat2(2), RESOLVE_IN_ROOT),
    whatever the image holds."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: list[int] = []

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (*self._open, self._root):
            os.close(descriptor)

    def point(self, path: str, *, directory: bool = True) -> str:
        """A path of this process for what lies there, made with the directories above it where it
        is not there.

        Raises:
            BuildError: it cannot be made.
        """
        place = f"/{path.strip('/')} inside"
        try:
            descriptor = self._found(path) if self._has(path) else self._made(path, directory)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            if isinstance(error, FileExistsError):
                reason = "a link there leads nowhere"
            raise BuildError(
                f"nothing can be mounted at {place}: {reason}", hint=_ELSEWHERE
            ) from error
        self._open.append(descriptor)
        found, root = os.fstat(descriptor), os.fstat(self._root)
        if (found.st_dev, found.st_ino) == (root.st_dev, root.st_ino):
            reason = "a link there leads to the root"
            raise BuildError(f"nothing can be mounted at {place}: {reason}", hint=_ELSEWHERE)
        if stat.S_ISDIR(found.st_mode) != directory:
            what = "no directory" if directory else "a directory"
            reason = f"the image has {what} there"
            raise BuildError(f"nothing can be mounted at {place}: {reason}", hint=_ELSEWHERE)
        return f"/proc/self/fd/{descriptor}"

    def mounted(self, path: str, kind: str, flags: int, options: str = "") -> str:
        """Mount a file system there; where it is, behind all links of the image.

        Raises:
            OSError, BuildError: it cannot be mounted.
        """
        mount(kind, self.point(path), kind, flags, options)
        return os.readlink(self.point(path))

    def _has(self, path: str) -> bool:
        try:
            os.close(self._found(path))
        except FileNotFoundError:
            return False
        return True

    def _found(self, path: str) -> int:
        # struct open_how: __u64 flags, mode, resolve
        how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, 0x10)
        words = (self._root, os.fsencode(path), how, ctypes.c_size_t(len(how)))
        return call("syscall", ctypes.c_long(_OPENAT2), *words)

    def _made(self, path: str, directory: bool) -> int:
        above, _, name = path.rstrip("/").rpartition("/")
        parent = self._found(above or "/") if self._has(above or "/") else self._made(above, True)
        try:
            if directory:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=parent))
        finally:
            os.close(parent)
        return self._found(path)
