"""What a running sandbox uses of the disk and, without a cgroup, of memory and processes.

Read from outside: a build cannot lie about it, only be faster than the next look; its rlimits
bound each single file and process meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from buildit.model.config import Limits
from buildit.sandbox.memory import shared_memory

Look = Callable[[], str | None]
"""Names the limit that is exceeded now, or None."""

_DEPTH = 200  # deeper directories are not counted (an open descriptor each), only the free space
RESERVE = 256 << 20
"""Bytes of a file system that builds leave to the store itself."""
_PER_FILE = 512  # bytes that a name and an inode cost at least
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def disk_use(directory: Path, enough: int) -> int:
    """Bytes that a tree occupies, hostile or changing while it is read; stops above `enough`.

    Symbolic links are never followed; hard links count once per name.
    """
    stack: list[tuple[int, list[str]]] = []
    total = 0
    try:
        _enter(stack, directory, None)
        while stack and total <= enough:
            fd, names = stack[-1]
            if not names:
                os.close(fd)
                stack.pop()
                continue
            total += _one(stack, fd, names.pop())
    finally:
        for fd, _ in stack:
            os.close(fd)
    return total


def _one(stack: list[tuple[int, list[str]]], fd: int, name: str) -> int:
    try:
        seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return 0  # gone meanwhile
    if stat.S_ISDIR(seen.st_mode) and len(stack) < _DEPTH:
        _enter(stack, name, fd)
    return seen.st_blocks * 512 + _PER_FILE


def _enter(stack: list[tuple[int, list[str]]], name: str | Path, parent: int | None) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):  # gone, closed to us or replaced meanwhile
        fd = os.open(name, flags, dir_fd=parent)
        try:
            stack.append((fd, os.listdir(fd)))
        except OSError:
            os.close(fd)


@dataclass(slots=True)
class DiskWatch:
    """Walks the writable directories when the file system's free space says that it may matter.

    That is when as much has gone as would break the limit, and every half minute. `reserve` bytes
    must stay free on the file system for the store itself: `full` says that they do not.
    """

    directories: tuple[Path, ...]
    limit: int
    reserve: int = RESERVE
    _used: int = 0
    _free: int = field(default=-1)  # when the walk that gave `_used` began
    _soonest: float = 0.0
    _latest: float = 0.0

    def __call__(self) -> str | None:
        if not self.directories:
            return None
        now = time.monotonic()
        state = os.statvfs(self.directories[0])
        free = state.f_bavail * state.f_frsize
        if self._free < 0:
            self._free, self._latest = free, now + 2.0  # short builds are never walked
        no_names = state.f_files > 0 and state.f_favail < 1024
        if free < self._free and (free < self.reserve or no_names):
            return "full"
        suspect = self._used + self._free - free > self.limit
        if now < (self._soonest if suspect else self._latest):
            return None
        self._free = free
        self._used = sum(disk_use(each, self.limit) for each in self.directories)
        spent = time.monotonic() - now
        self._soonest = now + max(0.25, 20 * spent)
        self._latest = now + max(30.0, 20 * spent)
        return "disk" if self._used > self.limit else None


@dataclass(frozen=True, slots=True)
class Use:
    """What a process and all its descendants use: `pids`, parents first, and their `threads`.

    `memory` are resident bytes that one process alone has; `mapped` bounds from above the bytes of
    files and of shared memory that they map.
    """

    pids: tuple[int, ...]
    threads: int
    memory: int
    mapped: int


def tree_use(pid: int) -> Use:
    """Sum over /proc (proc(5), `stat` and `statm`); processes that end meanwhile count nothing."""
    parents: dict[int, list[int]] = {}
    threads: dict[int, int] = {}
    for name in os.listdir("/proc"):
        fields = _stat(name) if name.isdigit() else None
        if fields is not None:
            parents.setdefault(int(fields[1]), []).append(int(name))
            threads[int(name)] = int(fields[17])
    pids = [pid]
    memory = mapped = 0
    for each in pids:
        pids += parents.get(each, [])
        resident, shared = _resident(each)
        memory += resident - shared
        mapped += shared
    return Use(tuple(pids), sum(threads.get(each, 0) for each in pids), memory, mapped)


def _stat(name: str) -> list[str] | None:
    """Fields of /proc/N/stat from `state` on (the name before may hold spaces and brackets)."""
    try:
        text = Path("/proc", name, "stat").read_bytes()
    except OSError:
        return None
    return text.rpartition(b") ")[2].decode("ascii", "replace").split()


def _resident(pid: int) -> tuple[int, int]:
    """Resident bytes, and those of them that are of files or of shared memory."""
    try:
        fields = Path("/proc", str(pid), "statm").read_text().split()
    except OSError:
        return 0, 0
    return int(fields[1]) * _PAGE_BYTES, int(fields[2]) * _PAGE_BYTES


@dataclass(slots=True)
class TreeWatch:
    """The limits on memory and processes where no cgroup keeps them."""

    pid: int
    limits: Limits
    _next: float = 0.0

    def __call__(self) -> str | None:
        now = time.monotonic()
        if now < self._next:
            return None
        use = tree_use(self.pid)
        left = self.limits.memory_bytes - use.memory
        over = left < 0 or shared_memory(use.pids, use.mapped, left) > left
        self._next = now + max(0.2, 20 * (time.monotonic() - now))
        if over:
            return "memory"
        return "processes" if use.threads >= self.limits.processes else None
