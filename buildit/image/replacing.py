"""An output file or directory that appears whole, in place of the one before, or not at all.

The new one is made in a private directory beside it, which its maker keeps locked. What a killed
run left behind is therefore known by its lock being free, and the next run removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from buildit.errors import StoreError
from buildit.store.durable import sync_directory, syncfs
from buildit.store.ingest import FSYNC_AT_MOST

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_RACED = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)
_RACES = 16


@contextmanager
def replacing_output(target: Path) -> Iterator[Path]:
    """Give a path that does not exist yet; what is made there becomes `target` at the end.

    When the body raises, `target` stays as it was. A reader sees the old one or the new one, and
    with renameat2(2), nothing in between. Bytes and names are on the disk before it ends: an
    image that was called done is there after a power loss too.

    Raises:
        StoreError: the output directory or the disk cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        partial, lock = _claim(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    fresh = partial / target.name
    try:
        yield fresh
        sync_tree(fresh)
        _exchange(fresh, target)
        sync_directory(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        _remove(partial)
        os.close(lock)


def sync_tree(path: Path) -> None:
    """Make a file, or a directory with all that is in it, durable: few files one by one, many by
    one call for their file system (THREATS N4).

    Raises:
        OSError: the disk fails.
    """
    found = [path, *path.rglob("*")] if path.is_dir() else [path]
    found = found if len(found) <= FSYNC_AT_MOST else [path]
    for one in found:
        fd = os.open(one, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if len(found) == 1 and path.is_dir():
                syncfs(fd)
            else:
                os.fsync(fd)
        finally:
            os.close(fd)


def _unwritable(target: Path, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(
        f"the image cannot be written: {reason}",
        place=str(target),
        hint="free some space there" if full else "choose another directory with --output DIR",
    )


def _claim(target: Path) -> tuple[Path, int]:
    while True:
        partial = target.with_name(f".{target.name}.{os.urandom(3).hex()}.partial")
        try:
            partial.mkdir()
            partial.chmod(0o700)  # whatever the umask
            lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileExistsError, FileNotFoundError):
            continue  # taken, or swept before it was locked
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _still_there(partial, lock):
            return partial, lock
        os.close(lock)


def _still_there(partial: Path, lock: int) -> bool:
    try:
        return os.path.samestat(partial.lstat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def _remove_stale(target: Path) -> None:
    for partial in sorted(target.parent.glob(f".{_literal(target.name)}.*.partial")):
        try:
            lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(partial)
        except BlockingIOError:
            pass  # another buildit is at work on it
        finally:
            os.close(lock)


def _remove(partial: Path) -> None:
    try:
        partial.rmdir()
    except OSError:
        import shutil  # brings bz2 and lzma, and most runs leave nothing to remove

        shutil.rmtree(partial, ignore_errors=True)


def _literal(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _exchange(fresh: Path, target: Path) -> None:
    """Put the new one in place; the old one takes its place and goes with the partial directory.

    Another run may do the same at this moment: then it is tried again, and the later one stays.
    """
    for _ in range(_RACES - 1):
        try:
            return _exchange_once(fresh, target)
        except OSError as error:
            if error.errno not in _RACED:
                raise
    return _exchange_once(fresh, target)


def _exchange_once(fresh: Path, target: Path) -> None:
    if not os.path.lexists(target):
        fresh.rename(target)
    elif not (fresh.is_dir() or target.is_dir()):
        fresh.replace(target)
    elif not _exchanged(fresh, target):
        old = fresh.with_name("old")
        target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            with suppress(OSError):
                old.rename(target)
            raise


def _exchanged(fresh: Path, target: Path) -> bool:
    import ctypes  # 8 ms that most runs need not pay

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        renameat2 = libc.renameat2
    except AttributeError:
        return False
    paths = os.fsencode(fresh), os.fsencode(target)
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(target))
