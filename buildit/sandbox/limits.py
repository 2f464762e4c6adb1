"""How much a sandbox may use, and what enforces it: a cgroup (v1 or v2), else rlimits and a watch.

A group is taken where this process may make one without changing anybody's settings: as root on
v1 below its own group, on v2 below the nearest ancestor that hands memory and pids down. Nothing
is delegated otherwise, and `TreeWatch` counts instead; `DiskWatch` counts in any case.

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
import errno
import os
import re
import resource
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from os.path import exists
from pathlib import Path

from buildit.model.config import Limits

_GROUP = "buildit"  # the group that holds one group per running sandbox
_SLACK = 8  # processes of ours in the chain: unshare, two shells, mount, bubblewrap and its init
_NAME = re.compile(r"(\d+)-[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups can be made: directories of the memory and the pids controller (v2: one)."""

    version: int
    memory: Path
    pids: Path

    @property
    def directories(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.memory, self.pids)))


@lru_cache(1)
def hierarchies(mountinfo: str, cgroup: str) -> tuple[Hierarchy, ...]:
    """The places to try, best first, from /proc/self/mountinfo and /proc/self/cgroup (proc(5)).

    Host paths of this process's own groups; on v2 each of their ancestors follows.
    """
    own = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    mounts = _cgroup_mounts(mountinfo)
    found = []
    if "memory" in mounts and "pids" in mounts and {"memory", "pids"} <= own.keys():
        memory, pids = (_below(*mounts[name], own[name]) for name in ("memory", "pids"))
        found.append(Hierarchy(1, memory, pids))
    if "" in mounts and "" in own:
        root = mounts[""][1]
        here = _below(*mounts[""], own[""])
        while here.is_relative_to(root):
            found.append(Hierarchy(2, here, here))
            here = here.parent
    return tuple(found)


def _cgroup_mounts(mountinfo: str) -> dict[str, tuple[str, Path]]:
    """Controller -> (root of the mount inside the hierarchy, mount point); "" is v2."""
    mounts: dict[str, tuple[str, Path]] = {}
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, (kind, _, options) = head.split(" "), tail.split(" ", 2)
        place = (_unescaped(fields[3]), Path(_unescaped(fields[4])))
        if kind == "cgroup2":
            mounts.setdefault("", place)
        elif kind == "cgroup":
            for name in options.split(","):
                mounts.setdefault(name, place)
    return mounts


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)


def _below(root: str, point: Path, path: str) -> Path:
    inside = path if root == "/" else path.removeprefix(root)
    return point / inside.lstrip("/")


class CGroup(Hierarchy):
    """The groups of one running sandbox."""

    __slots__ = ()

    def add(self, pid: int) -> None:
        """Move a process in; what it forks later follows.

        Raises:
            OSError: this process may not move it.
        """
        for directory in self.directories:
            _put(directory / "cgroup.procs", str(pid))

    def exceeded(self) -> str | None:
        """`memory` or `processes`, once the kernel has refused or killed for it."""
        memory = "memory.oom_control" if self.version == 1 else "memory.events"
        if _counter(self.memory / memory, "oom_kill") > 0:
            return "memory"
        return "processes" if _counter(self.pids / "pids.events", "max") > 0 else None

    def close(self, patience: float = 2.0) -> None:
        """Remove the groups; the kernel may need some milliseconds to let go of the last task."""
        for directory in self.directories:
            _remove(directory, patience)
            _remove(directory.parent, patience=0.0)  # stays while others run


@contextlib.contextmanager
def opened_group(limits: Limits) -> Iterator[CGroup | None]:
    """A fresh group with these limits, or None where none can be had. Sweeps dead ones first."""
    proc = Path("/proc/self")
    places = hierarchies((proc / "mountinfo").read_text(), (proc / "cgroup").read_text())
    # twice, because another buildit may just have removed _GROUP
    group = next(filter(None, (open_group_in(place, limits) for place in places * 2)), None)
    try:
        yield group
    finally:
        if group is not None:
            group.close()


def open_group_in(place: Hierarchy, limits: Limits) -> CGroup | None:
    """A fresh group at one place, or None where that place hands nothing down to this process."""
    name = f"{os.getpid()}-{os.urandom(4).hex()}"
    group = CGroup(place.version, place.memory / _GROUP / name, place.pids / _GROUP / name)
    try:
        for directory in group.directories:
            _shared(directory.parent, place.version)
            directory.mkdir()
        _configure(group, limits)
    except OSError:
        group.close(patience=0.0)
        return None
    return group


