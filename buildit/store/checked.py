"""A blob's bytes as a stream that compares them with the blob's name before it says "end".

All bytes that leave the store go through here or through `image.output`, which hash them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from buildit.digest import CHUNK, Digest
from buildit.errors import IntegrityError, StoreError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class CorruptBlob(IntegrityError):  # noqa: N818 - what it is, as in the messages
    """A blob of the store that is not what its name says; a run sets it aside and makes it anew."""

    def __init__(self, digest: Digest, what: str = "") -> None:
        super().__init__(
            f"{what or 'the blob'} in the store is corrupt; it was set aside",
            place=f"sha256:{digest}",
            hint="run `buildit store verify`, then build again: it is fetched or built anew",
        )
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
            raise StoreError(
                f"the blob cannot be read: {error.strerror}",
                place=f"sha256:{self._digest}",
                hint="run `buildit store verify`",
            ) from None
        if count == 0 and len(view) > 0:
            self._compare()
        self._hash.update(view[:count])
        return int(count)

    def close(self) -> None:
        self._source.close()
        super().close()

    def _compare(self) -> None:
        if self._hash.hexdigest() != self._digest:
            self._on_corrupt()
            raise CorruptBlob(self._digest)


def checked_stream(
    source: BinaryIO, digest: Digest, on_corrupt: Callable[[], object]
) -> io.BufferedReader:
    """Wrap an open file; it closes with the stream. `on_corrupt` runs before the error.

    Raises:
        CorruptBlob: from the read that meets the end, where the bytes do not match `digest`.
        StoreError: from any read, where the disk fails.
    """
    return io.BufferedReader(_Checked(source, digest, on_corrupt), CHUNK)
