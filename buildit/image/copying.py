"""Blobs of the store copied into an image, the cheapest way the file system offers.

A copy never shares an inode with the store: whoever edits an image cannot harm the store. What
arrived is hashed, so that a disk that rots is found before an image counts.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from buildit.digest import Digest, digest_bytes
from buildit.errors import StoreError
from buildit.store.checked import CorruptBlob
from buildit.store.durable import Vanished

BlobPath = Callable[[Digest], Path]
"""Where the store keeps the blob of a digest."""

_FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_PIECE = 1 << 30
_UNABLE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


def open_blob(blob: BlobPath, digest: Digest, size: int, title: str) -> int:
    """A descriptor to read a blob of this size; its bytes are for the caller to check.

    Raises:
        StoreError: the blob is missing or cannot be read.
        CorruptBlob: it has another size.
    """
    path = blob(digest)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(error, f"blob {digest[:12]}… of {title}", path) from error
    actual = os.fstat(descriptor).st_size
    if actual != size:
        os.close(descriptor)
        raise CorruptBlob(digest, f"the layer of {title} ({actual} bytes instead of {size})")
    return descriptor


def _unreadable(error: OSError, what: str, path: Path) -> StoreError:
    kind = Vanished if isinstance(error, FileNotFoundError) else StoreError
    return kind(
        f"{what} cannot be read: {error.strerror}",
        place=str(path),
        hint="run `buildit store verify`, then build again",
    )


def small_blob(blob: BlobPath, digest: Digest, title: str) -> bytes:
    """A blob that fits into memory, compared with its name.

    Raises:
        StoreError: it cannot be read.
        CorruptBlob: it holds other bytes.
    """
    path = blob(digest)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(error, f"the contents of {title}", path) from error
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
    source = open_blob(blob, digest, size, title)
    try:
        out = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(out, "r+b", buffering=0) as copy:
            os.fchmod(out, 0o644)  # whatever the umask
            copied = size if _cloned(source, out) else _copied(source, out, size)
            copy.seek(0)
            right = copied == size and hashlib.file_digest(copy, "sha256").hexdigest() == digest
    finally:
        os.close(source)
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
    try:
        while done < size:
            count = os.copy_file_range(source, out, min(_PIECE, size - done))
            if count == 0:
                return done
            done += count
    except OSError as error:
        # Across file systems, on old kernels and on some network mounts; only at the start.
        if error.errno not in _UNABLE or done:
            raise
        while done < size:
            count = os.sendfile(out, source, None, min(_PIECE, size - done))
            if count == 0:
                return done
            done += count
    return done
