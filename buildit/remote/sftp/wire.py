"""SFTP packets (draft-ietf-secsh-filexfer-02) over a pair of pipes: asked ahead, answered later."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from buildit.remote.transport import LocationError

VERSION = 3
GROUP = 128
"""Small requests under way at one time."""
LARGEST_PACKET = 512 << 10
_PIECE = 32 << 10
"""Bytes of one read or write where the server does not say that it takes more."""
_LARGEST_PIECE = 255 << 10

INIT, VERSION_REPLY, OPEN, CLOSE, READ, WRITE, LSTAT = 1, 2, 3, 4, 5, 6, 7
SETSTAT, FSETSTAT, REMOVE, MKDIR, RENAME, EXTENDED = 9, 10, 13, 14, 18, 200
OPENDIR, READDIR = 11, 12
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
OK, EOF, NO_SUCH_FILE = 0, 1, 2
FOR_READING, FOR_WRITING, CREATE, TRUNCATE = 0x01, 0x02, 0x08, 0x10
HAS_SIZE, HAS_OWNER, HAS_MODE, HAS_TIMES, HAS_MORE = 0x01, 0x02, 0x04, 0x08, 0x80000000
_PRINTED = re.compile(rb"[\t\r\n -~]{1,60}")
_CHANGES = frozenset((WRITE, SETSTAT, FSETSTAT, REMOVE, MKDIR, RENAME))
"""Requests that may wait for a slow disk; a client that only reads never waits for minutes."""
_QUICK = (b"limits@openssh.com", b"statvfs@openssh.com")
_KIND, _REGULAR = 0o170000, 0o100000

LIMITS = b"limits@openssh.com"


class Pipe(Protocol):
    """The two ways to a server."""

    def send(self, data: bytes | bytearray | memoryview, *, patient: bool = False) -> None: ...

    def receive(self, *, patient: bool = False) -> bytes:
        """Some bytes; none at the end. `patient` where a disk may have to write first.

        Raises:
            LocationError: none came in time.
        """
        ...

    def ended(self) -> LocationError:
        """Why the server went away, as far as it is known."""
        ...

    def close(self) -> None: ...


class StatusError(Exception):
    """The server refused one request."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Reply:
    kind: int
    body: bytes

    def checked(self, kind: int) -> bytes:
        """The body of an answer of this kind.

        Raises:
            StatusError: the server refused.
        """
        if self.kind == STATUS and kind != STATUS:
            raise self._refusal()
        if self.kind != kind:
            raise StatusError(-1, f"the server answered {self.kind} where {kind} was due")
        return self.body

    def done(self) -> None:
        """Raises StatusError: it did not succeed."""
        if self.code() != OK:
            raise self._refusal()

    def code(self) -> int:
        body = self.checked(STATUS)
        return int(struct.unpack_from(">I", body)[0]) if len(body) >= 4 else -1

    def _refusal(self) -> StatusError:
        code = self.code()
        text = ""
        with suppress(struct.error, UnicodeDecodeError):
            (length,) = struct.unpack_from(">I", self.body, 4)
            text = self.body[8 : 8 + min(length, 200)].decode()
        return StatusError(code, text or f"status {code}")


@dataclass(frozen=True, slots=True)
class Status:
    """Of one file: `size` in bytes, `mode` with its kind."""

    size: int
    mode: int

    @property
    def regular(self) -> bool:
        return self.mode & _KIND == _REGULAR


