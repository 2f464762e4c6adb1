"""Memory of a running sandbox that no process owns alone, where no cgroup counts it; from outside.

Anonymous pages are each process's own, `launch_watch.tree_use` sums them. The rest is shmem, four
ways to it (proc(5), tmpfs(5), memfd_create(2)): files in /tmp and /dev/shm, which their mounts
count; memfds, by the descriptors that are open on them; shared mappings, by what is mapped of
each (Pss: a page that several map counts once). What only a message in a socket, a detached SysV
segment or a pipe holds cannot be seen from outside: a cgroup counts that, too.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_PLACES = ("tmp", "dev/shm")
_KERNELS = ("/memfd:", "/dev/zero", "/SYSV", "[anon_shmem:")  # names of what lies on no mount
_MAPPING = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+) (\d+) *(.*)$")

_File = tuple[str, int]  # device and inode


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
