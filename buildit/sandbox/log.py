"""The log of a build: the bytes that it wrote, bounded, and how a terminal may show them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Self

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class LogFile:
    """A file that keeps the first and the last `limit / 2` bytes of what is written to it.

    The later half is a ring inside the file while the build runs, so memory stays flat; closing
    brings it in order. Where bytes were left out, one line between the halves says how many.
    Bytes are stored raw and nothing with a time or a name in it is added: a build that writes the
    same twice leaves the same log.
    """

    __slots__ = ("_fd", "_half", "written")

    def __init__(self, path: Path, limit: int) -> None:
        """Create or empty the file. `limit` is in bytes, at least 2.

        Raises:
            OSError: the file cannot be written.
        """
        self._half = limit // 2
        self.written = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)

    @property
    def truncated(self) -> bool:
        return self.written > 2 * self._half

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            place, room = self._place()
            part = os.pwrite(self._fd, rest[:room], place)
            self.written += part
            rest = rest[part:]

    def _place(self) -> tuple[int, int]:
        if self.written < self._half:
            return self.written, self._half - self.written
        turn = (self.written - self._half) % self._half
        return self._half + turn, self._half - turn

    def close(self) -> None:
        if self._fd < 0:
            return
        try:
            if self.truncated:
                self._unroll()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _unroll(self) -> None:
        turn = (self.written - self._half) % self._half
        ring = _read(self._fd, self._half, self._half)
        left_out = self.written - 2 * self._half
        mark = b"\n[buildit: %d bytes left out here]\n" % left_out
        place = self._half
        for part in (mark, ring[turn:], ring[:turn]):
            place += _write(self._fd, part, place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(fd: int, count: int, place: int) -> bytes:
    parts = []
    while count and (part := os.pread(fd, count, place)):
        parts.append(part)
        place += len(part)
        count -= len(part)
    return b"".join(parts)


def _write(fd: int, data: bytes, place: int) -> int:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(fd, rest, place)
        place += done
        rest = rest[done:]
    return len(data)


def printable(data: bytes) -> str:
    """Text for a terminal: nothing in it can move the cursor, ring or reorder what is shown.

    Invalid UTF-8 becomes U+FFFD; control characters (tab and newline stay) are written `\\x1b`.
    """
    text = data.decode("utf-8", "replace")
    return _UNSAFE.sub(lambda found: _escaped(ord(found.group())), text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def last_lines(path: Path, count: int) -> tuple[str, ...]:
    """The last lines of a log, printable; at most 64 KiB are read. Empty where there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - (64 << 10)))
            data = stream.read()
    except FileNotFoundError:
        return ()
    return tuple(printable(line) for line in data.splitlines()[-count:])
