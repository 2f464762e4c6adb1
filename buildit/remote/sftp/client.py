"""SFTP, the client's half of version 3 (draft-ietf-secsh-filexfer-02): files of one server.

Requests are sent ahead of their answers, so that neither a large file nor thousands of small ones
wait for the network's round trips. It moves bytes and judges none of them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from buildit.remote.sftp.wire import (
    ATTRS,
    CLOSE,
    CREATE,
    DATA,
    EOF,
    EXTENDED,
    EXTENDED_REPLY,
    FOR_READING,
    FOR_WRITING,
    FSETSTAT,
    HANDLE,
    HAS_MODE,
    LSTAT,
    MKDIR,
    NAME,
    NO_SUCH_FILE,
    OK,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    REMOVE,
    RENAME,
    SETSTAT,
    STATUS,
    TRUNCATE,
    WRITE,
    Pipe,
    Session,
    Status,
    StatusError,
    attributes,
    counted,
    listed,
    string,
    text,
)

AHEAD = 8 << 20
"""Bytes of a file asked for, or sent, before the first answer must be here."""
MOST_OPEN = 256
"""Files that are written at one time: a process may have 1024 open on most servers."""
MOST_NAMES = 1_000_000
MOST_LETTERS = 64 << 20
"""Of one directory."""
FSYNC = b"fsync@openssh.com"
POSIX_RENAME = b"posix-rename@openssh.com"
STATVFS = b"statvfs@openssh.com"
BEGUN = struct.pack(">II", HAS_MODE, 0o644)
FINISHED = struct.pack(">II", HAS_MODE, 0o444)
"""Attributes: whatever the account's umask is, the web server must be able to read it."""


@dataclass(frozen=True, slots=True)
class Small:
    """A file to be written in one piece."""

    path: str
    content: bytes


