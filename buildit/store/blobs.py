"""Bytes of blobs on their way into the store, hashed while they are written and invisible until
they are published; and on their way out, compared with their name before the stream says "end".

All bytes that leave the store go through here or through `image.output`, which hash them.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from buildit.digest import CHUNK, Digest, digest_bytes
from buildit.errors import IntegrityError, StoreError
from buildit.store.disk import READ_ONLY, Disk, located, token

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

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

    def __init__(self, path: Path, disk: Disk, deliver: Callable[[Pending], None]) -> None:
        self._path = path
        self._disk = disk
        self._deliver = deliver
        self._hash = hashlib.sha256()
        self.size = 0
        """Bytes written so far."""
        with located(path):
            self._fd = disk.create("blob", path)

    def write(self, content: bytes | bytearray | memoryview) -> int:
        """Append bytes.

        Raises:
            StoreError: the disk is full or refuses.
        """
        view = memoryview(content).cast("B")
        with located(self._path):
            self._disk.write("blob", self._fd, view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def commit(self, expected: Digest | None = None) -> Digest:
        """Hand the blob over; outside of a batch it is durable and visible on return.

        Raises:
            IntegrityError: the bytes are not the expected ones.
            StoreError: the disk is full or refuses.
        """
        digest = Digest(self._hash.hexdigest())
        if expected is not None and digest != expected:
            hint = "the source changed or was cut short; nothing of it was kept"
            place = f"sha256:{expected}"
            raise IntegrityError(f"the bytes have SHA-256 {digest}", place=place, hint=hint)
        with located(self._path):
            os.fchmod(self._fd, READ_ONLY)
        pending = Pending(str(self._path), digest, self.size, self._fd)
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


@dataclass(slots=True)
class Batch:
    """Blobs of one batch: written and hashed now, durable and visible when the batch ends."""

    _prefix: Callable[[], str]
    _disk: Disk
    _publish: Callable[[tuple[Pending, ...], int | None], None]
    _fd: int
    _pending: list[Pending] = field(default_factory=list)

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
        return self._prefix() + token()

    def _add(self, blob: Pending) -> None:
        if len(self._pending) >= FSYNC_AT_MOST:
            # Open files are few; from here on one syncfs serves all.
            os.close(blob.fd)
            blob = Pending(blob.temporary, blob.digest, blob.size, -1)
        self._pending.append(blob)


class CorruptBlob(IntegrityError):  # noqa: N818 - what it is, as in the messages
    """A blob of the store that is not what its name says; a run sets it aside and makes it anew."""

    def __init__(self, digest: Digest, what: str = "") -> None:
        hint = "run `buildit store verify`, then build again: it is fetched or built anew"
        message = f"{what or 'the blob'} in the store is corrupt; it was set aside"
        super().__init__(message, place=f"sha256:{digest}", hint=hint)
        self.digest = digest
        self.what = what


class _Checked(io.RawIOBase):
    """Reads forward only; the last read raises where the whole is not what was promised."""

    def __init__(self, source: BinaryIO, digest: Digest, on_corrupt: Callable[[], object]) -> None:
        super().__init__()
        self._source = source
        self._digest = digest
        self._on_corrupt = on_corrupt
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        try:
            count = self._source.readinto(view)  # type: ignore[attr-defined]
        except OSError as error:
            reason = f"the blob cannot be read: {error.strerror}"
            place, hint = f"sha256:{self._digest}", "run `buildit store verify`"
            raise StoreError(reason, place=place, hint=hint) from None
        if count == 0 and len(view) > 0 and self._hash.hexdigest() != self._digest:
            self._on_corrupt()
            raise CorruptBlob(self._digest)
        self._hash.update(view[:count])
        return int(count)

    def close(self) -> None:
        self._source.close()
        super().close()


def checked_stream(
    source: BinaryIO, digest: Digest, on_corrupt: Callable[[], object]
) -> io.BufferedReader:
    """Wrap an open file; it closes with the stream. `on_corrupt` runs before the error.

    Raises:
        CorruptBlob: from the read that meets the end, where the bytes do not match `digest`.
        StoreError: from any read, where the disk fails.
    """
    return io.BufferedReader(_Checked(source, digest, on_corrupt), CHUNK)
