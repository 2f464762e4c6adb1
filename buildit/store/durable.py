"""The few steps that make bytes durable, each a fault point, and what their failures mean.

Order everywhere: create in the same file system, write, sync, publish, sync the directory.
After a failed sync nothing is published: the kernel may have dropped the pages and marked them
clean, so a second fsync that succeeds proves nothing. The caller writes anew.

Faults on demand at the store's durability points: `BUILDIT_FAULT=point:n:kill|EIO|ENOSPC`.

Part of the product, so that crash safety is proved on every machine, with or without strace.
`n` counts from 1 how often this process reaches the point.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from buildit.errors import StoreError, UsageError

_STEPS = {
    "layout blob signature statement root": "create write sync publish directory",
    "name mark": "create write publish",  # not synced: derived, or for this boot only
    "failure": "create write sync move",
    "tree": "fill publish",
    "lease": "create",
    "corrupt": "move",
    "collect": "remove",
}
POINTS = tuple(
    f"{subject}-{step}"
    for subjects, steps in _STEPS.items()
    for subject, step in product(subjects.split(), steps.split())
)
"""What is written, by its subject, and the step of it, most of them of `Disk`."""

VARIABLE = "BUILDIT_FAULT"


_WANTED = re.compile(r"([a-z-]+):([1-9][0-9]*):(kill|EIO|ENOSPC)")


class Faults:
    """Counts the points that this store reaches, and fails at the one that was asked for."""

    def __init__(self, point: str = "", nth: int = 0, effect: str = "kill") -> None:
        self._point = point
        self._left = nth
        self._effect = effect
        self._lock = threading.Lock()

    @classmethod
    def wanted(cls, environment: Mapping[str, str]) -> Faults:
        """The faults that `BUILDIT_FAULT` asks for; none where it is unset or empty.

        Raises:
            UsageError: the variable names no point, count or effect that exists.
        """
        text = environment.get(VARIABLE, "")
        if not text:
            return cls()
        found = _WANTED.fullmatch(text)
        if found is None or found[1] not in POINTS:
            raise UsageError(
                f"{VARIABLE}={text!r} is not POINT:N:kill|EIO|ENOSPC",
                place=VARIABLE,
                hint=f"points are: {' '.join(POINTS)}",
            )
        return cls(found[1], int(found[2]), found[3])

    def reach(self, point: str) -> None:
        """Be at a point: returns, or dies by SIGKILL, or raises the OSError that was asked for."""
        if not self._point or point != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return
        if self._effect == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self._effect)
        raise OSError(number, os.strerror(number), point)


READ_ONLY = 0o444
DIRECTORY_MODE = 0o755

_HINTS = {
    errno.ENOSPC: "free some space, run `buildit store gc`, or set BUILDIT_STORE to a larger disk",
    errno.EDQUOT: "free some of your quota, run `buildit store gc`, or set BUILDIT_STORE elsewhere",
    errno.EROFS: "remount the file system writable, or set BUILDIT_STORE to another directory",
    errno.EIO: "check the disk (`dmesg`), then run `buildit store verify`",
    errno.EACCES: "check owner and mode, or set BUILDIT_STORE to a directory of your own",
    errno.EPERM: "check owner and mode, or set BUILDIT_STORE to a directory of your own",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "close other programs: the machine has too many open files",
    errno.ENAMETOOLONG: "set BUILDIT_STORE to a shorter path",
    errno.ENOLCK: "put the store on a file system that has file locks (flock)",
    errno.EOPNOTSUPP: "put the store on a local file system such as ext4, xfs or btrfs",
}


class Vanished(StoreError):  # noqa: N818 - what happened to it
    """Something of the store that was there is gone: it was deleted while it was used. A run makes
    it anew."""


def store_error(error: OSError, place: Path) -> StoreError:
    """What a failed system call on the store means, and the next step."""
    number = error.errno or 0
    if number == errno.ENOENT:
        return Vanished(
            "a part of the store is gone: it was deleted while it was used",
            place=str(error.filename or place),
            hint="run the same command again: what is missing is made anew",
        )
    what = os.strerror(number) if number else str(error)
    hint = _HINTS.get(number, "run `buildit doctor`")
    return StoreError(f"the store cannot be used: {what}", place=str(place), hint=hint)


@contextmanager
def located(place: Path | str) -> Iterator[None]:
    """Turn an OSError inside into one StoreError that names the place and the next step."""
    try:
        yield
    except OSError as error:
        raise store_error(error, Path(place)) from error


def token() -> str:
    """A file name's random part; nothing that is kept depends on it."""
    return os.urandom(8).hex()


