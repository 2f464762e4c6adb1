"""flock(2) locks: they end with their holder, so none is ever stale and no pid is trusted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.errors import Interrupted

if TYPE_CHECKING:
    import threading

_LOOK = 0.05  # seconds between looks at a lock

Waiting = Callable[[str], None]
"""Called once, with what is known of the holder, before a lock is waited for."""


def start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot; empty where unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    # The command's name may hold spaces and parentheses; fields are counted after the last one.
    fields = text.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def holder_line() -> bytes:
    """What a lock file says of its holder, for people only."""
    pid = os.getpid()
    return f"pid {pid} start {start_time(pid)}\n".encode()


def quietly(_: str) -> None:
    """Wait without a word."""


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def try_lock(fd: int) -> bool:
    """Take the lock at once, or not at all."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a lock with others that share it; the file stays."""
    fd = open_lock(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


@contextmanager
def exclusive(path: Path, waiting: Waiting = quietly) -> Iterator[None]:
    """Hold a lock alone; the file stays."""
    fd = open_lock(path)
    try:
        if not try_lock(fd):
            waiting(_holder(fd))
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def passing(
    path: Path, waiting: Waiting = quietly, stop: threading.Event | None = None
) -> Iterator[None]:
    """Hold a lock alone whose file exists only while somebody wants it (one per key).

    Raises:
        Interrupted: `stop` was set before the lock was ours.
    """
    fd = _take(path, waiting, stop)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, holder_line(), 0)
        yield
    finally:
        # Unlinked while it is held: whoever waits on this inode sees that it lost its name.
        # A name that cannot go is harmless: the next start removes it.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(fd)


def _take(path: Path, waiting: Waiting, stop: threading.Event | None) -> int:
    told = False
    while True:
        fd = open_lock(path)
        try:
            if not try_lock(fd):
                if not told:
                    waiting(_holder(fd))
                    told = True
                _wait(fd, stop)
            if is_named(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _wait(fd: int, stop: threading.Event | None) -> None:
    """Until the lock is ours; a wait that can be ended has to look, flock(2) itself only waits."""
    if stop is None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    while not try_lock(fd):
        if stop.wait(_LOOK):
            raise Interrupted("waiting for a lock was interrupted")


def is_named(fd: int, path: Path) -> bool:
    """False where the file was unlinked, or replaced, since it was opened."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(fd: int) -> str:
    return os.pread(fd, 200, 0).decode("ascii", "replace").strip()