class Sftp:
    """One session. Not thread-safe: its owner lets one thread in at a time."""

    def __init__(self, pipe: Pipe) -> None:
        self._session = Session(pipe)

    @property
    def piece(self) -> int:
        """Bytes of one read or write that the server takes."""
        return self._session.piece

    def close(self) -> None:
        self._session.close()

    # -- single requests

    def status(self, path: str) -> Status | None:
        """Of the name itself, not of what a link leads to; None where there is none."""
        return self.statuses((path,))[0]

    def statuses(self, paths: Sequence[str]) -> list[Status | None]:
        """Of many names; None where there is none.

        Raises:
            StatusError: the server refuses to say.
        """
        found: list[Status | None] = []
        for reply in self._session.exchange((LSTAT, text(path)) for path in paths):
            if reply.kind == STATUS and reply.code() == NO_SUCH_FILE:
                found.append(None)
            else:
                found.append(attributes(reply.checked(ATTRS)))
        return found

    def make_directories(self, paths: Iterable[str]) -> None:
        """Create directories, parents first; one that is there already is as good."""
        mode = struct.pack(">II", HAS_MODE, 0o755)
        asked = list(paths)
        made = self._session.exchange((MKDIR, text(path) + mode) for path in asked)
        # Whether one is there shows when something is written in it. The account's umask counts
        # when it is made, and the web server must be able to look into it.
        new = [path for path, reply in zip(asked, made, strict=True) if reply.code() == OK]
        for _ in self._session.exchange((SETSTAT, text(path) + mode) for path in new):
            pass

    def remove(self, path: str) -> None:
        self._session.one(REMOVE, text(path)).done()

    def rename(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Status of each; OpenSSH's server refuses where the new name is taken."""
        return [
            r.code() for r in self._session.exchange((RENAME, text(a) + text(b)) for a, b in pairs)
        ]

    def replace(self, old: str, new: str) -> None:
        """Rename over what has the new name.

        Raises:
            StatusError: the server refuses, or cannot do it in one step.
        """
        if POSIX_RENAME not in self._session.extensions:
            raise StatusError(8, "the server has no posix-rename@openssh.com")
        self._session.one(EXTENDED, string(POSIX_RENAME) + text(old) + text(new)).done()

    def free(self, path: str) -> int | None:
        """Bytes that may still be written where `path` is; None where the server does not say."""
        if STATVFS not in self._session.extensions:
            return None
        try:
            body = self._session.one(EXTENDED, string(STATVFS) + text(path)).checked(EXTENDED_REPLY)
            _, block, _, _, available = struct.unpack_from(">QQQQQ", body)
        except (StatusError, struct.error):
            return None
        return int(block * available)

    # -- many small things at once

    def listings(self, paths: Sequence[str]) -> list[tuple[str, ...]]:
        """The sorted names in each directory; none where there is no such directory.

        Raises:
            StatusError: the server refuses.
        """
        handles = self._opened([(OPENDIR, text(path)) for path in paths])
        names: list[list[str]] = [[] for _ in paths]
        letters = 0
        left = [at for at, handle in enumerate(handles) if handle is not None]
        try:
            while left:
                asked = [(READDIR, string(handles[at] or b"")) for at in left]
                replies = self._session.exchange(asked)
                ended = set()
                for at, reply in zip(left, replies, strict=True):
                    if reply.kind == STATUS and reply.code() == EOF:
                        ended.add(at)
                    else:
                        found = listed(reply.checked(NAME))
                        letters += sum(map(len, found))
                        names[at] += found
                    if len(names[at]) > MOST_NAMES or letters > MOST_LETTERS:
                        raise StatusError(-1, f"{paths[at]} has too many names")
                left = [at for at in left if at not in ended]
        finally:
            self._closed(handles)
        return [tuple(sorted({*those} - {".", ".."})) for those in names]

    def read_small(self, paths: Sequence[str]) -> list[bytes | None]:
        """Files that are not larger than a piece; None where there is none, or it is larger.

        Raises:
            StatusError: the server refuses.
        """
        statuses = self.statuses(paths)
        wanted = [s is not None and s.regular and s.size <= self.piece for s in statuses]
        asked = [
            (OPEN, text(path) + struct.pack(">II", FOR_READING, 0))
            for path, want in zip(paths, wanted, strict=True)
            if want
        ]
        handles = self._opened(asked)
        reads = struct.pack(">QI", 0, self.piece)
        try:
            replies = self._session.exchange(
                (READ, string(handle) + reads) for handle in handles if handle is not None
            )
            contents = iter(
                b""
                if r.kind == STATUS and r.code() == EOF
                else counted(r.checked(DATA), self.piece)
                for r in replies
            )
            opened = iter(None if handle is None else next(contents, None) for handle in handles)
            found = [next(opened) if want else None for want in wanted]
        finally:
            self._closed(handles)
        for at, (content, status) in enumerate(zip(found, statuses, strict=True)):
            if content is not None and status is not None and len(content) < status.size:
                # a short answer (draft, 6.4), as `chunks` knows them
                found[at] = b"".join(self.chunks(paths[at], 0, status.size))
        return found

    def _opened(self, requests: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        """A handle for each; None where there is no such thing."""
        found: list[bytes | None] = []
        for reply in self._session.exchange(requests):
            if reply.kind == STATUS and reply.code() == NO_SUCH_FILE:
                found.append(None)
            else:
                found.append(counted(reply.checked(HANDLE)))
        return found

    def _closed(self, handles: Sequence[bytes | None]) -> None:
        for _ in self._session.exchange((CLOSE, string(h)) for h in handles if h is not None):
            pass

    # -- reading

    def chunks(self, path: str, offset: int, end: int) -> Iterator[bytes]:
        """The bytes of a file from `offset` up to `end`, or to its own end.

        Raises (while reading):
            StatusError: it cannot be opened or read.
        """
        opened = self._session.one(OPEN, text(path) + struct.pack(">II", FOR_READING, 0))
        handle = opened.checked(HANDLE)
        under_way: deque[tuple[int, int, int]] = deque()
        at = offset
        try:
            while True:
                while at < end and len(under_way) * self._session.piece < AHEAD:
                    size = min(self._session.piece, end - at)
                    under_way.append((self._ask_read(handle, at, size), at, size))
                    at += size
                if not under_way:
                    return
                number, start, size = under_way.popleft()
                reply = self._session.answer(number)
                if reply.kind == STATUS and reply.code() == EOF:
                    return
                while True:
                    data = counted(reply.checked(DATA), size)
                    yield data
                    start, size = start + len(data), size - len(data)
                    if not size:
                        break
                    # a short answer (draft, 6.4): the rest of the piece is asked for anew
                    reply = self._session.answer(self._ask_read(handle, start, size))
                    if reply.kind == STATUS and reply.code() == EOF:
                        return
        finally:
            self._session.drop(number for number, _, _ in under_way)
            self._session.drop((self._session.ask(CLOSE, handle),))
            self._session.flush()

    # -- writing

    def write(self, path: str, source: BinaryIO, offset: int) -> Iterator[int]:
        """Write a stream into a file from `offset` on, made durable; yields how far it is.

        Raises (while writing):
            StatusError: the server cannot write it, or not all of it.
        """
        flags = FOR_WRITING | CREATE | (0 if offset else TRUNCATE)
        handle = self._session.one(OPEN, text(path) + struct.pack(">I", flags) + BEGUN).checked(
            HANDLE
        )
        under_way: deque[int] = deque()
        try:
            while chunk := source.read(self._session.piece):
                body = (handle, struct.pack(">QI", offset, len(chunk)), chunk)
                under_way.append(self._session.ask(WRITE, *body))
                offset += len(chunk)
                self._session.flush()
                while len(under_way) * self._session.piece >= AHEAD:
                    self._session.answer(under_way.popleft()).done()
                yield offset
            while under_way:
                self._session.answer(under_way.popleft()).done()
            self._session.answer(self._session.ask(FSETSTAT, handle, FINISHED)).done()
            if FSYNC in self._session.extensions:
                self._session.answer(self._session.ask(EXTENDED, string(FSYNC), handle)).done()
        finally:
            self._session.drop(under_way)
            number = self._session.ask(CLOSE, handle)
        self._session.answer(number).done()

    def write_small(self, files: Sequence[Small], *, durable: bool = True) -> None:
        """Write many files that each fit into one piece, a group at a time.

        Raises:
            StatusError: the server cannot write one of them.
        """
        for at in range(0, len(files), MOST_OPEN):
            self._write_group(files[at : at + MOST_OPEN], durable=durable)

    def _write_group(self, files: Sequence[Small], *, durable: bool) -> None:
        flags = struct.pack(">I", FOR_WRITING | CREATE | TRUNCATE) + BEGUN
        requests = [(OPEN, text(file.path) + flags) for file in files]
        opened = self._session.exchange(requests)
        for number, reply in enumerate(opened):
            if reply.kind == STATUS:
                # left by an upload that was cut short when it was finished but for its name
                self._session.one(REMOVE, text(files[number].path))
                opened[number] = self._session.one(*requests[number])
        handles = [reply.checked(HANDLE) for reply in opened]
        sync = durable and FSYNC in self._session.extensions
        requests = []
        for file, handle in zip(files, handles, strict=True):
            place = struct.pack(">QI", 0, len(file.content))
            requests.append((WRITE, handle + place + file.content))
            requests.append((FSETSTAT, handle + FINISHED))
            if sync:
                requests.append((EXTENDED, string(FSYNC) + handle))
            requests.append((CLOSE, handle))
        for reply in self._session.exchange(requests):
            reply.done()

    def _ask_read(self, handle: bytes, at: int, size: int) -> int:
        return self._session.ask(READ, handle, struct.pack(">QI", at, size))
