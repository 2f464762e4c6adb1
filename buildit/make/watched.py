"""What a build installed, read so that a request to stop is heeded within a chunk.

Every rule looks into every file, so the content of small ones is kept after the first reading: of
50 000 small files that spares four of five times to open one.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from buildit.archive.beneath import Root
from buildit.errors import Interrupted

_SMALL = 16 << 10
_MOST = 64 << 20
_OVERHEAD = 200  # bytes of a path and an entry in the table


@dataclass(frozen=True, slots=True)
class Watched:
    """A tree whose every operation, each read of a file too, ends with `Interrupted` at a stop."""

    tree: Root
    stop: threading.Event
    _small: dict[str, bytes] = field(default_factory=dict)
    _room: list[int] = field(default_factory=lambda: [_MOST])

    def look(self) -> None:
        """Go on, or not.

        Raises:
            Interrupted: `stop` was set.
        """
        if self.stop.is_set():
            raise Interrupted("stopped while what was installed was packed")

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        for found in self.tree.walk():
            self.look()
            yield found

    def readlink(self, path: str) -> str:
        return self.tree.readlink(path)

    def chmod(self, path: str, mode: int) -> None:
        self.tree.chmod(path, mode)

    def open_file(self, path: str) -> BinaryIO:
        self.look()
        known = self._small.get(path)
        if known is not None:
            return io.BytesIO(known)
        return io.BufferedReader(_Heeding(self.tree.open_read(path), path, self))

    def keep(self, path: str, content: bytes) -> None:
        """Remember the whole of a small file."""
        if len(content) <= min(_SMALL, self._room[0]):
            self._room[0] -= len(content) + _OVERHEAD
            self._small[path] = content


class _Heeding(io.RawIOBase):
    """A file, as it is; each read looks first."""

    def __init__(self, fd: int, path: str, watched: Watched) -> None:
        self._inner = io.FileIO(fd, "rb")
        self._path = path
        self._fresh = True
        self._watched = watched

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = self._inner.seek(offset, whence)
        self._fresh = at == 0
        return at

    def fileno(self) -> int:
        return self._inner.fileno()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._watched.look()
        count = self._inner.readinto(buffer)
        if self._fresh and count < len(buffer):  # read(2) is short at the end of a file only
            self._watched.keep(self._path, bytes(buffer[:count]))
        self._fresh = False
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()