class Session:
    """Packets of one session. Not thread-safe: its owner lets one thread in at a time."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._in = bytearray()
        self._out = bytearray()
        self._next = 0
        self._replies: dict[int, Reply] = {}
        self._waited_for: set[int] = set()
        self._dropped: set[int] = set()
        self._changing: set[int] = set()
        self._wrote = False
        self.extensions: Mapping[bytes, bytes] = {}
        self.extensions = self._greet()
        self.piece = self._limits()

    def close(self) -> None:
        self._pipe.close()

    def exchange(self, requests: Iterable[tuple[int, bytes]]) -> list[Reply]:
        """The answers to many requests, which are sent ahead of them; in the requests' order."""
        under_way: deque[int] = deque()
        replies = []
        for kind, body in requests:
            under_way.append(self.ask(kind, body))
            if len(self._out) >= LARGEST_PACKET:
                self.flush()
            if len(under_way) >= GROUP:
                # half of the group, so that the server always has something to do
                replies += [self.answer(under_way.popleft()) for _ in range(GROUP // 2)]
        replies += [self.answer(number) for number in under_way]
        return replies

    def one(self, kind: int, body: bytes) -> Reply:
        """Ask, and wait for the answer."""
        return self.answer(self.ask(kind, body))

    def drop(self, numbers: Iterable[int]) -> None:
        """Nobody waits for these answers any more."""
        self._dropped.update(numbers)

    def ask(self, kind: int, *parts: bytes) -> int:
        """Queue a request; its number."""
        self._next = (self._next + 1) & 0xFFFFFFFF
        self._waited_for.add(self._next)
        if self._is_slow(kind, parts):
            self._changing.add(self._next)
        length = 5 + sum(map(len, parts))
        self._out += struct.pack(">IBI", length, kind, self._next)
        for part in parts:
            self._out += part
        return self._next

    def _is_slow(self, kind: int, parts: tuple[bytes, ...]) -> bool:
        self._wrote |= kind == WRITE
        if kind == EXTENDED:
            return not any(name in parts[0] for name in _QUICK)
        return kind in _CHANGES or (kind == CLOSE and self._wrote)

    def flush(self) -> None:
        """Send what is queued."""
        if self._out:
            out, self._out = self._out, bytearray()
            self._pipe.send(out, patient=bool(self._changing))

    def answer(self, number: int) -> Reply:
        """The answer to one request; those of others that come first are kept."""
        self.flush()
        while number not in self._replies:
            kind, body = self._packet()
            if len(body) < 4:
                raise self._garbled()
            (found,) = struct.unpack_from(">I", body)
            if found not in self._waited_for:  # kept, such answers would fill our memory
                raise LocationError("sftp", "the server answers what was not asked")
            self._waited_for.discard(found)
            self._changing.discard(found)
            if found in self._dropped:
                self._dropped.discard(found)
            else:
                self._replies[found] = Reply(kind, body[4:])
        return self._replies.pop(number)

    def _packet(self) -> tuple[int, bytes]:
        length = 0
        while len(self._in) < 4 + length or not length:
            if len(self._in) >= 4 and not length:
                (length,) = struct.unpack_from(">I", self._in)
                if not 0 < length <= LARGEST_PACKET:
                    raise self._garbled()
                continue
            data = self._pipe.receive(patient=bool(self._changing))
            if not data:
                raise self._pipe.ended()
            self._in += data
        kind, body = self._in[4], bytes(self._in[5 : 4 + length])
        del self._in[: 4 + length]
        return kind, body

    def _garbled(self) -> LocationError:
        said = _PRINTED.match(self._in)
        if said and not self.extensions:
            return LocationError(
                "sftp",
                f"the server's shell prints text before SFTP begins: {said[0].decode()!r}",
                hint="make its start-up files (.bashrc) silent for shells that are not interactive",
            )
        return LocationError("sftp", "the server does not speak SFTP")

    def _greet(self) -> Mapping[bytes, bytes]:
        self._pipe.send(struct.pack(">IBI", 5, INIT, VERSION))
        kind, body = self._packet()
        if kind != VERSION_REPLY or len(body) < 4 or struct.unpack_from(">I", body)[0] < VERSION:
            raise self._garbled()
        found: dict[bytes, bytes] = {}
        at = 4
        with suppress(struct.error):
            while at < len(body):
                name, at = _read_string(body, at)
                found[name], at = _read_string(body, at)
        return found

    def _limits(self) -> int:
        """Bytes of one read or write that the server takes."""
        if LIMITS not in self.extensions:
            return _PIECE
        try:
            body = self.one(EXTENDED, string(LIMITS)).checked(EXTENDED_REPLY)
            packet, read, write, _ = struct.unpack_from(">QQQQ", body)
        except (StatusError, struct.error):
            return _PIECE
        least = min(packet - 1024, read or _PIECE, write or _PIECE, _LARGEST_PIECE)
        return max(int(least), 4096)


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def text(path: str) -> bytes:
    return string(path.encode("utf-8", "surrogateescape"))


def _read_string(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">I", body, at)
    return body[at + 4 : at + 4 + length], at + 4 + int(length)


def counted(body: bytes, most: int = LARGEST_PACKET) -> bytes:
    """The bytes of a DATA or HANDLE answer, as many as it states.

    Raises:
        StatusError: none, fewer than stated, or more than the `most` that were asked for.
    """
    (length,) = struct.unpack_from(">I", body) if len(body) >= 4 else (0,)
    if not length or len(body) < 4 + length:
        raise StatusError(-1, "the server's answer is cut short")
    if length > most:
        raise StatusError(-1, f"the server answers {length} bytes where {most} were asked for")
    return body[4 : 4 + length]


def attributes(body: bytes) -> Status:
    try:
        (flags,) = struct.unpack_from(">I", body)
        at, size, mode = 4, 0, 0
        if flags & HAS_SIZE:
            (size,) = struct.unpack_from(">Q", body, at)
            at += 8
        if flags & HAS_OWNER:
            at += 8
        if flags & HAS_MODE:
            (mode,) = struct.unpack_from(">I", body, at)
    except struct.error:
        raise StatusError(-1, "the server's answer is cut short") from None
    return Status(int(size), int(mode))


def listed(body: bytes) -> list[str]:
    """The names of a NAME answer (filexfer-02, 7), each once, as the server has them.

    Raises:
        StatusError: it is cut short, or has none: the end of a directory is said otherwise.
    """
    try:
        (count,) = struct.unpack_from(">I", body)
        found, at = [], 4
        for _ in range(count):
            name, at = _read_string(body, at)
            _, at = _read_string(body, at)
            at = _after_attributes(body, at)
            found.append(name.decode("utf-8", "surrogateescape"))
    except struct.error:
        raise StatusError(-1, "the server's answer is cut short") from None
    if not found:
        raise StatusError(-1, "the server lists a directory without end")
    return found


def _after_attributes(body: bytes, at: int) -> int:
    (flags,) = struct.unpack_from(">I", body, at)
    at += 4
    for flag, size in ((HAS_SIZE, 8), (HAS_OWNER, 8), (HAS_MODE, 4), (HAS_TIMES, 8)):
        at += size if flags & flag else 0
    if flags & HAS_MORE:
        (pairs,) = struct.unpack_from(">I", body, at)
        at += 4
        for _ in range(2 * pairs):
            _, at = _read_string(body, at)
    return at
