"""What a running sandbox uses of the disk and, without a cgroup, of memory and processes.

Read from outside: a build cannot lie about it, only be faster than the next look; its rlimits
bound each single file and process meanwhile.

Anonymous pages are each process's own, `tree_use` sums them. The rest is shmem, four ways to it
(proc(5), tmpfs(5), memfd_create(2)): files in /tmp and /dev/shm, which their mounts count; memfds,
by the descriptors that are open on them; shared mappings, by what is mapped of each (Pss: a page
that several map counts once). What only a message in a socket, a detached SysV segment or a pipe
holds cannot be seen from outside: a cgroup counts that, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildit.model.config import Limits

LimitWatch = Callable[[], str | None]
"""Names the limit that is exceeded now, or None."""

_DEPTH = 200  # deeper directories are not counted (an open descriptor each), only the free space
RESERVE = 256 << 20
"""Bytes of a file system that builds leave to the store itself."""
_PER_FILE = 512  # bytes that a name and an inode cost at least
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PLACES = ("tmp", "dev/shm")
_KERNELS = ("/memfd:", "/dev/zero", "/SYSV", "[anon_shmem:")  # names of what lies on no mount
_MAPPING = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+) (\d+) *(.*)$")

_File = tuple[str, int]  # device and inode


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


def shared_memory(pids: Sequence[int], mapped: int, enough: int) -> int:
    """Bytes of shmem that these processes hold, each page once.

    `pids` are of one sandbox, parents first. `mapped` is an upper bound of what they map, in bytes:
    mappings are read, which costs a walk over page tables, only where all may come to `enough`.
    """
    total = _mounted(pids)
    files = dict(_held(pids))
    if total + sum(files.values()) + mapped < enough:
        return total + sum(files.values())
    proportional: dict[_File, int] = {}
    for pid in pids:
        for file, size in _mappings(pid):
            proportional[file] = proportional.get(file, 0) + size
    every = {*files, *proportional}
    return total + sum(max(files.get(one, 0), proportional.get(one, 0)) for one in every)


def _mounted(pids: Sequence[int]) -> int:
    """What the tmpfs mounts of the sandbox hold: deeper processes are the ones inside."""
    for pid in reversed(pids):
        with contextlib.suppress(OSError):
            paths = [f"/proc/{pid}/root/{place}" for place in _PLACES]
            if all(_is_inside(path, place) for path, place in zip(paths, _PLACES, strict=True)):
                return sum(map(_used, paths))
    return 0


def _is_inside(path: str, place: str) -> bool:
    try:
        ours = os.stat(f"/{place}").st_dev
    except FileNotFoundError:
        ours = -1
    return os.stat(path).st_dev != ours


def _used(path: str) -> int:
    state = os.statvfs(path)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _held(pids: Sequence[int]) -> Iterator[tuple[_File, int]]:
    """Each memfd that is open somewhere, and the bytes that it occupies."""
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{directory}/{name}").startswith(_KERNELS):
                        seen = os.stat(f"{directory}/{name}")
                        yield _file(seen.st_dev, seen.st_ino), seen.st_blocks * 512


def _file(device: int, inode: int) -> _File:
    return f"{os.major(device):02x}:{os.minor(device):02x}", inode


def _mappings(pid: int) -> Iterator[tuple[_File, int]]:
    """The share of a process in each shared mapping that is no file of a mount, in bytes."""
    file: _File | None = None
    with contextlib.suppress(OSError):
        for line in Path("/proc", str(pid), "smaps").read_bytes().splitlines():
            if (found := _MAPPING.match(line)) is not None:
                shared = found[3].decode("utf-8", "replace").startswith(_KERNELS)
                file = (found[1].decode(), int(found[2])) if shared else None
            elif file is not None and line.startswith(b"Pss:"):
                yield file, int(line.split()[1]) << 10


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
