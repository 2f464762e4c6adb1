"""Downloads under way, one file per wanted digest, so that an interrupted one goes on.

A partial file proves nothing: it is hashed again from its first byte before more is added, and one
with wrong bytes is dropped, never mended. A lock lets one process at a time fill it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from buildit.digest import CHUNK, Digest
from buildit.errors import StoreError


class Partial:
    """One locked partial file. `size` bytes of it are hashed; anything behind is cut off."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._stream: BinaryIO = open(fd, "r+b", buffering=0)  # noqa: SIM115  # close() ends it
        self._hash = hashlib.sha256()
        self.size = 0

    def rehash(self) -> int:
        """Hash what is there from byte 0; the number of bytes."""
        self._hash = hashlib.sha256()
        self.size = 0
        self._stream.seek(0)
        while chunk := self._stream.read(CHUNK):
            self._hash.update(chunk)
            self.size += len(chunk)
        return self.size

    def add(self, chunk: bytes) -> None:
        """Append.

        Raises:
            StoreError: the disk is full or fails.
        """
        try:
            view = memoryview(chunk)
            while view:
                view = view[self._stream.write(view) :]
        except OSError as error:
            raise StoreError(
                f"cannot write: {error.strerror}",
                place=str(self.path),
                hint="free some space, then run the same command again: it goes on from there",
            ) from error
        self._hash.update(chunk)
        self.size += len(chunk)

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def rewind(self) -> BinaryIO:
        self._stream.seek(0)
        return self._stream

    def head(self, length: int) -> bytes:
        return os.pread(self._stream.fileno(), length, 0)

    def restart(self) -> None:
        """Go on in a fresh file: whoever still has the old one open changes nothing here."""
        fresh = _locked(self.path, os.O_CREAT | os.O_EXCL, replace=True)
        self._stream.close()
        self._stream = open(fresh, "r+b", buffering=0)  # noqa: SIM115  # close() ends it
        self._hash = hashlib.sha256()
        self.size = 0

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)

    def descriptor(self) -> int:
        """One more descriptor of the file, which keeps it locked when this object lets go."""
        return os.dup(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


@contextmanager
def open_partial(folder: Path, name: str) -> Iterator[Partial]:
    """The partial file `name`, locked; waits while another process fills it.

    An empty file is removed at the end, one with bytes stays for the next try.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Partial(path, _locked(path, os.O_CREAT, replace=False))
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror}", place=str(path)) from error
    try:
        yield partial
    finally:
        if partial.size == 0:
            partial.drop()
        partial.close()


def _locked(path: Path, flags: int, *, replace: bool) -> int:
    """Open and lock `path`, until the file that we hold is the one that the name means."""
    if replace:
        path.unlink(missing_ok=True)
    while True:
        mode = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags
        fd = os.open(path, mode, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            held, named = os.fstat(fd), os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            os.close(fd)  # its former holder finished and removed it
            continue
        except BaseException:
            os.close(fd)
            raise
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
            return fd
        os.close(fd)
