"""flock(2) locks: they end with their holder, so none is ever stale and no pid is trusted.

Leases: what a running process keeps from being reclaimed or collected.

`leases/<token>` is held by flock for as long as its process lives, names its pid and start time,
and lists the keys and digests that the process relies on. Temporary entries are
`tmp/<token>.<purpose>.<random>`. Whatever belongs to a lease that nobody holds is a leftover.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.errors import Interrupted
from buildit.store.disk import Disk, held, is_named, make_directory, remove_tree, token

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
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a lock with others that share it; the file stays."""
    with held(open_lock(path)) as fd:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield


@contextmanager
def exclusive(path: Path, waiting: Waiting = quietly) -> Iterator[None]:
    """Hold a lock alone; the file stays."""
    with held(open_lock(path)) as fd:
        if not try_lock(fd):
            waiting(_holder(fd))
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


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
    tell = waiting
    while True:
        fd = open_lock(path)
        try:
            if not try_lock(fd):
                tell(_holder(fd))
                tell = quietly
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


def _holder(fd: int) -> str:
    return os.pread(fd, 200, 0).decode("ascii", "replace").strip()


_UNSAFE = re.compile(r"[^A-Za-z0-9_+-]+")


@dataclass(frozen=True, slots=True)
class Running:
    """A lease that a living process holds, and what it relies on.

    `since` is in nanoseconds of the store's file system, as `st_mtime_ns`.
    """

    name: str
    since: int
    pins: frozenset[str]


@dataclass(frozen=True, slots=True)
class Lease:
    """This process's lease on one store."""

    root: Path
    name: str
    fd: int
    pid: int

    @classmethod
    def take(cls, root: Path, disk: Disk) -> Lease:
        make_directory(root / "leases")
        make_directory(root / "tmp")
        disk.faults.reach("lease-create")
        name = token()
        # Between its creation and its lock a lease looks dead; `births` keeps reclaimers away.
        with exclusive(_births(root)):
            fd = open_lock(root / "leases" / name)
            fcntl.flock(fd, fcntl.LOCK_EX)
        since = os.fstat(fd).st_mtime_ns
        os.write(fd, holder_line().replace(b"\n", f" since {since}\n".encode()))
        return cls(root, name, fd, os.getpid())

    def is_named(self) -> bool:
        """False where its file was deleted: then nobody knows of this process."""
        return is_named(self.fd, self.root / "leases" / self.name)

    def entry(self, purpose: str) -> Path:
        """A name under tmp/ that belongs to this lease and to nothing else."""
        return Path(self.prefix(purpose) + token())

    def prefix(self, purpose: str) -> str:
        """What all names of `entry` begin with; whoever needs thousands adds a token to each."""
        return f"{self.root / 'tmp' / self.name}.{_UNSAFE.sub('-', purpose)[:80]}."

    def pin(self, names: Iterable[str]) -> None:
        text = "".join(f"{name}\n" for name in names).encode()
        # One append: threads of this process share the offset.
        while text:
            text = text[os.write(self.fd, text) :]

    def end(self) -> None:
        """Remove what is left under tmp/, then the lease itself. A forked child only lets go.

        What cannot be removed now is a leftover, which the next start reclaims.
        """
        if self.pid == os.getpid():
            for entry in _listed(self.root / "tmp"):
                if entry.startswith(f"{self.name}."):
                    with suppress(OSError):
                        remove_tree(self.root / "tmp" / entry)
            with suppress(OSError):
                (self.root / "leases" / self.name).unlink(missing_ok=True)
        os.close(self.fd)


def reclaim(root: Path) -> int:
    """Remove what processes that no longer live have left under tmp/ and leases/; how many entries
    that were. What cannot be removed keeps its lease, so that the next start tries again."""
    removed = 0
    stuck: set[str] = set()
    # Before the leases: one that is born meanwhile has nothing among these.
    entries = _listed(root / "tmp")
    dead, living = _leases(root)
    try:
        for entry in entries:
            owner = entry.partition(".")[0]
            if owner in living:
                continue
            try:
                remove_tree(root / "tmp" / entry)
                removed += 1
            except OSError:
                stuck.add(owner)
        for name in dead.keys() - stuck:
            (root / "leases" / name).unlink(missing_ok=True)
    finally:
        for fd in dead.values():
            os.close(fd)
    _drop_unheld_locks(root / "locks")
    return removed


def _drop_unheld_locks(locks: Path) -> None:
    """Remove the per-key lock files of killed holders; a waiter sees that its file is gone."""
    for name in _listed(locks):
        if "-" in name:
            with held(open_lock(locks / name)) as fd:
                if try_lock(fd) and is_named(fd, locks / name):
                    (locks / name).unlink(missing_ok=True)


def running(root: Path) -> tuple[Running, ...]:
    """The leases that living processes hold, this one's included."""
    dead, living = _leases(root)
    for fd in dead.values():
        os.close(fd)
    return tuple(living.values())


def _leases(root: Path) -> tuple[dict[str, int], dict[str, Running]]:
    """Leases whose holder is gone, now locked by us, and those that living processes hold."""
    dead: dict[str, int] = {}
    living: dict[str, Running] = {}
    with exclusive(_births(root)):
        for name in _listed(root / "leases"):
            fd = open_lock(root / "leases" / name)
            if try_lock(fd):
                dead[name] = fd
            else:
                living[name] = _running(name, fd)
                os.close(fd)
    return dead, living


def _running(name: str, fd: int) -> Running:
    text = os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")
    first, _, pins = text.partition("\n")
    since = first.rpartition(" since ")[2]
    # A lease that does not say since when is taken as the oldest: everything is younger.
    return Running(name, int(since) if since.isdigit() else 0, frozenset(pins.splitlines()))


def _listed(directory: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


def _births(root: Path) -> Path:
    make_directory(root / "locks")
    return root / "locks" / "births"
