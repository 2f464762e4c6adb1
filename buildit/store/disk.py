"""The store's directory: steps that make bytes durable, what is in it, whose it is, how it goes.

Order everywhere: create in the same file system, write, sync, publish, sync the directory.
After a failed sync nothing is published: the kernel may have dropped the pages and marked them
clean, so a second fsync that succeeds proves nothing. The caller writes anew. Each step is a point
of faults on demand, `BUILDIT_FAULT=point:n:kill|EIO|ENOSPC`, so that crash safety is proved on all
machines, with or without strace; `n` counts from 1 how often this process reaches the point.

The directory is an OCI image layout (image-spec image-layout.md) with a constant, empty index, and
more beside (DESIGN 4).
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from buildit.codec import CodecError, decode
from buildit.digest import BuildKey, canonical
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
            what = f"{VARIABLE}={text!r} is not POINT:N:kill|EIO|ENOSPC"
            raise UsageError(what, place=VARIABLE, hint=f"points are: {' '.join(POINTS)}")
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
        hint = "run the same command again: what is missing is made anew"
        what = "a part of the store is gone: it was deleted while it was used"
        return Vanished(what, place=str(error.filename or place), hint=hint)
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
    with suppress(FileNotFoundError, NotADirectoryError):
        status = os.lstat(path)
        return stat.S_ISREG(status.st_mode) and status.st_size == size
    return False


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

    def publish_once(self, subject: str, source: Path, destination: Path) -> None:
        """Give a complete file its name unless the name is taken: then it stays where it is."""
        self.faults.reach(f"{subject}-publish")
        try:
            os.link(source, destination, follow_symlinks=False)
        except FileExistsError:
            return
        except OSError as error:
            # A file system without hard links (some FUSE, SMB): test, then rename.
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            if not os.path.lexists(destination):
                source.rename(destination)
        else:
            source.unlink()

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
def held(fd: int) -> Iterator[int]:
    """A descriptor that is closed at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    with held(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        os.fsync(fd)


def syncfs(fd: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_file_system(path: Path) -> None:
    """All that the file system of a directory holds."""
    with held(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        syncfs(fd)


def is_named(fd: int, path: Path) -> bool:
    """False where the file was unlinked, or replaced, since it was opened."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    return False


# -- the layout, its version, and who may own it

STORE_FORMAT = 1
FORMAT_FILE = "buildit-store.json"
BLOBS = "blobs/sha256"
STORE_DIRECTORIES = (
    *(BLOBS, "k", "r", "n", "containers", "trees", "tmp"),
    *("leases", "locks", "roots", "cache", "logs", "corrupt"),
)
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONSTANT_FILES = {
    "oci-layout": canonical({"imageLayoutVersion": "1.0.0"}),
    "index.json": canonical({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": []}),
}
FORMAT_BYTES = canonical({"format": STORE_FORMAT})
_TOP = {name.partition("/")[0] for name in STORE_DIRECTORIES} | {*CONSTANT_FILES, FORMAT_FILE}


@dataclass(frozen=True, slots=True)
class _Format:
    format: int


def prepare_store(root: Path, disk: Disk) -> Path:
    """Check the store at `root`, create it where there is none, and return its real path.

    Raises:
        StoreError: of another format, not a store, owned by another user, writable by others, or
            the file system refuses.
    """
    with located(root):
        real = Path(os.path.realpath(root))
        make_directory(real)
        check_owner(real)
        is_new = not check_format(real)
        for name in STORE_DIRECTORIES:
            # One that was deleted is made again, empty: what it held is made or fetched anew.
            make_directory(real / name)
        for name in ("blobs", *STORE_DIRECTORIES):
            check_owner(real / name)
        if is_new:
            _complete(real, disk)
    return real


def _complete(root: Path, disk: Disk) -> None:
    for name in os.listdir(root):
        if ".new-" in name:
            (root / name).unlink(missing_ok=True)
    # The version comes last: a store that has it is complete.
    for name, content in {**CONSTANT_FILES, FORMAT_FILE: FORMAT_BYTES}.items():
        put_constant(root, disk, name, content)
    sync_directory(root.parent)


def put_constant(root: Path, disk: Disk, name: str, content: bytes) -> None:
    """Write a file that is the same in every store."""
    disk.replace_file("layout", root / name, content, root / f"{name}.new-{token()}")


def check_owner(root: Path) -> None:
    """Refuse a store, or a directory of it, that another user could change under us.

    Raises:
        StoreError: not a directory, another owner, or writable by group or others.
    """
    status, mine = root.stat(), os.geteuid()
    if not stat.S_ISDIR(status.st_mode):
        what, hint = "the store is not a directory", "set BUILDIT_STORE elsewhere"
    elif status.st_uid != mine:
        what = f"the store belongs to user {status.st_uid}, not to user {mine} who runs this"
        hint = "run as its owner, or set BUILDIT_STORE to a directory of your own"
    elif status.st_mode & 0o022:
        what = f"other users may write to the store (mode {stat.S_IMODE(status.st_mode):04o})"
        hint = f"run `chmod go-w {shlex.quote(str(root))}`, then `buildit store verify`"
    else:
        return
    raise StoreError(what, place=str(root), hint=hint)


def check_format(root: Path) -> bool:
    """True for a store of our format, False where none was completed here yet.

    Raises:
        StoreError: a newer format, an unreadable version, or a directory with other files.
    """
    path = root / FORMAT_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        # A store whose creation was cut short holds only names of ours; anything else is no store.
        names = sorted(os.listdir(root))
        strange = [name for name in names if name.partition(".new-")[0] not in _TOP]
        if strange:
            hint = "set BUILDIT_STORE (or `store:`) to an empty or missing directory"
            what = f"the directory is not a store: it holds {strange[0]!r}"
            raise StoreError(what, place=str(root), hint=hint) from None
        return False
    if text == FORMAT_BYTES:
        return True
    try:
        version = decode(_Format, text).format
        what = f"the store has format {version}, this buildit knows format {STORE_FORMAT}"
        hint = "use a newer buildit, or set BUILDIT_STORE to another directory"
    except CodecError:
        what = "the store's version cannot be read"
        hint = f"remove {path}: it is written again, then run `buildit store verify`"
    raise StoreError(what, place=str(path), hint=hint)


def key_directory(root: Path, key: BuildKey) -> Path:
    """Where the statements about a key are: `k/<aa>/<key>/`."""
    return root / "k" / key[:2] / key


# -- whose builds are on the host: so that inside the sandbox it is always uid 1000

HOST_ID = 65529
"""Host uid and gid of builds that root starts: in 65520-65533, which neither Debian's policy
(9.2.2) nor systemd's dynamic users (61184-65519) give to anybody."""


def host_owner() -> tuple[int, int] | None:
    """uid and gid that files of a build must have on the host; None: the caller's own will do.

    Root of a user namespace that has no such uid is nobody special, and keeps its own.
    """
    if os.geteuid() != 0 or not has_uid(Path("/proc/self/uid_map").read_text(), HOST_ID):
        return None
    return (HOST_ID, HOST_ID)


def has_uid(uid_map: str, uid: int) -> bool:
    """Whether a user namespace has the uid (user_namespaces(7): lines of first, outside, count)."""
    rows = (map(int, line.split()) for line in uid_map.splitlines())
    return any(first <= uid < first + count for first, _, count in rows)


def hand_over(tree: Path) -> None:
    """Give a whole tree, its links too, to the build user; a build sees one owner everywhere.

    Builds only ever see it through a read-only mount.

    Raises:
        OSError: an owner cannot be changed.
    """
    owner = host_owner()
    if owner is None:
        return
    for _, directories, files, fd in os.fwalk(tree):
        for name in (*directories, *files):
            os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)
    os.chown(tree, *owner)


# -- removing a tree that somebody else shaped: any modes, any depth, never through a symlink

LISTING_TRIES = 16
_DEPTH = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a file or directory and all below it; nothing where there is none.

    Directories without permissions are opened up first. One that lies deeper than 64 levels is
    moved to the top and emptied from there, so that neither the stack nor open files bound it.

    Raises:
        OSError: something belongs to another user or is a mount point.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        path.unlink(missing_ok=True)
        return
    with held(os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as parent:
        top = _open_directory(path.name, parent)
    with held(top):
        while _empty(top, top, 0):
            pass
    with suppress(FileNotFoundError):
        path.rmdir()


def listed(directory: int | str) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
    """As os.scandir, which Python does not begin again where a signal interrupts it (EINTR)."""
    for _ in range(LISTING_TRIES):
        with suppress(InterruptedError):
            return os.scandir(directory)
    return os.scandir(directory)


def _open_directory(name: str, parent: int) -> int:
    """Open a directory that may forbid it; its mode is opened up where need be."""
    try:
        fd = os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        _open_up(name, parent)
        fd = os.open(name, _OPEN, dir_fd=parent)
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o700 != 0o700:
        # Another user's directory: root removes from it with any mode.
        with suppress(PermissionError):
            os.fchmod(fd, 0o700)
    return fd


def _open_up(name: str, parent: int) -> None:
    # O_PATH needs no permission on the directory itself and pins the inode, so that chmod through
    # /proc cannot be led elsewhere by a symlink put in its place.
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with held(os.open(name, flags, dir_fd=parent)) as fd:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)


def _empty(directory: int, top: int, depth: int) -> bool:
    """Empty a directory; True where something was moved to the top and waits there."""
    moved = False
    with listed(directory) as found:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_directory in names:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
        elif depth >= _DEPTH:
            _open_up(name, directory)  # moving a directory rewrites its `..`
            os.rename(name, f"{token()}.deep", src_dir_fd=directory, dst_dir_fd=top)
            moved = True
        else:
            with held(_open_directory(name, directory)) as inner:
                moved |= _empty(inner, top, depth + 1)
            os.rmdir(name, dir_fd=directory)
    return moved
