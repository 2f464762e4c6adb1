"""Servers that misbehave, on loopback: each download ends within its limits and says why."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import FetchError, IntegrityError
from buildit.remote.fetch import Fetch, Fetcher
from buildit.remote.transport import Circuit, LocationError, Patience, WebLimits, read_small
from buildit.remote.web import WebTransport
from tests.fakes import MemorySink

pytestmark = pytest.mark.sandbox

QUICK = WebLimits(connect=2.0, headers=0.4, window=0.4, least=1000)
CAP = 1 << 20
DRIPS = 40.0
"""So many seconds servers drip: who has not left them long before has no limit."""
BODY = bytes(range(256)) * 800
Script = Callable[[socket.socket, bytes], None]


class RawServer:
    """Answers each connection by a script that gets the socket and the request's head."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []
        self.connections = 0
        self._threads: list[threading.Thread] = []
        self._main = threading.Thread(target=self._serve)
        self._main.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/x.tar.gz"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._answer, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(1)
        # a kept-alive connection stays open for the client's next request
        with connection:
            try:
                while head := _read_head(connection):
                    self.requests.append(head)
                    self._script(connection, head)
            except OSError:
                return  # the client left, as it should

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._main.join()
        for thread in self._threads:
            thread.join()


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(4096)
        if not part:
            return b""
        head += part
    return head


@contextmanager
def serving(script: Script) -> Iterator[RawServer]:
    server = RawServer(script)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def transport() -> Iterator[WebTransport]:
    """Patient, as a busy machine wants it."""
    with closing(WebTransport()) as opened:
        yield opened


@pytest.fixture
def impatient() -> Iterator[WebTransport]:
    """For servers that are waited for in vain."""
    with closing(WebTransport(QUICK)) as opened:
        yield opened


def answer(status: str, body: bytes = b"", *headers: str) -> Script:
    def script(connection: socket.socket, _head: bytes) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    return script


def drip(before: bytes, part: bytes, pause: float = 0.02) -> Script:
    def script(connection: socket.socket, _head: bytes) -> None:
        connection.sendall(before)
        ends = time.monotonic() + DRIPS
        connection.setblocking(False)
        while time.monotonic() < ends:
            if part:
                with contextlib.suppress(BlockingIOError):
                    connection.send(part)
            with contextlib.suppress(BlockingIOError):
                if not connection.recv(1):
                    return
            time.sleep(pause)

    return script


def silence(connection: socket.socket, _head: bytes) -> None:
    connection.settimeout(5)
    connection.recv(1)


