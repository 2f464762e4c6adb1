"""SFTP, the client's half of version 3 (draft-ietf-secsh-filexfer-02): files of one server.

Requests are sent ahead of their answers, so that neither a large file nor thousands of small ones
wait for the network's round trips (ADR 21). It moves bytes and judges none of them.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from buildit.remote.transport import LocationError

INIT, OPEN, CLOSE, READ, WRITE, LSTAT, SETSTAT, FSETSTAT = 1, 3, 4, 5, 6, 7, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RENAME, EXTENDED = 11, 12, 13, 14, 18, 200
VERSION_REPLY, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201
OK, EOF, NO_SUCH_FILE = 0, 1, 2

_VERSION = 3
_FOR_READING = struct.pack(">II", 0x01, 0)
_FOR_WRITING, _CREATE, _TRUNCATE = 0x02, 0x08, 0x10
_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_MORE = 0x01, 0x02, 0x04, 0x08, 0x80000000
_KIND, _REGULAR = 0o170000, 0o100000
_CHANGES = frozenset((WRITE, SETSTAT, FSETSTAT, REMOVE, MKDIR, RENAME))
_IN_ONE_GO = 128
"""Small requests under way at one time."""
_LARGEST_PACKET = 512 << 10
_PIECE, _LARGEST_PIECE = 32 << 10, 255 << 10
"""Bytes of one read or write: where the server does not say that it takes more, and at most."""
_AHEAD = 8 << 20
"""Bytes of a file asked for, or sent, before the first answer must be here."""
_MOST_OPEN = 256
"""Files that are written at one time: a process may have 1024 open on most servers."""
_MOST_NAMES, _MOST_LETTERS = 1_000_000, 64 << 20
"""Of one listing."""
_FSYNC, _LIMITS = b"fsync@openssh.com", b"limits@openssh.com"
_POSIX_RENAME, _STATVFS = b"posix-rename@openssh.com", b"statvfs@openssh.com"
# Whatever the account's umask is, the web server must be able to read it.
_BEGUN, _FINISHED, _DIRECTORY = (
    struct.pack(">II", _HAS_MODE, mode) for mode in (0o644, 0o444, 0o755)
)
_PRINTED = re.compile(rb"[\t\r\n -~]{1,60}")


class Pipe(Protocol):
    """The two ways to a server."""

    def send(self, data: bytes, *, patient: bool) -> None: ...

    def receive(self, *, patient: bool) -> bytes:
        """Some bytes; none at the end. `patient` where a disk may have to write first.

        Raises:
            LocationError: none came in time.
        """

    def ended(self) -> LocationError:
        """Why the server went away, as far as it is known."""

    def close(self) -> None: ...


class StatusError(Exception):
    """The server refused one request, or its answer is none."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass(frozen=True, slots=True)
class Status:
    """Of one file: `size` in bytes, `mode` with its kind."""

    size: int
    mode: int

    @property
    def regular(self) -> bool:
        return self.mode & _KIND == _REGULAR


