"""How much a sandbox may use, and what enforces it: a cgroup (v1 or v2), else rlimits.

A group is taken where this process may make one without changing anybody's settings: as root on
v1 below its own group, on v2 below the nearest ancestor that hands memory and pids down. Nothing
is delegated otherwise, and `watch` counts instead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import time
from dataclasses import dataclass
from functools import lru_cache
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

    def close(self) -> None:
        """Remove the groups; the kernel may need some milliseconds to let go of the last task."""
        for directory in self.directories:
            _remove(directory, patience=2.0)
            _remove(directory.parent, patience=0.0)  # stays while others run


def open_group(limits: Limits) -> CGroup | None:
    """A fresh group with these limits, or None where none can be had. Sweeps dead ones first."""
    proc = Path("/proc/self")
    places = hierarchies((proc / "mountinfo").read_text(), (proc / "cgroup").read_text())
    for place in places * 2:  # again, because another buildit may just have removed _GROUP
        group = open_group_in(place, limits)
        if group is not None:
            return group
    return None


def open_group_in(place: Hierarchy, limits: Limits) -> CGroup | None:
    """A fresh group at one place, or None where that place hands nothing down to this process."""
    name = f"{os.getpid()}-{os.urandom(4).hex()}"
    group = CGroup(place.version, place.memory / _GROUP / name, place.pids / _GROUP / name)
    made: list[Path] = []
    try:
        for directory in place.directories:
            _shared(directory / _GROUP, place.version)
            (directory / _GROUP / name).mkdir()
            made.append(directory / _GROUP / name)
        _configure(group, limits)
    except OSError:
        for directory in made:
            _remove(directory, patience=0.0)
            _remove(directory.parent, patience=0.0)
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
    names = {
        1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", str(limits.memory_bytes)),
        2: ("memory.max", "memory.swap.max", "0"),
    }
    limit, swap, swap_limit = names[group.version]
    _put(group.memory / limit, str(limits.memory_bytes))
    with contextlib.suppress(FileNotFoundError):  # kernels without swap accounting
        _put(group.memory / swap, swap_limit)
    _put(group.pids / "pids.max", str(limits.processes + _SLACK))


def _put(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never create: on a plain directory it fails
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _counter(path: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0


def _remove(directory: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= end:
                return
            time.sleep(0.01)
        else:
            return


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


def rlimit_words(limits: Limits, hard: HardLimits) -> list[str]:
    """Pairs for the shell's `ulimit -X N`: the same inside whatever the caller's are.

    Files and stack: 1024 and 8 MiB, which a build may raise to 4096 and 64 MiB (gcc does). A hard
    limit of the caller that lies below ours stays: it cannot be raised.
    """
    files = _least(4096, hard.files)
    stack = _least(64 << 20, hard.stack)
    pairs = {
        "c": 0,
        "l": _least(64 << 10, hard.locked_bytes) >> 10,  # KiB
        "Sn": min(1024, files),
        "Hn": files,
        "Ss": min(8 << 10, stack >> 10),  # KiB
        "Hs": stack >> 10,
        "f": _least(-(-limits.disk_bytes // 512) * 512, hard.file_bytes) // 512,
        "t": _or_unlimited(hard.cpu_seconds, 1),
        "d": _or_unlimited(hard.data_bytes, 1 << 10),
        "m": _or_unlimited(hard.resident_bytes, 1 << 10),
        "v": _or_unlimited(hard.address_bytes, 1 << 10),
    }
    return [word for letter, value in pairs.items() for word in (letter, str(value))]


def _least(ours: int, hard: int | None) -> int:
    return ours if hard is None else min(ours, hard)


def _or_unlimited(hard: int | None, unit: int) -> int | str:
    """A soft limit is a habit of the caller's shell: only the hard one is a bound."""
    return "unlimited" if hard is None else hard // unit


def process_limit(limits: Limits, hard: HardLimits) -> int:
    """The rlimit on processes; a group's limit lies below it, since only a group can tell of it."""
    return _least(limits.processes + 2 * _SLACK, hard.processes)


def address_limit(limits: Limits, hard: HardLimits) -> int:
    """Bytes of address space that each process may have where no group bounds the memory."""
    return _least(limits.memory_bytes, hard.address_bytes)