def _shared(directory: Path, version: int) -> None:
    """Make the group of groups, and remove what killed buildits left in it."""
    if version == 2:
        handed = (directory.parent / "cgroup.subtree_control").read_text().split()
        if not {"memory", "pids"} <= set(handed):
            raise OSError(errno.EOPNOTSUPP, "memory and pids are not handed down")
    directory.mkdir(exist_ok=True)
    if version == 2:
        _put(directory / "cgroup.subtree_control", "+memory +pids")
    for child in directory.iterdir():
        found = _NAME.fullmatch(child.name)
        if found is not None and not Path("/proc", found.group(1)).exists():
            _remove(child, patience=0.0)


def _configure(group: CGroup, limits: Limits) -> None:
    most = str(limits.memory_bytes)
    limit, swap, swap_limit = "memory.max", "memory.swap.max", "0"
    if group.version == 1:
        limit, swap, swap_limit = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", most
    _put(group.memory / limit, most)
    with contextlib.suppress(FileNotFoundError):  # kernels without swap accounting
        _put(group.memory / swap, swap_limit)
    _put(group.pids / "pids.max", str(limits.processes + _SLACK))


def _put(path: Path, text: str) -> None:
    with path.open("r+b", 0) as file:  # never create: on a plain directory it fails
        file.write(text.encode())


