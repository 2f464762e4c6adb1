"""Files by name: one way to open what others may have put there, one to replace a file whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from buildit.errors import IntegrityError


def is_beneath(path: Path, directory: Path) -> bool:
    """Whether a path, as it is written, is that of a directory or leads to what lies in it; both
    may begin with `..`, or be `.`."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(directory))


class NotRegularError(IntegrityError):
    """A name that leads to no regular file; `mode` is the `st_mode` of what it leads to."""

    def __init__(self, path: Path, mode: int) -> None:
        hint = "run `buildit store verify`"
        super().__init__("it is not a regular file", place=str(path), hint=hint)
        self.mode = mode


def open_regular(path: Path, *, follow: bool = False, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading; waits on no FIFO, opens no terminal, and follows a symbolic
    link only where `follow` says so (a file of the user's own).

    Raises:
        NotRegularError: it is no regular file.
        OSError: it cannot be opened.
    """
    links = 0 if follow else os.O_NOFOLLOW
    fd = os.open(path, os.O_RDONLY | links | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise NotRegularError(path, mode)
    return open(fd, "rb", buffering)


@contextmanager
def replacing(
    path: Path, *, mode: int = 0o644, sync: bool = False, temporary: Path | None = None
) -> Iterator[BinaryIO]:
    """A new file that takes the name `path` at once when the block ends well, replacing what has
    it; where the block fails, nothing is left. It is written beside `path`, or as `temporary`, and
    is durable before it has its name where `sync` says so.

    Raises:
        OSError: the disk is full or refuses.
    """
    beside = temporary or path.with_name(f".{path.name}.new-{os.getpid()}-{os.urandom(4).hex()}")
    fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(fd, mode)
            if sync:
                os.fsync(fd)
        os.rename(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
