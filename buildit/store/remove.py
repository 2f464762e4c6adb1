"""Remove a tree that somebody else shaped: any modes, any depth, never through a symlink."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from buildit.store.durable import token

LISTING_TRIES = 16
_DEPTH = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a file or directory and all below it; nothing where there is none.

    Directories without permissions are opened up first. One that lies deeper than 64 levels is
    moved to the top and emptied from there, so that neither the stack nor open files bound it.

    Raises:
        OSError: something belongs to another user or is a mount point.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        path.unlink(missing_ok=True)
        return
    parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        top = _open_directory(path.name, parent)
    finally:
        os.close(parent)
    try:
        while _empty(top, top, 0):
            pass
    finally:
        os.close(top)
    with suppress(FileNotFoundError):
        path.rmdir()


def listed(directory: int | str) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
    """As os.scandir, which Python does not begin again where a signal interrupts it (EINTR)."""
    for _ in range(LISTING_TRIES):
        with suppress(InterruptedError):
            return os.scandir(directory)
    return os.scandir(directory)


def _open_directory(name: str, parent: int) -> int:
    """Open a directory that may forbid it; its mode is opened up where need be."""
    try:
        fd = os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        _open_up(name, parent)
        fd = os.open(name, _OPEN, dir_fd=parent)
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o700 != 0o700:
        # Another user's directory: root removes from it with any mode.
        with suppress(PermissionError):
            os.fchmod(fd, 0o700)
    return fd


def _open_up(name: str, parent: int) -> None:
    # O_PATH needs no permission on the directory itself and pins the inode, so that chmod through
    # /proc cannot be led elsewhere by a symlink put in its place.
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _empty(directory: int, top: int, depth: int) -> bool:
    """Empty a directory; True where something was moved to the top and waits there."""
    moved = False
    with listed(directory) as found:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_directory in names:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
        elif depth >= _DEPTH:
            _open_up(name, directory)  # moving a directory rewrites its `..`
            os.rename(name, f"{token()}.deep", src_dir_fd=directory, dst_dir_fd=top)
            moved = True
        else:
            inner = _open_directory(name, directory)
            try:
                moved |= _empty(inner, top, depth + 1)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=directory)
    return moved
