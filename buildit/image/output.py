"""The files of an image: blobs of the store copied the cheapest way the file system offers, an
output that appears whole or not at all, and an OCI layout put back from the store.

A copy never shares an inode with the store: whoever edits an image cannot harm the store. What
arrived is hashed, so that a disk that rots is found before an image counts.

An output is made in a private directory beside its place, which its maker keeps locked. What a
killed run left behind is therefore known by its lock being free, and the next run removes it.

An emitted layout that somebody deleted is put back without deciding anything anew: the layers are
the store's blobs, everything else is small and was kept word for word. Only the standard library
and what copies blobs is imported.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from buildit.archive.streams import run_all
from buildit.digest import Digest, digest_bytes, is_hex64
from buildit.errors import IntegrityError, StoreError
from buildit.store.blobs import FSYNC_AT_MOST, CorruptBlob
from buildit.store.disk import Vanished, has_size, held, is_named, sync_directory, sync_file_system

BlobPath = Callable[[Digest], Path]
"""Where the store keeps the blob of a digest."""

_FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_PIECE = 1 << 30
_UNABLE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RACED = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)
_RACES = 16
LARGEST_DOCUMENT = 1 << 18
COPIERS = 2
_BLOBS = Path("blobs", "sha256")


@contextmanager
def _readable(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = Vanished if isinstance(error, FileNotFoundError) else StoreError
        hint = "run `buildit store verify`, then build again"
        said = f"{what} cannot be read: {error.strerror}"
        raise kind(said, place=str(path), hint=hint) from error


def open_blob(blob: BlobPath, digest: Digest, size: int, title: str) -> int:
    """A descriptor to read a blob of this size; its bytes are for the caller to check.

    Raises:
        StoreError: the blob is missing or cannot be read.
        CorruptBlob: it has another size.
    """
    path = blob(digest)
    with _readable(f"blob {digest[:12]}… of {title}", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    actual = os.fstat(descriptor).st_size
    if actual != size:
        os.close(descriptor)
        raise CorruptBlob(digest, f"the layer of {title} ({actual} bytes instead of {size})")
    return descriptor


def small_blob(blob: BlobPath, digest: Digest, title: str) -> bytes:
    """A blob that fits into memory, compared with its name.

    Raises:
        StoreError: it cannot be read.
        CorruptBlob: it holds other bytes.
    """
    path = blob(digest)
    with _readable(f"the contents of {title}", path):
        content = path.read_bytes()
    if digest_bytes(content) != digest:
        raise CorruptBlob(digest, f"the list of the files of {title}")
    return content


def copy_blob(blob: BlobPath, digest: Digest, size: int, title: str, target: Path) -> None:
    """Copy a blob to a new file with mode 0644: by reflink, inside the kernel, or by hand. The
    copy is read back and compared with the blob's name.

    Raises:
        StoreError, CorruptBlob: as `open_blob`; or the copy holds other bytes.
        OSError: the target cannot be written.
    """
    with held(open_blob(blob, digest, size, title)) as source:
        out = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(out, "r+b", buffering=0) as copy:
            os.fchmod(out, 0o644)  # whatever the umask
            copied = size if _cloned(source, out) else _copied(source, out, size)
            copy.seek(0)
            right = copied == size and hashlib.file_digest(copy, "sha256").hexdigest() == digest
    if not right:
        raise CorruptBlob(digest, f"the layer of {title}")


def _cloned(source: int, out: int) -> bool:
    try:
        fcntl.ioctl(out, _FICLONE, source)
    except OSError as error:
        if error.errno in _UNABLE:
            return False
        raise
    return True


def _copied(source: int, out: int, size: int) -> int:
    """Bytes copied; fewer than `size` where the source ends early."""
    done = 0
    in_kernel = True
    while done < size:
        piece = min(_PIECE, size - done)
        try:
            if in_kernel:
                count = os.copy_file_range(source, out, piece)
            else:
                count = os.sendfile(out, source, None, piece)
        except OSError as error:
            # Across file systems, on old kernels and on some network mounts; only at the start.
            if error.errno not in _UNABLE or done or not in_kernel:
                raise
            in_kernel = False
            continue
        if count == 0:
            break
        done += count
    return done


def parts_beside(image: Path) -> Path:
    """The directory of the images that a split image depends on."""
    return image.with_name(f"{image.name}.d")


def parts_of(image: Path) -> tuple[Path, ...]:
    """The images that a split image depends on, and their signatures."""
    beside = parts_beside(image)
    return tuple(sorted(beside.iterdir())) if beside.is_dir() else ()


@contextmanager
def replacing_output(target: Path, *, parts: bool = False) -> Iterator[Path]:
    """Give a path that does not exist yet; what is made there becomes `target` at the end. With
    `parts`, what is made in the directory beside it does too, and first; without, what lies there
    is gone.

    When the body raises, `target` stays as it was. A reader sees the old one or the new one, and
    with renameat2(2), nothing in between. Bytes and names are on the disk before it ends: an
    image that was called done is there after a power loss too.

    Raises:
        StoreError: the output directory or the disk cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        private, lock = _claim(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    fresh = private / target.name
    try:
        yield fresh
        sync_tree(fresh)
        if parts:
            sync_tree(parts_beside(fresh))
            _exchange(parts_beside(fresh), parts_beside(target))
        _exchange(fresh, target)
        if not parts:
            _remove_parts(target)
        sync_directory(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        _remove(private)
        os.close(lock)


UNPACKED = "rootfs"
"""The directory of an image that holds its tree as files, laid down from what lies beside it."""


def emitted_files(image: Path) -> tuple[Path, ...]:
    """The files of an emitted image, sorted: the one that it is and those that it depends on, or
    those of its directory, but for the unpacked tree, which belongs to the machine that runs it.
    Links are left out."""
    if not image.is_dir():
        return (image, *parts_of(image))
    found = []
    for above, below, names in os.walk(image):
        if Path(above) == image and UNPACKED in below:
            below.remove(UNPACKED)
        found += [Path(above, name) for name in names]
    return tuple(sorted(one for one in found if one.is_file() and not one.is_symlink()))


def _remove_parts(target: Path) -> None:
    """Remove what an earlier image of this name depended on; nothing that is of somebody else."""
    found = parts_of(target)
    if found and all(one.suffix in (".aci", ".asc") for one in found):
        for one in found:
            one.unlink()
        with suppress(OSError):
            parts_beside(target).rmdir()


def sync_tree(path: Path) -> None:
    """Make a file, or a directory with all that is in it, durable: few files one by one, many by
    one call for their file system (THREATS N4).

    Raises:
        OSError: the disk fails.
    """
    found = [path, *path.rglob("*")] if path.is_dir() else [path]
    if len(found) > FSYNC_AT_MOST:
        sync_file_system(path)
        return
    for one in found:
        with held(os.open(one, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            os.fsync(fd)


def _unwritable(target: Path, error: OSError) -> StoreError:
    reason = f"the image cannot be written: {error.strerror or error}"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space there" if full else "choose another directory with --output DIR"
    return StoreError(reason, place=str(target), hint=hint)


def _claim(target: Path) -> tuple[Path, int]:
    while True:
        private = target.with_name(f".{target.name}.{os.urandom(3).hex()}.partial")
        with suppress(FileExistsError, FileNotFoundError):  # taken, or swept before it was locked
            private.mkdir()
            private.chmod(0o700)  # whatever the umask
            lock = os.open(private, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_named(lock, private):
                return private, lock
            os.close(lock)


def _remove_stale(target: Path) -> None:
    for left in sorted(target.parent.glob(f".{glob.escape(target.name)}.*.partial")):
        with suppress(OSError):  # among them: another buildit is at work on it
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            with held(os.open(left, flags)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)


def _remove(private: Path) -> None:
    try:
        private.rmdir()
    except OSError:
        import shutil  # brings bz2 and lzma, and most runs leave nothing to remove

        shutil.rmtree(private, ignore_errors=True)


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

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = os.fsencode(fresh), os.fsencode(target)
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(target))


def recipe(layout: Path, store_blobs: Path) -> dict[str, Any] | None:
    """What `restore` needs of a layout, as JSON data; None where the store lacks a blob of it.

    `store_blobs` is the directory of the store's blobs. Layers are told from documents by where
    they are: what the store has with the same size is copied from there.

    Raises:
        OSError: the layout cannot be read.
    """
    blobs: dict[str, int] = {}
    documents: dict[str, str] = {}
    for path in sorted(layout.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            return None
        if path.is_dir():
            continue
        size = path.stat().st_size
        if path.parent == layout / _BLOBS and has_size(store_blobs / path.name, size):
            blobs[path.name] = size
        elif size > LARGEST_DOCUMENT:
            return None
        else:
            try:
                documents[str(path.relative_to(layout))] = path.read_bytes().decode("ascii")
            except UnicodeError:  # all that this emitter writes itself is canonical JSON
                return None
    return {"blobs": blobs, "documents": documents} if blobs else None


def make_layout(fresh: Path) -> Path:
    """Make the directories of a layout at a path that does not exist yet; that of its blobs.

    Raises:
        OSError: it cannot be made.
    """
    for made in (fresh, fresh / "blobs", fresh / _BLOBS):
        made.mkdir()
        made.chmod(0o755)  # whatever the umask
    return fresh / _BLOBS


def write_documents(fresh: Path, documents: Mapping[str, bytes]) -> None:
    """Write small files of a layout, by their path in it. Raises OSError."""
    for name, content in documents.items():
        path = fresh / name
        path.write_bytes(content)
        path.chmod(0o644)


def restore(layout: Path, kept: Mapping[str, Any], store_blobs: Path) -> None:
    """Make the layout again, as it was when `recipe` looked at it.

    Raises:
        StoreError: a blob is gone, or the output cannot be written.
        IntegrityError: a blob has other bytes, or `kept` names no part of a layout.
        KeyError, TypeError, AttributeError: `kept` is no recipe.
    """
    for name in (*kept["blobs"], *kept["documents"]):
        path = layout / name
        document = path.parent in (layout, layout / _BLOBS) and path.name not in ("", "..", ".")
        if not (document if name in kept["documents"] else is_hex64(name)):
            hint = "the cache of runs is damaged: delete cache/stamps in the store"
            said = f"{name!r} is no part of an OCI layout"
            raise IntegrityError(said, place=str(layout), hint=hint)
    with replacing_output(layout) as fresh:
        directory = make_layout(fresh)
        works = [
            partial(copy_blob, store_blobs.joinpath, Digest(name), size, name, directory / name)
            for name, size in kept["blobs"].items()
        ]
        texts = kept["documents"].items()
        write_documents(fresh, {name: text.encode("ascii") for name, text in texts})
        run_all(works, COPIERS)
