"""Bytes by `ssh://` URL: one SFTP session per account, kept for the whole run.

`ssh://user@host:port/path` is relative to the login directory, with two slashes absolute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from buildit.model.address import Ssh
from buildit.remote.sftp.client import NO_SUCH_FILE, Sftp, StatusError
from buildit.remote.sftp.login import connect
from buildit.remote.transport import LocationError, Response, check_cap, ssh_address


class _FileError(LocationError):
    """About one file; the session goes on."""


class SftpTransport:
    """Sessions by account, opened at first use; each serves one thread at a time."""

    def __init__(self, connect: Callable[[Ssh], Sftp] = connect) -> None:
        self._connect = connect
        self._sessions: dict[Ssh, Sftp] = {}
        self._locks: dict[Ssh, threading.RLock] = {}
        self._guard = threading.Lock()

    @contextmanager
    def session(self, account: Ssh) -> Iterator[Sftp]:
        """The session of an account, for this thread alone; one that failed is not used again.

        Raises:
            LocationError: it cannot be opened, or was lost inside.
        """
        login = replace(account, path="")
        with self._guard:
            lock = self._locks.setdefault(login, threading.RLock())
        with lock:
            sftp = self._sessions.get(login)
            if sftp is None:
                sftp = self._sessions[login] = self._connect(login)
            try:
                yield sftp
            except _FileError:
                raise
            except (LocationError, KeyboardInterrupt):  # the latter may have cut a packet in two
                self._sessions.pop(login, None)
                sftp.close()
                raise

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        account = ssh_address(url)
        path = account.path
        with self.session(account) as sftp:
            try:
                size = _regular_size(sftp, url, path)
            except StatusError as error:
                raise _refused(url, error) from error
            _check(url, size, cap)
            start = offset if offset <= size else 0
            chunks = _translated(sftp.chunks(path, start, size), url, start, size)
            try:
                yield Response(chunks, start, size, "", lambda: None)
            finally:
                chunks.close()

    def close(self) -> None:
        for sftp in self._sessions.values():
            with suppress(LocationError):
                sftp.close()
        self._sessions.clear()


def _regular_size(sftp: Sftp, url: str, path: str) -> int:
    status = sftp.status(path)
    if status is None:
        raise _FileError(url, "no such file", absent=True)
    if not status.regular:
        raise _FileError(url, "is not a regular file")
    return status.size


def _check(url: str, size: int, cap: int) -> None:
    try:
        check_cap(url, size, cap)
    except LocationError as error:
        raise _FileError(url, error.reason, wrong=True) from None


def _refused(url: str, error: StatusError) -> LocationError:
    return _FileError(url, f"the server refuses: {error.text}", absent=error.code == NO_SUCH_FILE)


def _translated(
    chunks: Iterator[bytes], url: str, position: int, size: int
) -> Generator[bytes, None, None]:
    try:
        for chunk in chunks:
            position += len(chunk)
            yield chunk
    except StatusError as error:
        raise _refused(url, error) from error
    if position < size:
        raise _FileError(url, f"the file ended after {position} of {size} bytes", transient=True)
