"""Bytes on their way into the store: hashed while written, invisible until published."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import Digest, digest_bytes
from buildit.errors import IntegrityError
from buildit.store.durable import READ_ONLY, Disk, located, token

FSYNC_AT_MOST = 16
"""Up to so many blobs are synced one by one; more share one syncfs (THREATS N4)."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A complete blob under a temporary name, not synced; `fd` is still open on it."""

    temporary: str
    digest: Digest
    size: int
    fd: int

    def close(self) -> None:
        """Let go of a file that has its own name now."""
        if self.fd >= 0:
            os.close(self.fd)

    def drop(self) -> None:
        """Close it, and remove the temporary name if it is still there."""
        self.close()
        with suppress(OSError):
            os.unlink(self.temporary)


class Sink:
    """A blob being written; a context manager that leaves nothing behind unless committed."""

    def __init__(
        self, path: Path, disk: Disk, deliver: Callable[[Pending], None], subject: str = "blob"
    ) -> None:
        self._path = path
        self._disk = disk
        self._deliver = deliver
        self._subject = subject
        self._hash = hashlib.sha256()
        self._size = 0
        with located(path):
            self._fd = disk.create(subject, path)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def write(self, content: bytes | bytearray | memoryview) -> int:
        """Append bytes.

        Raises:
            StoreError: the disk is full or refuses.
        """
        view = memoryview(content).cast("B")
        with located(self._path):
            self._disk.write(self._subject, self._fd, view)
        self._hash.update(view)
        self._size += len(view)
        return len(view)

    def commit(self, expected: Digest | None = None) -> Digest:
        """Hand the blob over; outside of a batch it is durable and visible on return.

        Raises:
            IntegrityError: the bytes are not the expected ones.
            StoreError: the disk is full or refuses.
        """
        digest = Digest(self._hash.hexdigest())
        if expected is not None and digest != expected:
            raise IntegrityError(
                f"the bytes have SHA-256 {digest}",
                place=f"sha256:{expected}",
                hint="the source changed or was cut short; nothing of it was kept",
            )
        with located(self._path):
            os.fchmod(self._fd, READ_ONLY)
        pending = Pending(str(self._path), digest, self._size, self._fd)
        self._fd = -1
        self._deliver(pending)
        return digest

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


class Batch:
    """Blobs of one batch: written and hashed now, durable and visible when the batch ends."""

    def __init__(
        self,
        prefix: Callable[[], str],
        disk: Disk,
        publish: Callable[[tuple[Pending, ...], int | None], None],
        fd: int,
    ) -> None:
        self._ask_prefix = prefix
        self._prefix = ""
        self._disk = disk
        self._publish = publish
        self._fd = fd
        self._pending: list[Pending] = []

    def ingest(self) -> Sink:
        """A blob to write, as `Store.ingest`; its digest is known at once."""
        return Sink(Path(self._name()), self._disk, self._add)

    def put_bytes(self, content: bytes) -> Digest:
        """Keep bytes: what a sink does, in fewer steps, for many small blobs.

        Raises:
            StoreError: the disk is full or refuses.
        """
        path = self._name()
        with located(path):
            fd = self._disk.create("blob", path)
            pending = Pending(path, digest_bytes(content), len(content), fd)
            try:
                self._disk.write("blob", fd, content)
                os.fchmod(fd, READ_ONLY)
            except BaseException:
                pending.drop()
                raise
        self._add(pending)
        return pending.digest

    def adopt(self, path: Path, fd: int, digest: Digest, size: int) -> None:
        """Take over a file of this file system that its writer hashed; `fd` is open on it and is
        closed here. The file has a name of ours from now on.

        Raises:
            StoreError: the file system refuses.
        """
        temporary = self._name()
        with located(path):
            path.rename(temporary)
            os.fchmod(fd, READ_ONLY)
        self._add(Pending(temporary, digest, size, fd))

    def finish(self) -> None:
        """Make everything durable, then visible; `Store.batch` calls it."""
        pending, self._pending = tuple(self._pending), []
        if pending:
            self._publish(pending, self._fd if len(pending) > FSYNC_AT_MOST else None)

    def drop(self) -> None:
        """Remove what was not published."""
        for blob in self._pending:
            blob.drop()
        self._pending = []

    def _name(self) -> str:
        if not self._prefix:
            self._prefix = self._ask_prefix()  # takes a lease: only where there is a blob
        return self._prefix + token()

    def _add(self, blob: Pending) -> None:
        if len(self._pending) >= FSYNC_AT_MOST:
            # Open files are few; from here on one syncfs serves all.
            os.close(blob.fd)
            blob = Pending(blob.temporary, blob.digest, blob.size, -1)
        self._pending.append(blob)
