"""SFTP servers that lie: each request ends, with one error that says what was wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

import pytest

from buildit.remote.sftp.client import (
    ATTRS,
    DATA,
    EOF,
    HANDLE,
    LSTAT,
    NAME,
    NO_SUCH_FILE,
    OK,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    STATUS,
    VERSION_REPLY,
    Sftp,
    StatusError,
    string,
)
from buildit.remote.transport import LocationError

pytestmark = pytest.mark.unit
Answer = Callable[[int, int, bytes], bytes]
"""Packets for one request: its kind, its number, the rest of it."""
GREETING = struct.pack(">IBI", 5, VERSION_REPLY, 3)


def packet(kind: int, number: int, body: bytes) -> bytes:
    return struct.pack(">IBI", 5 + len(body), kind, number) + body


def status(number: int, code: int) -> bytes:
    return packet(STATUS, number, struct.pack(">I", code) + string(b"no") + string(b""))


def attrs(size: int) -> bytes:
    return struct.pack(">IQI", 0x05, size, 0o100644)


class Server:
    """The far end of a pipe: answers each request when it was sent whole."""

    def __init__(self, answer: Answer, greeting: bytes = GREETING) -> None:
        self._answer = answer
        self._sent = bytearray()
        self._out = bytearray(greeting)
        self._greeted = False
        self.asked: list[int] = []

    def send(self, data: bytes, *, patient: bool) -> None:  # noqa: ARG002
        self._sent += data
        while len(self._sent) >= 4:
            (length,) = struct.unpack_from(">I", self._sent)
            if len(self._sent) < 4 + length:
                return
            kind, body = self._sent[4], bytes(self._sent[5 : 4 + length])
            del self._sent[: 4 + length]
            if not self._greeted:
                self._greeted = True
                continue
            self.asked.append(kind)
            assert len(self.asked) < 5000, "it goes on asking"
            self._out += self._answer(kind, struct.unpack_from(">I", body)[0], body[4:])

    def receive(self, *, patient: bool) -> bytes:  # noqa: ARG002
        data = bytes(self._out[: 256 << 10])
        del self._out[: 256 << 10]
        return data

    def ended(self) -> LocationError:
        return LocationError("far", "it ended")

    def close(self) -> None:
        self._out.clear()


def serving(**answers: Answer) -> tuple[Sftp, Server]:
    """A session with a server that is sound but for these kinds of request."""
    kinds = {LSTAT: "lstat", OPEN: "open", OPENDIR: "opendir", READ: "read", READDIR: "readdir"}

    def answer(kind: int, number: int, body: bytes) -> bytes:
        special = answers.get(kinds.get(kind, ""))
        if special is not None:
            return special(kind, number, body)
        if kind in (OPEN, OPENDIR):
            return packet(HANDLE, number, string(b"h"))
        if kind == LSTAT:
            return packet(ATTRS, number, attrs(100_000))
        return status(number, EOF if kind in (READ, READDIR) else OK)

    server = Server(answer)
    return Sftp(server), server


def test_an_answer_longer_than_was_asked_for() -> None:
    sftp, _ = serving(read=lambda _k, n, _b: packet(DATA, n, string(b"x" * 40_000)))
    with pytest.raises(StatusError, match="40000 bytes where 1000 were asked for"):
        list(sftp.chunks("f", 0, 1000))
    sftp, _ = serving(
        read=lambda _k, n, _b: packet(DATA, n, string(b"x" * 40_000)),
        lstat=lambda _k, n, _b: packet(ATTRS, n, attrs(10)),
    )
    with pytest.raises(StatusError, match="40000 bytes where 32768 were asked for"):
        sftp.read_small(["f", "g"], 40_000)


def test_data_without_bytes_is_no_progress() -> None:
    sftp, _ = serving(read=lambda _k, n, _b: packet(DATA, n, string(b"")))
    with pytest.raises(StatusError, match="cut short"):
        list(sftp.chunks("f", 0, 1000))


def name(*texts: bytes) -> bytes:
    entries = b"".join(string(text) + string(b"") + struct.pack(">I", 0) for text in texts)
    return struct.pack(">I", len(texts)) + entries


def test_a_directory_without_end() -> None:
    sftp, _ = serving(readdir=lambda _k, n, _b: packet(NAME, n, name()))
    with pytest.raises(StatusError, match="without end"):
        sftp.listings(["d"])
    many = name(*[b"x" * 200_000, b"y"])
    sftp, server = serving(readdir=lambda _k, n, _b: packet(NAME, n, many))
    with pytest.raises(StatusError, match="too many names"):
        sftp.listings(["d"])
    assert len(server.asked) < 500


def test_answers_that_nobody_asked_for() -> None:
    """Kept until somebody asks for them, they would fill the memory."""
    sftp, _ = serving(lstat=lambda _k, n, _b: b"".join(status(n + m, OK) for m in range(1, 99)))
    with pytest.raises(LocationError, match="what was not asked"):
        sftp.status("f")
    sftp, _ = serving(lstat=lambda _k, n, _b: packet(ATTRS, n, attrs(1)) * 2)
    with pytest.raises(LocationError, match="what was not asked"):
        sftp.statuses(["f", "g"])


def test_a_short_answer_is_asked_on() -> None:
    content = random.Random(1).randbytes(3000)

    def read(_kind: int, number: int, body: bytes) -> bytes:
        at, size = struct.unpack(">QI", body[-12:])
        part = content[at : at + min(size, 700)]
        return packet(DATA, number, string(part)) if part else status(number, EOF)

    sftp, _ = serving(read=read, lstat=lambda _k, n, _b: packet(ATTRS, n, attrs(len(content))))
    assert b"".join(sftp.chunks("f", 0, 3000)) == content
    assert sftp.read_small(["f", "g"], 40_000) == [content, content]


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        (b"hi\n" + GREETING, r"prints text before SFTP begins: 'hi\\n'"),
        (b"\x1b[2J" + GREETING, "does not speak SFTP"),
        (struct.pack(">I", 0xFFFFFFFF), "does not speak SFTP"),
        (struct.pack(">IBI", 5, VERSION_REPLY, 2), "does not speak SFTP"),
        (struct.pack(">IB", 1, VERSION_REPLY), "does not speak SFTP"),
        (b"", "it ended"),
        (b"\0\0\0", "it ended"),
    ],
)
def test_greetings(greeting: bytes, message: str) -> None:
    with pytest.raises(LocationError, match=message):
        Sftp(Server(lambda _k, n, _b: status(n, OK), greeting))


def test_a_greeting_with_extensions_that_are_cut_off() -> None:
    body = struct.pack(">I", 3) + string(b"a") + string(b"1") + struct.pack(">I", 1 << 31)
    greeting = struct.pack(">IB", 1 + len(body), VERSION_REPLY) + body
    assert Sftp(Server(lambda _k, n, _b: status(n, NO_SUCH_FILE), greeting)).status("f") is None


KINDS = (STATUS, HANDLE, DATA, NAME, ATTRS, 201, 0, 255)


def noise(rng: random.Random) -> Iterator[bytes]:
    while True:
        form = rng.randrange(4)
        if form == 0:
            yield rng.randbytes(rng.randrange(40))
        elif form == 1:
            yield string(rng.randbytes(rng.randrange(40)))
        elif form == 2:
            yield struct.pack(">I", rng.choice([0, 1, 2, 4, 1 << 31, 0xFFFFFFFF]))
        else:
            yield struct.pack(">I", 1) + string(b"n") * 2 + rng.randbytes(rng.randrange(12))


@pytest.mark.parametrize("seed", range(20))
def test_any_answer_is_taken_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    bodies = noise(rng)

    def answer(kind: int, number: int, _body: bytes) -> bytes:
        if rng.random() < 0.4:
            if kind in (OPEN, OPENDIR):
                return packet(HANDLE, number, string(b"h"))
            return packet(ATTRS, number, attrs(50)) if kind == LSTAT else status(number, OK)
        number += rng.random() < 0.02
        return packet(rng.choice(KINDS), number, next(bodies))

    def write(sftp: Sftp) -> None:
        sftp.write_small([("a", b"x"), ("b", b"y")])

    tasks: list[Callable[[Sftp], object]] = [
        lambda sftp: sftp.statuses(["a", "b", "c"]),
        lambda sftp: sftp.listings(["a", "b"]),
        lambda sftp: sftp.read_small(["a", "b", "c"], 40_000),
        lambda sftp: list(sftp.chunks("a", 0, 100_000)),
        lambda sftp: sftp.rename([("a", "b")]),
        lambda sftp: sftp.replace("a", "b"),
        lambda sftp: sftp.free("a"),
        write,
    ]
    for _ in range(60):
        sftp = Sftp(Server(answer))
        for task in rng.sample(tasks, 4):
            try:
                task(sftp)
            except StatusError:
                continue
            except LocationError:
                break
