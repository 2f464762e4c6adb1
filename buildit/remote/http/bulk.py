"""Many small files of one web server over one connection, each asked for before the last has come.

Only the plainest of answers is understood: HTTP/1.1, 200, a stated length, nothing encoded. At any
other one the file is left to the general transport, and so are all that were still to come.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from buildit.remote.http import urls
from buildit.remote.transport import LocationError

AHEAD = 64
"""Requests under way; their answers must fit into what the two ends buffer, or wait there."""
LARGEST = 4 << 20
"""Bytes of the largest body that is taken."""
HEAD = 16 << 10
_READ = 64 << 10
"""Bytes of one read; a TLS record has 16 kB, and larger buffers are mapped anew each time."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds to connect, and that one answer may take once it is its turn."""

    connect: float
    answer: float


def bodies(
    wanted: Sequence[tuple[str, int]], authorities: str | None, pace: Pace
) -> Iterator[bytes | None]:
    """The bodies of URLs of one server, in their order, each of at most so many bytes; None where
    the general transport should be asked. Ends early where nothing more is to be had this way."""
    try:
        connection = _connected(urls.parse_target(wanted[0][0]), authorities, pace)
    except (OSError, LocationError):
        return  # the general transport says better what is wrong
    with connection:
        reader = _Reader(connection, pace)
        asked = 0
        for number, (_, cap) in enumerate(wanted):
            try:
                if asked - number <= AHEAD // 2:
                    connection.settimeout(pace.answer)
                    ahead = wanted[asked : number + AHEAD]
                    connection.sendall(b"".join(_request(url) for url, _ in ahead))
                    asked += len(ahead)
                body = reader.answer(cap)
            except (OSError, ValueError):
                return
            yield body
            if reader.ended:
                return


def _request(url: str) -> bytes:
    host, _, path = url.partition("//")[2].partition("/")
    return (
        f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n"
        "User-Agent: buildit\r\nAccept: */*\r\nAccept-Encoding: identity\r\n\r\n"
    ).encode("ascii")


def _connected(target: urls.Target, authorities: str | None, pace: Pace) -> socket.socket:
    port = urlsplit(target.url).port or (443 if target.scheme == "https" else 80)
    plain = socket.create_connection((target.host, port), pace.connect)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if urls.is_link_local(str(plain.getpeername()[0])):
            raise OSError("link-local")
        plain.settimeout(pace.answer)
        if target.scheme != "https":
            return plain
        context = ssl.create_default_context(cafile=authorities)
        return context.wrap_socket(plain, server_hostname=target.host)
    except BaseException:
        plain.close()
        raise


class _Reader:
    def __init__(self, connection: socket.socket, pace: Pace) -> None:
        self._connection = connection
        self._pace = pace
        self._buffer = bytearray()
        self.ended = False

    def answer(self, cap: int) -> bytes | None:
        """One body; None for anything but a plain one that is not too long.

        Raises:
            OSError, ValueError: the connection is of no more use.
        """
        until = time.monotonic() + self._pace.answer
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD:
                raise ValueError("an endless head")
            self._more(until)
        head = bytes(self._buffer[:end]).lower().split(b"\r\n")
        del self._buffer[: end + 4]
        fields = dict(_field(line) for line in head[1:])
        words = head[0].split(b" ")
        length = fields.get(b"content-length", b"")
        if (
            len(words) < 2
            or words[0] != b"http/1.1"
            or len(fields) != len(head) - 1
            or not length.isdigit()
        ):
            raise ValueError("not a plain answer")
        if b"transfer-encoding" in fields or len(words[1]) != 3 or words[1] < b"200":
            raise ValueError("not a plain answer")
        size = int(length)
        if size > LARGEST:
            raise ValueError("a long answer")
        self.ended = fields.get(b"connection") == b"close"
        while len(self._buffer) < size:
            self._more(until)
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        good = words[1] == b"200" and b"content-encoding" not in fields and size <= cap
        return body if good else None

    def _more(self, until: float) -> None:
        self._connection.settimeout(max(until - time.monotonic(), 0.001))
        data = self._connection.recv(_READ)
        if not data or time.monotonic() > until:
            raise ValueError("it ended, or is too slow")
        self._buffer += data


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip():
        raise ValueError("not a header field")
    return name, value.strip()