def hang_up(connection: socket.socket, _head: bytes) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def raw(data: bytes) -> Script:
    def script(connection: socket.socket, _head: bytes) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)

    return script


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BEHAVIOURS: dict[str, tuple[Script, str]] = {
    "404": (answer("404 Not Found", b"<html>no</html>"), r"not found \(HTTP 404 Not Found\)"),
    "410": (answer("410 Gone"), "not found"),
    "403": (answer("403 Forbidden"), r"refused \(HTTP 403"),
    "401": (answer("401 Unauthorized", b"", "WWW-Authenticate: Basic"), "refused"),
    "500": (answer("500 Oops"), "server error"),
    "503": (answer("503 Busy", b"", "Retry-After: 5"), "server error"),
    "429": (answer("429 Slow", b"", "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT"), "too many"),
    "204": (answer("204 No Content"), "unexpected answer"),
    "206 unasked": (answer("206 Part", b"x", "Content-Range: bytes 0-0/9"), "another range"),
    "redirect to nowhere": (answer("302 Found"), "without a location"),
    "redirect loop": (answer("302 Found", b"", "Location: /x.tar.gz"), "more than 5 redirects"),
    "redirect to file": (answer("302 Found", b"", "Location: file:///etc/passwd"), "redirects to"),
    "redirect to ssh": (answer("302 Found", b"", "Location: ssh://h/x"), "redirects to"),
    "redirect to metadata": (
        answer("302 Found", b"", "Location: http://169.254.169.254/"),
        "link-local",
    ),
    "silence": (silence, "timed out while waiting"),
    "slow headers": (drip(OK, b"X-A: b\r\n"), "timed out while waiting"),
    "slow status line": (drip(b"HTTP/1.1 2", b"0"), "timed out|connection failed"),
    "endless headers": (drip(OK, b"X-A: b\r\n" * 200, 0), "connection failed"),
    "endless header line": (drip(OK + b"X: ", b"y" * 4096, 0), "connection failed"),
    "slow body": (drip(OK + b"Content-Length: 9999\r\n\r\n", b"x"), "stalled"),
    "slow chunk size": (drip(CHUNKED, b"0"), "stalled|connection failed"),
    "slow trailers": (drip(CHUNKED + b"0\r\n", b"X: y\r\n"), "stalled|connection failed"),
    "endless trailers": (drip(CHUNKED + b"0\r\n", b"X: y\r\n" * 200, 0), "stalled"),
    "more wrapping than body": (drip(CHUNKED, b"1;" + b"x" * 4096 + b"\r\nx\r\n"), "stalled"),
    "stall at the end": (
        drip(OK + b"Content-Length: 9999\r\n\r\n" + b"x" * 9998, b"", 0.1),
        "stalled",
    ),
    "endless body": (drip(OK + b"\r\n", b"x" * 65536, 0), "more than the 1048576"),
    "endless chunks": (
        drip(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", 0),
        "more than the 1048576",
    ),
    "too long by its length": (raw(OK + b"Content-Length: 1048577\r\n\r\n"), "1048577 bytes"),
    "cut off": (raw(OK + b"Content-Length: 100\r\n\r\nabc"), "ended|connection failed"),
    "chunked lie": (raw(CHUNKED + b"100\r\nabc"), "connection failed"),
    "chunked garbage": (raw(CHUNKED + b"zz\r\nabc"), "connection failed"),
    "no HTTP": (raw(b"220 ftp ready\r\n"), "connection failed"),
    "hangs up": (hang_up, "connection failed"),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_each_ends_within_its_limit(
    transport: WebTransport, impatient: WebTransport, name: str
) -> None:
    script, reason = BEHAVIOURS[name]
    in_vain = "timed out" in reason or "stalled" in reason
    begun = time.monotonic()
    with serving(script) as server:
        with pytest.raises(LocationError, match=reason) as caught:
            read_small(impatient if in_vain else transport, server.url, CAP)
        took = time.monotonic() - begun
    assert took < DRIPS / 2
    assert caught.value.place is not None
    assert caught.value.place.startswith("http://127.0.0.1:")
    assert caught.value.exit_code == 4
    assert caught.value.absent is (name in ("404", "410"))


@pytest.mark.parametrize("packed", [False, True])
def test_the_body_of_a_redirect_is_never_read(transport: WebTransport, packed: bool) -> None:
    """Neither one without end nor one that unpacks to gigabytes."""
    sent: list[int] = []
    part = gzip.compress(bytes(64 << 20)) if packed else bytes(1 << 16)

    def script(connection: socket.socket, head: bytes) -> None:
        if b"/other" in head:
            connection.sendall(OK + b"Content-Length: 2\r\n\r\nok")
            return
        lines = b"Location: /other\r\nTransfer-Encoding: chunked\r\n"
        more = b"Content-Encoding: gzip\r\n\r\n" if packed else b"\r\n"
        connection.sendall(b"HTTP/1.1 302 Found\r\n" + lines + more)
        while len(sent) < 2000:
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            sent.append(len(part))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(script) as server:
        assert read_small(transport, server.url, CAP) == b"ok"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert len(sent) < 200


STATUSES = (
    b"200 OK",
    b"206 P",
    b"416 R",
    b"302 F",
    b"301 M",
    b"999 \xff",
    b"100 C",
    b"304 N",
    b"-1 x",
)
FIELDS = (
    *(b"Content-Length: " + n for n in (b"5", b"-5", b"5, 5", b"x", b"9" * 20, b"9" * 5000)),
    *(b"Transfer-Encoding: " + n for n in (b"chunked", b"gzip, chunked", b"\xff")),
    *(b"Content-Encoding: " + n for n in (b"gzip", b"zstd")),
    *(
        b"Content-Range: " + n
        for n in (b"bytes 3-9/10", b"bytes */1", b"\xff", b"bytes 3-/" + b"9" * 5000)
    ),
    *(
        b"Location: " + n
        for n in (b"http://[::1", b"\xff\xfe", b"//", b"http://a\0b/", b"?", b"/\xe2\x80\xa8")
    ),
    *(b"Retry-After: " + n for n in (b"9" * 5000, b"-1", b"\xb2")),
    *(
        b": x",
        b"no colon",
        b" folded",
        b"X: \r y",
        b"Set-Cookie: a=b; domain=\xff",
        b"Upgrade: h2c",
    ),
)
REST = (
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello",
    b"ffffffffffffffffff\r\nx",
    b"5;" + b"e" * 70_000 + b"\r\n",
    b"0\r\n" + b"T: x\r\n" * 200,
    b"",
)


@pytest.mark.parametrize("seed", range(4))
def test_any_answer_is_taken_or_refused(transport: WebTransport, seed: int) -> None:
    rng = random.Random(seed)

    def script(connection: socket.socket, _head: bytes) -> None:
        lines = [b"HTTP/1.1 " + rng.choice(STATUSES), *rng.sample(FIELDS, rng.randrange(5))]
        connection.sendall(b"\r\n".join([*lines, b"", b""]) + rng.choice(REST))
        connection.shutdown(socket.SHUT_RDWR)

    with serving(script) as server:
        for _ in range(250):
            with (
                contextlib.suppress(LocationError),
                transport.get(server.url, rng.choice([0, 3]), rng.choice([4, 100])) as response,
            ):
                assert len(b"".join(response.chunks)) <= 100


def test_a_host_that_shakes_no_hands(impatient: WebTransport) -> None:
    """The handshake belongs to connecting: such a host cannot be talked to at all."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}/x"
        with pytest.raises(LocationError, match="timed out while connecting") as caught:
            read_small(impatient, url, CAP)
    assert caught.value.unreachable


def asked(circuit: Circuit, url: str, count: int) -> int:
    """How many of so many questions got an answer."""
    good = 0
    for _ in range(count):
        with contextlib.suppress(LocationError):
            good += bool(read_small(circuit, url, CAP))
    return good


def test_a_host_that_never_answers_is_waited_for_once(impatient: WebTransport) -> None:
    told: list[LocationError] = []
    circuit = Circuit(impatient, told.append, Patience(slow=0.3))
    with serving(silence) as server:
        assert asked(circuit, server.url, 20) == 0
        assert server.connections == 1
    assert [error.reason for error in told] == ["timed out while waiting for an answer"]


def late(seconds: float) -> Script:
    good = answer("200 OK", b"x")

    def script(connection: socket.socket, head: bytes) -> None:
        time.sleep(seconds)
        good(connection, head)

    return script


def test_a_host_whose_every_answer_is_late_is_left_alone(transport: WebTransport) -> None:
    """Each comes in time; thousands of them would take hours."""
    told: list[LocationError] = []
    with serving(late(0.1)) as server:
        patience = Patience(waited=0.5, slow=0.1)
        assert 1 <= asked(Circuit(transport, told.append, patience), server.url, 30) <= 6
        assert "too slow to be worth asking" in told[0].reason
        assert asked(Circuit(transport, told.append, Patience(waited=0.5)), server.url, 8) == 8
    assert len(told) == 1


def test_retry_after_is_told(transport: WebTransport) -> None:
    with serving(BEHAVIOURS["503"][0]) as server, pytest.raises(LocationError) as caught:
        read_small(transport, server.url, CAP)
    assert (caught.value.transient, caught.value.retry_after) == (True, 5.0)


def test_what_is_sent(
    transport: WebTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No credentials of ~/.netrc, no cookies, no compression; one connection for all."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(answer("200 OK", b"x", "Set-Cookie: a=b")) as server:
        for _ in range(2):
            assert read_small(transport, server.url, CAP) == b"x"
        heads = [head.decode().lower() for head in server.requests]
    assert len(heads) == 2
    for head in heads:
        assert "accept-encoding: identity\r\n" in head
        assert "authorization" not in head
        assert "cookie" not in head
        assert "user-agent: buildit\r\n" in head


@pytest.mark.parametrize(
    ("rest", "line"),
    [("", b"/x.tar.gz"), ("?a=%20b&c#part", b"/x.tar.gz?a=%20b&c"), ("/..//y", b"/x.tar.gz/..//y")],
)
def test_which_path_is_asked_for(transport: WebTransport, rest: str, line: bytes) -> None:
    with serving(answer("200 OK", b"x")) as server:
        assert read_small(transport, server.url + rest, CAP) == b"x"
        assert server.requests[0].startswith(b"GET " + line + b" HTTP/1.1\r\n")


def test_two_slashes_are_no_sign_of_a_proxy(transport: WebTransport) -> None:
    """Some versions of requests make one of them."""
    with serving(answer("200 OK", b"x")) as server:
        for url in (server.url.replace("/x.tar", "//x.tar"), server.url):
            assert read_small(transport, url, CAP) == b"x"
        for asked in server.requests:
            assert asked.startswith(b"GET /x.tar.gz HTTP/1.1\r\n")


def test_a_connection_is_kept_where_something_is_absent(transport: WebTransport) -> None:
    with serving(answer("404 Not Found", b"<html>no</html>")) as server:
        for _ in range(3):
            with pytest.raises(LocationError, match="not found"):
                read_small(transport, server.url, CAP)
        assert (len(server.requests), server.connections) == (3, 1)


def test_a_compressed_transfer_is_taken_as_it_is(transport: WebTransport) -> None:
    """Servers label .gz files so; and a bomb stays small."""
    packed = gzip.compress(b"\0" * (50 << 20))
    with serving(answer("200 OK", packed, "Content-Encoding: gzip")) as server:
        assert read_small(transport, server.url, CAP) == packed


def test_certificates_are_checked(transport: WebTransport, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with pytest.raises(LocationError, match="TLS failed: self-signed certificate"):
            read_small(transport, f"https://127.0.0.1:{server.server_port}/x", CAP)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_names_and_ports_that_nobody_has(transport: WebTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(LocationError, match="connection refused"):
        read_small(transport, f"http://127.0.0.1:{port}/x", CAP)
    with pytest.raises(LocationError, match="does not resolve"):
        read_small(transport, "http://no-such-host.invalid/x", CAP)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_cannot_be_reached_is_named(
    scheme: str, transport: WebTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:secret@127.0.0.1:{port}")
    with pytest.raises(LocationError) as caught:
        read_small(transport, f"{scheme}://files.example.org/x", CAP)
    assert caught.value.reason == f"the proxy http://…@127.0.0.1:{port}: connection refused"
    assert caught.value.hint == f"check {scheme}_proxy, or name the host in no_proxy"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(LocationError, match=r"x: connection refused$"):
        read_small(transport, f"{scheme}://127.0.0.1:{port}/x", CAP)


def test_a_proxy_that_refuses_is_named(
    transport: WebTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answer("403 Forbidden")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(LocationError, match=r"the proxy http://127.+: .*403 Forbidden"):
            read_small(transport, "https://files.example.org/x", CAP)


def ranged(body: bytes, first: int | None = None) -> Script:
    """Serves ranges; the first answer breaks off after `first` bytes."""
    broken = [first]

    def script(connection: socket.socket, head: bytes) -> None:
        wanted = next((line for line in head.split(b"\r\n") if line.startswith(b"Range:")), b"")
        start = int(wanted[13:].rstrip(b"-") or 0)
        if start >= len(body):
            connection.sendall(b"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n")
            return
        status = "206 Partial" if start else "200 OK"
        span = f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}\r\n" if start else ""
        lines = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) - start}\r\n{span}\r\n"
        end, broken[0] = broken[0], None
        connection.sendall(lines.encode() + body[start:end])
        if end is not None:
            connection.shutdown(socket.SHUT_RDWR)

    return script


def fetcher(transport: WebTransport, tmp_path: Path) -> Fetcher:
    return Fetcher(MemorySink(), transport, tmp_path / "partial", pause=0.01)


def want(url: str) -> Fetch:
    return Fetch("x.tar.gz", (url,), digest_bytes(BODY))


def test_a_broken_download_is_resumed(transport: WebTransport, tmp_path: Path) -> None:
    with serving(ranged(BODY, 70_000)) as server:
        assert fetcher(transport, tmp_path).fetch(want(server.url)) == digest_bytes(BODY)
        assert len(server.requests) == 2
        assert b"\r\nRange: bytes=70000-\r\n" in server.requests[1]


def test_a_partial_that_is_longer_than_the_whole(transport: WebTransport, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / digest_bytes(BODY)).write_bytes(BODY + b"more")
    with serving(ranged(BODY)) as server:
        assert fetcher(transport, tmp_path).fetch(want(server.url)) == digest_bytes(BODY)


def test_answers_that_alternate_never_mix(transport: WebTransport, tmp_path: Path) -> None:
    """A good first half and a bad second half, in turn (CVE-2026-109518's neighbourhood)."""
    evil = BODY[:100_000] + b"\0" * (len(BODY) - 100_000)
    turns = [0]

    def script(connection: socket.socket, head: bytes) -> None:
        turns[0] += 1
        ranged(evil if turns[0] % 2 == 0 else BODY, 50_000 if turns[0] == 1 else None)(
            connection, head
        )

    with serving(script) as server:
        desk = fetcher(transport, tmp_path)
        assert desk.fetch(want(server.url)) == digest_bytes(BODY)
        assert isinstance(desk.sink, MemorySink)
        assert list(desk.sink.blobs.values()) == [BODY]
        assert turns[0] == 3


def test_wrong_bytes_and_a_login_page(transport: WebTransport, tmp_path: Path) -> None:
    page = b"<!doctype html><title>Welcome to our hotel</title>"
    with (
        serving(answer("200 OK", page, "Content-Type: text/html")) as server,
        pytest.raises(IntegrityError) as caught,
    ):
        fetcher(transport, tmp_path).fetch(want(server.url))
    assert "HTML page" in caught.value.details[0]
    assert list((tmp_path / "partial").iterdir()) == []


def test_an_error_ends_a_slow_sibling_at_once(tmp_path: Path) -> None:
    body = drip(OK + b"Content-Length: 9999999\r\n\r\n", b"x" * 4096)

    def late(connection: socket.socket, head: bytes) -> None:
        time.sleep(0.5)
        answer("404 No")(connection, head)

    with closing(WebTransport()) as patient, serving(body) as slow, serving(late) as gone:
        begun = time.monotonic()
        with pytest.raises(FetchError, match="gone"):
            fetcher(patient, tmp_path).fetch_all(
                [
                    Fetch("slow", (slow.url,), digest_bytes(b"s")),
                    Fetch("gone", (gone.url,), digest_bytes(b"g")),
                ],
                4,
            )
        assert time.monotonic() - begun < DRIPS / 2
    assert os.listdir(tmp_path / "partial") == [digest_bytes(b"s")]


INTERRUPTED = """
import sys
from pathlib import Path
from buildit.remote.fetch import Fetch, Fetcher
from tests.fakes import MemorySink, default_transport
fetcher = Fetcher(MemorySink(), default_transport(), Path(sys.argv[2]))
wants = [Fetch(str(n), (sys.argv[1],), f"{n:064x}") for n in range(8)]
try:
    fetcher.fetch_all(wants, 4)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_all_downloads_at_once(tmp_path: Path) -> None:
    body = drip(OK + b"Content-Length: 9999999\r\n\r\n", b"x" * 4096)
    with serving(body) as server:
        argv = [sys.executable, "-c", INTERRUPTED, server.url, str(tmp_path / "partial")]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        ends = time.monotonic() + 60
        while len(server.requests) < 4 and time.monotonic() < ends:
            time.sleep(0.02)
        time.sleep(0.3)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - begun < DRIPS / 2
    assert (out, err, process.returncode) == (b"interrupted\n", b"", 0)
    assert len(server.requests) == 4
    assert len(list((tmp_path / "partial").iterdir())) == 4