def has_size(path: Path, size: int) -> bool:
    """Whether there is a file of `size` bytes; a power loss may have emptied one."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents with mode 0755, whatever the umask."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
        path.chmod(DIRECTORY_MODE)


@dataclass(frozen=True, slots=True)
class Disk:
    """Steps on files; `subject` says what is written and, with the step, names the fault point."""

    faults: Faults

    def create(self, subject: str, path: Path | str) -> int:
        """A file descriptor open for writing on a file that did not exist."""
        self.faults.reach(f"{subject}-create")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    def write(self, subject: str, fd: int, content: bytes | memoryview) -> None:
        self.faults.reach(f"{subject}-write")
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def sync(self, subject: str, fd: int) -> None:
        self.faults.reach(f"{subject}-sync")
        os.fsync(fd)

    def sync_file_system(self, subject: str, fd: int) -> None:
        """syncfs(2): everything that the file system of `fd` holds, in one call.

        Since Linux 5.8 it reports write-back errors since `fd` was opened, so open it first.
        """
        self.faults.reach(f"{subject}-sync")
        syncfs(fd)

    def publish(self, subject: str, source: Path | str, destination: Path | str) -> None:
        """Give a complete file its name, replacing what has it."""
        self.faults.reach(f"{subject}-publish")
        os.rename(source, destination)

    def publish_once(self, subject: str, source: Path, destination: Path) -> bool:
        """Give a complete file its name unless the name is taken; False where it is."""
        self.faults.reach(f"{subject}-publish")
        try:
            os.link(source, destination, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            # A file system without hard links (some FUSE, SMB): test, then rename.
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            if os.path.lexists(destination):
                return False
            source.rename(destination)
            return True
        source.unlink()
        return True

    def sync_directory(self, subject: str, path: Path) -> None:
        self.faults.reach(f"{subject}-directory")
        sync_directory(path)

    def write_file(self, subject: str, path: Path, content: bytes, *, sync: bool = True) -> None:
        """A new, read-only file under a temporary name; removed again where it fails."""
        fd = self.create(subject, path)
        try:
            self.write(subject, fd, content)
            os.fchmod(fd, READ_ONLY)
            if sync:
                self.sync(subject, fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def replace_file(
        self, subject: str, path: Path, content: bytes, temporary: Path, *, sync: bool = True
    ) -> None:
        """Put content under a name, replacing what has it. Without `sync`, which is for what can be
        derived again, it may be missing or empty after a power loss."""
        self.write_file(subject, temporary, content, sync=sync)
        try:
            self.publish(subject, temporary, path)
            if sync:
                self.sync_directory(subject, path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def make_synced_directory(self, subject: str, path: Path) -> None:
        """Create missing directories so that a power loss cannot take one away again."""
        missing = [path]
        while not missing[-1].is_dir():
            missing.append(missing[-1].parent)
        make_directory(path)
        for directory in missing[1:]:
            self.sync_directory(subject, directory)


@contextmanager
def descriptor_of(path: Path, flags: int = os.O_RDONLY | os.O_DIRECTORY) -> Iterator[int]:
    """A descriptor of a directory, or of what else `flags` say."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    with descriptor_of(path) as fd:
        os.fsync(fd)


def syncfs(fd: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_file_system(path: Path) -> None:
    """All that the file system of a directory holds."""
    with descriptor_of(path) as fd:
        syncfs(fd)


def is_named(fd: int, path: Path) -> bool:
    """False where the file was unlinked, or replaced, since it was opened."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
