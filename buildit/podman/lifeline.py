"""What a stack that somebody looks at hangs on: when the command that brought it up dies, in
whatever way, the stack is taken down.

A watcher (a shell that reads a pipe whose other end only that command holds, in a process group of
its own) becomes `buildit down` once the pipe ends without the word that all may stay. It has the
command's lock, an open file that both share: no other command changes the stack in between. The
processes of podman that the command had begun are of the watcher's group, and waited for.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import StoreError
from buildit.home import cache_of
from buildit.podman.engine import own_module

WATCHED = "BUILDIT_LIFELINE"
"""The variable that tells `buildit down` that it was a watcher: the number of the lock's file, and
how the stack is to end."""

_KEEP, _HURRY = b"keep\n", b"hurry\n"
_PATIENCE = 120.0  # seconds for what podman had begun
_PAUSE = 0.02

# Ctrl-C of the terminal is for the command; the words that it writes: see above.
_WATCHER = """trap '' INT TERM HUP QUIT
while read -r word; do
    [ "$word" = keep ] && exit 0
    how=$word
done
BUILDIT_LIFELINE="$1:$how"
export BUILDIT_LIFELINE
shift
exec "$@"
"""


@dataclass(slots=True)
class StackLock:
    """The right to change the stack of one directory; held by one command at a time."""

    fd: int
    held: bool = False

    def take(self, waiting: Callable[[], None]) -> None:
        """Wait until nobody else has it; `waiting` is called once where somebody has."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        self.held = True

    def give(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.held = False


@contextmanager
def stack_lock(directory: str) -> Iterator[StackLock]:
    """The lock of a directory's stack, not taken yet.

    Raises:
        StoreError: its file cannot be made.
    """
    name = hashlib.sha256(directory.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    place = Path(cache_of(os.environ) or "/tmp", "buildit-stacks")  # noqa: S108 - as for no home
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(place / f"{name}.lock", flags, 0o600)
    except OSError as error:
        message = f"the lock of the stack cannot be made: {error.strerror}"
        raise StoreError(message, place=str(place)) from error
    try:
        yield StackLock(fd)
    finally:
        os.close(fd)


@dataclass(slots=True)
class StackLifeline:
    """`group` is what processes of podman join."""

    group: int
    _pipe: int

    def hurry(self) -> None:
        """From now on the end is at once, without grace."""
        self._write(_HURRY)

    def keep(self) -> None:
        """The stack stays whatever becomes of this process."""
        self._write(_KEEP)

    def _write(self, word: bytes) -> None:
        with suppress(OSError):  # a watcher that somebody killed
            os.write(self._pipe, word)


@contextmanager
def stack_lifeline(directory: str, lock: StackLock) -> Iterator[StackLifeline]:
    """A watcher for as long as the block takes; the stack goes down where the process dies in it,
    and stays where the block ends."""
    reading, writing = os.pipe()
    command = own_module("buildit", "down", directory)
    try:
        watcher = subprocess.Popen(
            ("/bin/sh", "-c", _WATCHER, "sh", str(lock.fd), *command),
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock.fd,),
            process_group=0,
            cwd="/",
        )
    finally:
        os.close(reading)
    line = StackLifeline(watcher.pid, writing)
    try:
        yield line
    finally:
        line.keep()
        os.close(writing)
        watcher.wait()


@dataclass(frozen=True, slots=True)
class WatcherWords:
    """What a watcher that becomes `down` was told."""

    fd: int
    hurry: bool


def watched_by(environ: dict[str, str]) -> WatcherWords | None:
    """What this process was told where it was a watcher; no other process is told so, too."""
    number, _, how = environ.pop(WATCHED, "").partition(":")
    return WatcherWords(int(number), how == "hurry") if number.isdecimal() else None


def wait_for_group() -> None:
    """Wait until no other process is in this one's process group: those of podman that a command
    had begun before it died."""
    end = time.monotonic() + _PATIENCE
    while any(_members(os.getpgrp())) and time.monotonic() < end:
        time.sleep(_PAUSE)


def _members(group: int) -> Iterator[int]:
    """proc(5): the fields of `stat` behind the name are state, parent and process group."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with suppress(OSError, IndexError, ValueError):
                fields = Path("/proc", name, "stat").read_bytes().rpartition(b") ")[2].split()
                if int(fields[2]) == group and fields[0] != b"Z":
                    yield int(name)