class _Fields:
    """What an answer holds, read from the front."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._body)

    def take(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._body):
            raise StatusError(-1, "the server's answer is cut short")
        return self._body[self._at - size : self._at]

    def number(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def status(self) -> Status:
        """filexfer-02, 5."""
        flags = self.number()
        size = self.number(8) if flags & _HAS_SIZE else 0
        self.take(8 if flags & _HAS_OWNER else 0)
        mode = self.number() if flags & _HAS_MODE else 0
        self.take(8 if flags & _HAS_TIMES else 0)
        for _ in range(2 * self.number() if flags & _HAS_MORE else 0):
            self.string()
        return Status(size, mode)


@dataclass(frozen=True, slots=True)
class _Reply:
    kind: int
    body: bytes

    def fields(self, kind: int) -> _Fields:
        """What an answer of this kind holds.

        Raises:
            StatusError: the server refused.
        """
        if self.kind == STATUS and kind != STATUS:
            raise self._refusal()
        if self.kind != kind:
            raise StatusError(-1, f"the server answered {self.kind} where {kind} was due")
        return _Fields(self.body)

    def data(self, kind: int, most: int = _LARGEST_PACKET) -> bytes:
        """The bytes of a DATA or HANDLE answer; none at the end of a file.

        Raises:
            StatusError: refused, none, fewer than stated, or more than the `most` asked for.
        """
        if kind == DATA and self.ends:
            return b""
        found = self.fields(kind).string()
        if not found:
            raise StatusError(-1, "the server's answer is cut short")
        if len(found) > most:
            reason = f"the server answers {len(found)} bytes where {most} were asked for"
            raise StatusError(-1, reason)
        return found

    def done(self) -> None:
        """Raises StatusError: it did not succeed."""
        if self.code() != OK:
            raise self._refusal()

    def code(self) -> int:
        fields = self.fields(STATUS)
        with suppress(StatusError):
            return fields.number()
        return -1

    @property
    def ends(self) -> bool:
        return self.kind == STATUS and self.code() == EOF

    @property
    def absent(self) -> bool:
        return self.kind == STATUS and self.code() == NO_SUCH_FILE

    def _refusal(self) -> StatusError:
        code = self.code()
        text = ""
        with suppress(StatusError, UnicodeDecodeError):
            fields = _Fields(self.body)
            fields.number()
            text = fields.string()[:200].decode()
        return StatusError(code, text or f"status {code}")


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _name(path: str) -> bytes:
    return string(path.encode("utf-8", "surrogateescape"))


class Sftp:
    """One session. Not thread-safe: its owner lets one thread in at a time. `piece` are the bytes
    of one read or write that the server takes."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._in, self._out = bytearray(), bytearray()
        self._last = 0
        self._replies: dict[int, _Reply] = {}
        self._waited_for: set[int] = set()
        self._dropped: set[int] = set()  # whose answers are of no use any more
        self._changes = False
        self._extensions: Mapping[bytes, bytes] = {}
        self._extensions = self._greet()
        self.piece = self._largest_piece()

    def close(self) -> None:
        self._pipe.close()

    # -- packets

    def _exchange(self, requests: Iterable[tuple[int, bytes]]) -> list[_Reply]:
        """The answers to many requests, which are sent ahead of them; in the requests' order."""
        under_way: deque[int] = deque()
        replies = []
        for kind, body in requests:
            under_way.append(self._ask(kind, body))
            if len(self._out) >= _LARGEST_PACKET:
                self._flush()
            if len(under_way) >= _IN_ONE_GO:
                # half of them, so that the server always has something to do
                replies += [self._answer(under_way.popleft()) for _ in range(_IN_ONE_GO // 2)]
        replies += [self._answer(number) for number in under_way]
        return replies

    def _one(self, kind: int, *parts: bytes) -> _Reply:
        return self._answer(self._ask(kind, *parts))

    def _ask(self, kind: int, *parts: bytes) -> int:
        """Queue a request; its number. From the first change on, a disk may have to write before
        the server answers: a client that only reads never waits for minutes."""
        self._last = (self._last + 1) & 0xFFFFFFFF
        self._waited_for.add(self._last)
        self._changes |= kind in _CHANGES
        self._out += struct.pack(">IBI", 5 + sum(map(len, parts)), kind, self._last)
        for part in parts:
            self._out += part
        return self._last

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, bytearray()
            self._pipe.send(bytes(out), patient=self._changes)

    def _answer(self, number: int) -> _Reply:
        """The answer to one request; those of others that come first are kept."""
        self._flush()
        while number not in self._replies:
            kind, body = self._packet()
            found = int.from_bytes(body[:4], "big")
            if len(body) < 4:
                raise self._garbled()
            if found not in self._waited_for:  # kept, such answers would fill our memory
                raise LocationError("sftp", "the server answers what was not asked")
            self._waited_for.discard(found)
            if found in self._dropped:
                self._dropped.discard(found)
            else:
                self._replies[found] = _Reply(kind, body[4:])
        return self._replies.pop(number)

    def _packet(self) -> tuple[int, bytes]:
        length = int.from_bytes(self._received(4), "big")
        if not 0 < length <= _LARGEST_PACKET:
            raise self._garbled()
        packet = self._received(4 + length)
        del self._in[: 4 + length]
        return packet[4], packet[5:]

    def _received(self, size: int) -> bytes:
        while len(self._in) < size:
            data = self._pipe.receive(patient=self._changes)
            if not data:
                raise self._pipe.ended()
            self._in += data
        return bytes(self._in[:size])

    def _garbled(self) -> LocationError:
        said = _PRINTED.match(self._in)
        if said and not self._extensions:
            reason = f"the server's shell prints text before SFTP begins: {said[0].decode()!r}"
            hint = "make its start-up files (.bashrc) silent for shells that are not interactive"
            return LocationError("sftp", reason, hint=hint)
        return LocationError("sftp", "the server does not speak SFTP")

    def _greet(self) -> Mapping[bytes, bytes]:
        self._pipe.send(struct.pack(">IBI", 5, INIT, _VERSION), patient=False)
        kind, body = self._packet()
        if kind != VERSION_REPLY or int.from_bytes(body[:4], "big") < _VERSION:
            raise self._garbled()
        fields, found = _Fields(body[4:]), {}
        with suppress(StatusError):
            while not fields.ended:
                name = fields.string()
                found[name] = fields.string()
        return found

    def _largest_piece(self) -> int:
        if _LIMITS not in self._extensions:
            return _PIECE
        try:
            fields = self._one(EXTENDED, string(_LIMITS)).fields(EXTENDED_REPLY)
            packet, read, write = (fields.number(8) for _ in range(3))
        except StatusError:
            return _PIECE
        return max(min(packet - 1024, read or _PIECE, write or _PIECE, _LARGEST_PIECE), 4096)

    # -- single requests

    def status(self, path: str) -> Status | None:
        """Of the name itself, not of what a link leads to; None where there is none."""
        return self.statuses((path,))[0]

    def statuses(self, paths: Sequence[str]) -> list[Status | None]:
        """Of many names; None where there is none.

        Raises:
            StatusError: the server refuses to say.
        """
        replies = self._exchange((LSTAT, _name(path)) for path in paths)
        return [None if reply.absent else reply.fields(ATTRS).status() for reply in replies]

    def make_directories(self, paths: Sequence[str]) -> None:
        """Create directories, parents first; one that is there already is as good."""
        made = self._exchange((MKDIR, _name(path) + _DIRECTORY) for path in paths)
        # Whether one is there shows when something is written in it. The account's umask counts
        # when it is made, and the web server must be able to look into it.
        new = [path for path, reply in zip(paths, made, strict=True) if reply.code() == OK]
        self._exchange((SETSTAT, _name(path) + _DIRECTORY) for path in new)

    def remove(self, path: str) -> None:
        self._one(REMOVE, _name(path)).done()

    def rename(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Status of each; OpenSSH's server refuses where the new name is taken."""
        replies = self._exchange((RENAME, _name(old) + _name(new)) for old, new in pairs)
        return [reply.code() for reply in replies]

    def replace(self, old: str, new: str) -> None:
        """Rename over what has the new name.

        Raises:
            StatusError: the server refuses, or cannot do it in one step.
        """
        if _POSIX_RENAME not in self._extensions:
            raise StatusError(8, "the server has no posix-rename@openssh.com")
        self._changes = True
        self._one(EXTENDED, string(_POSIX_RENAME), _name(old), _name(new)).done()

    def free(self, path: str) -> int | None:
        """Bytes that may still be written where `path` is; None where the server does not say."""
        if _STATVFS not in self._extensions:
            return None
        try:
            fields = self._one(EXTENDED, string(_STATVFS), _name(path)).fields(EXTENDED_REPLY)
            _, block, _, _, available = (fields.number(8) for _ in range(5))
        except StatusError:
            return None
        return block * available

    # -- many small things at once

    def listings(self, paths: Sequence[str]) -> list[tuple[str, ...]]:
        """The sorted names in each directory; none where there is no such directory.

        Raises:
            StatusError: the server refuses.
        """
        handles = self._opened([(OPENDIR, _name(path)) for path in paths])
        names: list[set[str]] = [set() for _ in paths]
        left = [(at, handle) for at, handle in enumerate(handles) if handle is not None]
        letters = 0
        try:
            while left:
                replies = self._exchange((READDIR, string(handle)) for _, handle in left)
                pairs = zip(left, replies, strict=True)
                more = [(pair, reply) for pair, reply in pairs if not reply.ends]
                left = [pair for pair, _ in more]
                for (at, _), reply in more:
                    found = _listed(reply.fields(NAME))
                    letters += sum(map(len, found))
                    names[at].update(found)
                    if len(names[at]) > _MOST_NAMES or letters > _MOST_LETTERS:
                        raise StatusError(-1, f"{paths[at]} has too many names")
        finally:
            self._closed(handles)
        return [tuple(sorted(those - {".", ".."})) for those in names]

    def read_small(self, paths: Sequence[str], limit: int) -> list[bytes | None]:
        """Whole files; None where there is none, or what has more than `limit` bytes.

        Raises:
            StatusError: the server refuses.
        """
        found: list[bytes | None] = [None for _ in paths]
        sizes = {
            at: status.size
            for at, status in enumerate(self.statuses(paths))
            if status is not None and status.regular and status.size <= limit
        }
        handles = self._opened([(OPEN, _name(paths[at]) + _FOR_READING) for at in sizes])
        there = [(at, h) for at, h in zip(sizes, handles, strict=True) if h is not None]
        first = struct.pack(">QI", 0, self.piece)
        try:
            replies = self._exchange((READ, string(handle) + first) for _, handle in there)
            for (at, _), reply in zip(there, replies, strict=True):
                found[at] = content = reply.data(DATA, self.piece)
                if len(content) < sizes[at]:  # it is long, or the answer short (draft, 6.4)
                    found[at] = b"".join(self.chunks(paths[at], 0, sizes[at]))
        finally:
            self._closed(handles)
        return found

    def _opened(self, requests: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        """A handle for each; None where there is no such thing."""
        replies = self._exchange(requests)
        return [None if reply.absent else reply.data(HANDLE) for reply in replies]

    def _closed(self, handles: Sequence[bytes | None]) -> None:
        self._exchange((CLOSE, string(handle)) for handle in handles if handle is not None)

    # -- large files

    def chunks(self, path: str, offset: int, end: int) -> Iterator[bytes]:
        """The bytes of a file from `offset` up to `end`, or to its own end.

        Raises (while reading):
            StatusError: it cannot be opened or read.
        """
        handle = string(self._one(OPEN, _name(path), _FOR_READING).data(HANDLE))
        under_way: deque[tuple[int, int, int]] = deque()

        def ask(start: int, size: int) -> int:
            return self._ask(READ, handle, struct.pack(">QI", start, size))

        at = offset
        try:
            while True:
                while at < end and len(under_way) * self.piece < _AHEAD:
                    size = min(self.piece, end - at)
                    under_way.append((ask(at, size), at, size))
                    at += size
                if not under_way:
                    return
                number, start, size = under_way.popleft()
                while True:
                    data = self._answer(number).data(DATA, size)
                    if not data:
                        return
                    yield data
                    start, size = start + len(data), size - len(data)
                    if not size:
                        break
                    # a short answer (draft, 6.4): the rest of the piece is asked for anew
                    number = ask(start, size)
        finally:
            self._dropped.update(number for number, _, _ in under_way)
            self._dropped.add(self._ask(CLOSE, handle))
            self._flush()

    def write(self, path: str, source: BinaryIO, offset: int) -> Iterator[int]:
        """Write a stream into a file from `offset` on, made durable; yields how far it is.

        Raises (while writing):
            StatusError: the server cannot write it, or not all of it.
        """
        flags = struct.pack(">I", _FOR_WRITING | _CREATE | (0 if offset else _TRUNCATE))
        handle = string(self._one(OPEN, _name(path), flags, _BEGUN).data(HANDLE))
        under_way: deque[int] = deque()
        try:
            while chunk := source.read(self.piece):
                place = struct.pack(">QI", offset, len(chunk))
                under_way.append(self._ask(WRITE, handle, place, chunk))
                offset += len(chunk)
                self._flush()
                while len(under_way) * self.piece >= _AHEAD:
                    self._answer(under_way.popleft()).done()
                yield offset
            while under_way:
                self._answer(under_way.popleft()).done()
            self._one(FSETSTAT, handle, _FINISHED).done()
            if _FSYNC in self._extensions:
                self._one(EXTENDED, string(_FSYNC), handle).done()
        finally:
            self._dropped.update(under_way)
            number = self._ask(CLOSE, handle)
        self._answer(number).done()

    def write_small(self, files: Sequence[tuple[str, bytes]], *, durable: bool = True) -> None:
        """Write many files (paths and contents), a group at a time.

        Raises:
            StatusError: the server cannot write one of them.
        """
        for at in range(0, len(files), _MOST_OPEN):
            self._write_group(files[at : at + _MOST_OPEN], durable=durable)

    def _write_group(self, files: Sequence[tuple[str, bytes]], *, durable: bool) -> None:
        flags = struct.pack(">I", _FOR_WRITING | _CREATE | _TRUNCATE) + _BEGUN
        requests = [(OPEN, _name(path) + flags) for path, _ in files]
        opened = self._exchange(requests)
        for number, reply in enumerate(opened):
            if reply.kind == STATUS:
                # left by an upload that was cut short when it was finished but for its name
                self._one(REMOVE, _name(files[number][0]))
                opened[number] = self._one(*requests[number])
        sync = durable and _FSYNC in self._extensions
        requests = []
        for (_, content), reply in zip(files, opened, strict=True):
            handle = string(reply.data(HANDLE))
            for at in range(0, max(len(content), 1), self.piece):
                place = struct.pack(">Q", at) + string(content[at : at + self.piece])
                requests.append((WRITE, handle + place))
            requests.append((FSETSTAT, handle + _FINISHED))
            requests += [(EXTENDED, string(_FSYNC) + handle)] if sync else []
            requests.append((CLOSE, handle))
        for reply in self._exchange(requests):
            reply.done()


def _listed(fields: _Fields) -> list[str]:
    """The names of a NAME answer (filexfer-02, 7), as the server has them.

    Raises:
        StatusError: it is cut short, or has none: the end of a directory is said otherwise.
    """
    found = []
    for _ in range(fields.number()):
        found.append(fields.string().decode("utf-8", "surrogateescape"))
        fields.string()
        fields.status()
    if not found:
        raise StatusError(-1, "the server lists a directory without end")
    return found