def _counter(path: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        counters = dict(line.partition(" ")[::2] for line in path.read_text().splitlines())
        return int(counters.get(name, 0))
    return 0


def _remove(directory: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while directory.exists():
        with contextlib.suppress(OSError):
            directory.rmdir()
            return
        if time.monotonic() >= end:
            return
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class HardLimits:
    """What this process may hand down at most (getrlimit(2)), in its units; None is no limit."""

    files: int | None = None
    stack: int | None = None
    file_bytes: int | None = None
    address_bytes: int | None = None
    data_bytes: int | None = None
    resident_bytes: int | None = None
    locked_bytes: int | None = None
    cpu_seconds: int | None = None
    processes: int | None = None

    @classmethod
    def current(cls) -> HardLimits:
        names = "NOFILE STACK FSIZE AS DATA RSS MEMLOCK CPU NPROC"
        kinds = (getattr(resource, f"RLIMIT_{name}") for name in names.split())
        hard = (resource.getrlimit(kind)[1] for kind in kinds)
        return cls(*(None if most == resource.RLIM_INFINITY else most for most in hard))

    def ulimits(self, limits: Limits) -> list[str]:
        """How many processes, then pairs for the shell's `ulimit -X N`: the same inside whatever
        the caller's are.

        A group's limit on processes lies below the rlimit, since only a group can tell of it.
        Files and stack: 1024 and 8 MiB, which a build may raise to 4096 and 64 MiB (gcc does). A
        hard limit of the caller that lies below ours stays: it cannot be raised.
        """
        files = _least(4096, self.files)
        stack = _least(64 << 20, self.stack)
        pairs = {
            "c": 0,
            "l": _least(64 << 10, self.locked_bytes) >> 10,  # KiB
            "Sn": min(1024, files),
            "Hn": files,
            "Ss": min(8 << 10, stack >> 10),  # KiB
            "Hs": stack >> 10,
            "f": _least(-(-limits.disk_bytes // 512) * 512, self.file_bytes) // 512,
            "t": _or_unlimited(self.cpu_seconds, 1),
            "d": _or_unlimited(self.data_bytes, 1 << 10),
            "m": _or_unlimited(self.resident_bytes, 1 << 10),
            "v": _or_unlimited(self.address_bytes, 1 << 10),
        }
        processes = _least(limits.processes + 2 * _SLACK, self.processes)
        return [str(processes), *(str(word) for pair in pairs.items() for word in pair)]

    def rlimits(self, limits: Limits, *, memory: bool) -> tuple[tuple[int, int, int], ...]:
        """The same for setrlimit(2): which, soft, hard; with the address space where `memory`."""
        processes, *words = self.ulimits(limits)
        found = {resource.RLIMIT_NPROC: [int(processes)] * 2}
        for key, word in zip(words[::2], words[1::2], strict=True):
            kind, unit = _LETTERS[key[-1]]
            value = resource.RLIM_INFINITY if word == "unlimited" else int(word) * unit
            pair = found.setdefault(kind, [value, value])
            pair[key.startswith("H")] = value
        if memory:
            found[resource.RLIMIT_AS] = [self.address_limit(limits)] * 2
        return tuple((kind, soft, hard) for kind, (soft, hard) in found.items())

    def address_limit(self, limits: Limits) -> int:
        """Bytes of address space that each process may have where no group bounds the memory."""
        return _least(limits.memory_bytes, self.address_bytes)


_LETTERS = {
    "c": (resource.RLIMIT_CORE, 512),
    "d": (resource.RLIMIT_DATA, 1 << 10),
    "f": (resource.RLIMIT_FSIZE, 512),
    "l": (resource.RLIMIT_MEMLOCK, 1 << 10),
    "m": (resource.RLIMIT_RSS, 1 << 10),
    "n": (resource.RLIMIT_NOFILE, 1),
    "s": (resource.RLIMIT_STACK, 1 << 10),
    "t": (resource.RLIMIT_CPU, 1),
    "v": (resource.RLIMIT_AS, 1 << 10),
}
"""What the letters of the shell's ulimit set, and in which unit."""


def _least(ours: int, hard: int | None) -> int:
    return ours if hard is None else min(ours, hard)


def _or_unlimited(hard: int | None, unit: int) -> int | str:
    """A soft limit is a habit of the caller's shell: only the hard one is a bound."""
    return "unlimited" if hard is None else hard // unit


# -- what is counted from outside

Watch = Callable[[], str | None]
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
            name = names.pop()
            with contextlib.suppress(OSError):  # gone meanwhile
                seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
                total += seen.st_blocks * 512 + _PER_FILE
                if stat.S_ISDIR(seen.st_mode) and len(stack) < _DEPTH:
                    _enter(stack, name, fd)
    finally:
        for fd, _ in stack:
            os.close(fd)
    return total


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


def tree_use(pid: int) -> tuple[Sequence[int], int, int, int]:
    """What a process and all its descendants use: their pids, parents first, how many threads, the
    resident bytes that one process alone has, and an upper bound of the bytes of files and of
    shared memory that they map.

    Sums over /proc (proc(5), `stat` and `statm`); processes that end meanwhile count nothing.
    """
    parents: dict[int, list[int]] = {}
    threads: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        # of `stat` what follows the name, which may hold spaces and brackets
        if fields := _proc(name, "stat").rpartition(") ")[2].split():
            parents.setdefault(int(fields[1]), []).append(int(name))
            threads[int(name)] = int(fields[17])
    pids = [pid]
    memory = mapped = 0
    for each in pids:
        pids += parents.get(each, [])
        _, resident, shared, *_ = map(int, _proc(str(each), "statm").split() or "000")
        memory += (resident - shared) * _PAGE_BYTES
        mapped += shared * _PAGE_BYTES
    return pids, sum(threads.get(each, 0) for each in pids), memory, mapped


def _proc(pid: str, name: str) -> str:
    """The text of a file of /proc/PID; empty where the process is gone."""
    try:
        return Path("/proc", pid, name).read_bytes().decode("ascii", "replace")
    except OSError:
        return ""


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
            paths = {f"/proc/{pid}/root/{place}": f"/{place}" for place in _PLACES}
            ours = {path: os.stat(host).st_dev for path, host in paths.items() if exists(host)}
            if all(os.stat(path).st_dev != ours.get(path) for path in paths):
                states = map(os.statvfs, paths)
                return sum((one.f_blocks - one.f_bfree) * one.f_frsize for one in states)
    return 0


def _held(pids: Sequence[int]) -> Iterator[tuple[_File, int]]:
    """Each memfd that is open somewhere, and the bytes that it occupies."""
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{directory}/{name}").startswith(_KERNELS):
                        seen = os.stat(f"{directory}/{name}")
                        device = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}"
                        yield (device, seen.st_ino), seen.st_blocks * 512


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
        pids, threads, memory, mapped = tree_use(self.pid)
        left = self.limits.memory_bytes - memory
        over = left < 0 or shared_memory(pids, mapped, left) > left
        self._next = now + max(0.2, 20 * (time.monotonic() - now))
        if over:
            return "memory"
        return "processes" if threads >= self.limits.processes else None
