"""Blobs of the store copied into an image, the cheapest way the file system offers.

A copy never shares an inode with the store: whoever edits an image cannot harm the store.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from buildit.digest import Digest
from buildit.errors import IntegrityError, StoreError

BlobPath = Callable[[Digest], Path]
"""Where the store keeps the blob of a digest."""

_FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_PIECE = 1 << 30
_UNABLE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


def open_blob(blob: BlobPath, digest: Digest, size: int, title: str) -> int:
    """A descriptor to read a blob of this size.

    The size is all that is checked here: `buildit store verify` reads everything, and so does
    `buildit verify` with the image.

    Raises:
        StoreError: the blob is missing or cannot be read.
        IntegrityError: it has another size.
    """
    path = blob(digest)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(
            f"blob {digest[:12]}… of {title} cannot be read: {error.strerror}",
            place=str(path),
            hint="run `buildit store verify`, then build again",
        ) from error
    actual = os.fstat(descriptor).st_size
    if actual != size:
        os.close(descriptor)
        raise IntegrityError(
            f"blob {digest[:12]}… of {title} has {actual} bytes instead of {size}",
            place=str(path),
            hint="run `buildit store verify`: it sets damaged objects aside",
        )
    return descriptor


def read_small(blob: BlobPath, digest: Digest, title: str) -> bytes:
    """A blob that fits into memory; its reader checks what it says.

    Raises:
        StoreError: it cannot be read.
    """
    path = blob(digest)
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"the contents of {title} cannot be read: {error.strerror}",
            place=str(path),
            hint="run `buildit store verify`, then build again",
        ) from error


def copy_blob(blob: BlobPath, digest: Digest, size: int, title: str, target: Path) -> None:
    """Copy a blob to a new file with mode 0644: by reflink, inside the kernel, or by hand.

    Raises:
        StoreError, IntegrityError: as `open_blob`.
        OSError: the target cannot be written.
    """
    source = open_blob(blob, digest, size, title)
    try:
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(out, 0o644)  # whatever the umask
            copied = size if _cloned(source, out) else _copied(source, out, size)
        finally:
            os.close(out)
    finally:
        os.close(source)
    if copied != size:
        raise IntegrityError(
            f"blob {digest[:12]}… of {title} changed while it was copied",
            place=str(blob(digest)),
            hint="run `buildit store verify`, then build again",
        )


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
