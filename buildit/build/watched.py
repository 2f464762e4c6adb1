"""What a build installed, read so that a request to stop is heeded within a chunk."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from buildit.archive.beneath import Root
from buildit.errors import Interrupted


@dataclass(frozen=True, slots=True)
class Watched:
    """A tree whose every operation, each read of a file too, ends with `Interrupted` at a stop."""

    tree: Root
    stop: threading.Event

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
        return io.BufferedReader(_Heeding(self.tree.open_read(path), self))


class _Heeding(io.RawIOBase):
    """A file, as it is; each read looks first."""

    def __init__(self, fd: int, watched: Watched) -> None:
        self._inner = io.FileIO(fd, "rb")
        self._watched = watched

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._inner.seek(offset, whence)

    def fileno(self) -> int:
        return self._inner.fileno()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._watched.look()
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()
