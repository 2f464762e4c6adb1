"""Binhosts behind a real nginx with TLS: what it may serve wrongly, and what each costs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.events import Event, Notice
from buildit.model.artifact import RUNTIME, Artifact
from buildit.remote.binhost.binhost import Binhost
from buildit.remote.binhost.protocols import PACK, WantedBlob
from buildit.remote.transport import Circuit, LocationError, WebLimits
from buildit.remote.web import WebTransport
from buildit.store.artifacts import commit, lookup, statement_paths
from buildit.store.cas import Store
from buildit.store.upkeep import check_store
from tests.hosts import BUILDER, FileBinhost, accept, pull_blobs, readable, sign
from tests.servers import Certificates, Nginx, certificates, nginx
from tests.unit.store.build import add_artifact, key

pytestmark = pytest.mark.sandbox
QUICK = WebLimits(connect=1.0, headers=1.0, window=0.5, least=2000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def authority(made: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "other") as opened:
        yield opened


@pytest.fixture
def web() -> Iterator[WebTransport]:
    """Patient, as a busy machine wants it."""
    with closing(WebTransport()) as made:
        yield made


@pytest.fixture
def impatient() -> Iterator[WebTransport]:
    """For servers that are waited for in vain."""
    with closing(WebTransport(QUICK)) as made:
        yield made


def published(root: Path, name: str = "nginx", layer: bytes = b"") -> Artifact:
    """An artifact on the binhost at `root`."""
    with Store.open(root.parent / "first") as store:
        artifact = add_artifact(store, name, layer)
        commit(store, artifact, BUILDER, sign)
        FileBinhost(root, accept).push(artifact.key, store)
    return artifact


def host(url: str, web: WebTransport | Circuit, events: list[Event] | None = None) -> Binhost:
    report = events.append if events is not None else lambda _: None
    remote = readable(url, web, report, jobs=8)
    return Binhost("far", remote, accept, (BUILDER,), report=report)


def test_a_second_store_takes_everything(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport
) -> None:
    site = tmp_path / "site"
    artifacts = [published(site / "bin host", name) for name in ("nginx", "zlib")]
    large = published(site / "bin host", "large", os.urandom(12 << 20))
    with nginx(tmp_path / "nginx", site, made) as server:
        far = host(f"{server.url}/bin%20host/", web)
        for artifact in (*artifacts, large):
            assert far.pull(artifact.key, other) == artifact
        assert far.pull(key("unknown"), other) is None
        before = len(server.requests())
        assert far.pull(large.key, other) == large
        assert len(server.requests()) == before + 2, "its statement and signature, nothing else"
    assert check_store(other).faults == ()


def flip(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "right length": flip,
    "truncated": lambda content: content[:-1],
    "empty": lambda _: b"",
    "oversized": lambda content: content + b"x" * 5000,
    "html": lambda _: b"<!doctype html><title>Sign in</title>",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("what", ["layer", "large", "record", "statement", "signature"])
def test_wrong_bytes_are_refused_and_never_kept(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport, what: str, damage: str
) -> None:
    site = tmp_path / "site"
    artifact = published(site, layer=os.urandom(5 << 20 if what == "large" else 1000))
    (statement,) = statement_paths(site, artifact.key)
    blobs = site / "blobs/sha256"
    layer = blobs / artifact.outputs[RUNTIME].diff_id
    path = {
        "layer": layer,
        "large": layer,
        "record": blobs / artifact.record,
        "statement": statement,
        "signature": statement.with_name(f"{statement.name}.sig"),
    }[what]
    statement.with_name(f"{statement.name}{PACK}").unlink()  # a binhost of before: each by itself
    content = DAMAGE[damage](path.read_bytes())
    path.unlink()
    path.write_bytes(content)
    with nginx(tmp_path / "nginx", site, made) as server, pytest.raises(IntegrityError):
        host(server.url, web).pull(artifact.key, other)
    assert lookup(other, artifact.key) is None
    assert os.listdir(other.blobs) == []


def test_a_missing_layer_is_told_of(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport
) -> None:
    artifact = published(tmp_path / "site")
    (tmp_path / "site/blobs/sha256" / artifact.outputs[RUNTIME].diff_id).unlink()
    with (
        nginx(tmp_path / "nginx", tmp_path / "site", made) as server,
        pytest.raises(FetchError, match="not all that it names") as caught,
    ):
        host(server.url, web).pull(artifact.key, other)
    assert artifact.outputs[RUNTIME].diff_id in str(caught.value.place)


ANSWERS = {
    "server error": ("location /k { return 500; }", "server error"),
    "bad gateway": ("location /blobs { return 502; }", "server error"),
    "refused": ("location /k { return 403; }", "refused"),
    "too many": ("location /k { return 429; }", "too many requests"),
    "teapot": ("location /k { return 418; }", "unexpected answer"),
    "down to http": ("location /k { return 302 http://127.0.0.1/x; }", "down to http"),
    "to a file": ("location /k { return 302 file:///etc/passwd; }", "file"),
    "to ssh": ("location /k { return 302 ssh://127.0.0.1/x; }", "ssh"),
    "round and round": ("location /k { return 302 $request_uri; }", "redirects"),
    "slow": ("location /blobs { limit_rate 200; }", "too slow|timed out"),
    "gone": ("location /blobs { return 444; }", "connection"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_hosts_that_answer_badly(
    tmp_path: Path,
    made: Certificates,
    other: Store,
    web: WebTransport,
    impatient: WebTransport,
    kind: str,
) -> None:
    lines, message = ANSWERS[kind]
    artifact = published(tmp_path / "site", layer=os.urandom(5 << 20))
    events: list[Event] = []
    begun = time.monotonic()
    with (
        nginx(tmp_path / "nginx", tmp_path / "site", made, lines) as server,
        pytest.raises(FetchError, match=message),
    ):
        host(server.url, impatient if kind == "slow" else web, events).pull(artifact.key, other)
    assert time.monotonic() - begun < 60
    assert lookup(other, artifact.key) is None
    assert os.listdir(other.blobs) == []
    assert any(isinstance(event, Notice) for event in events)


def test_a_404_is_a_miss_and_no_news(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport
) -> None:
    events: list[Event] = []
    (tmp_path / "site").mkdir()
    with nginx(tmp_path / "nginx", tmp_path / "site", made) as server:
        assert host(server.url, web, events).pull(key("nginx"), other) is None
    assert events == []


TLS = {
    "expired": ({"faked": "2020-01-01 00:00:00"}, "expired"),
    "other name": ({"names": "DNS:elsewhere.example"}, "mismatch|doesn't match|not valid for"),
}


@pytest.mark.parametrize("kind", TLS)
def test_certificates_that_do_not_hold(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport, kind: str
) -> None:
    words, message = TLS[kind]
    odd = certificates(made.root, kind.replace(" ", "-"), **words)
    artifact = published(tmp_path / "site")
    with (
        nginx(tmp_path / "nginx", tmp_path / "site", odd) as server,
        pytest.raises(FetchError, match=rf"TLS failed: .*({message})") as caught,
    ):
        host(server.url, web).pull(artifact.key, other)
    assert "clock" in str(caught.value.hint)


def test_an_authority_that_nobody_knows(tmp_path: Path, other: Store, web: WebTransport) -> None:
    strange = certificates(tmp_path / "strange")
    artifact = published(tmp_path / "site")
    with (
        nginx(tmp_path / "nginx", tmp_path / "site", strange) as server,
        pytest.raises(FetchError, match=r"TLS failed: .*(issuer|self)"),
    ):
        host(server.url, web).pull(artifact.key, other)


def test_a_download_goes_on_where_it_ended(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport
) -> None:
    layer = os.urandom(9 << 20)
    artifact = published(tmp_path / "site", layer=layer)
    diff_id = artifact.outputs[RUNTIME].diff_id
    part = other.cache("partial") / diff_id
    part.write_bytes(layer[: 8 << 20])
    with nginx(tmp_path / "nginx", tmp_path / "site", made) as server:
        assert host(server.url, web).pull(artifact.key, other) == artifact
        (line,) = [line for line in server.requests() if diff_id in line]
        assert line.split()[2] == "206"
        assert int(line.split()[3]) < 2 << 20
    assert other.read(diff_id) == layer
    assert not part.exists()


def test_a_bad_beginning_is_begun_anew(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport
) -> None:
    """A partial file proves nothing: it is hashed from its first byte."""
    layer = os.urandom(9 << 20)
    artifact = published(tmp_path / "site", layer=layer)
    diff_id = artifact.outputs[RUNTIME].diff_id
    (other.cache("partial") / diff_id).write_bytes(bytes(8 << 20))
    with nginx(tmp_path / "nginx", tmp_path / "site", made) as server:
        assert host(server.url, web).pull(artifact.key, other) == artifact
        assert len([line for line in server.requests() if diff_id in line]) == 2
    assert other.read(diff_id) == layer


def test_a_dead_host_costs_one_connect(tmp_path: Path, other: Store, web: WebTransport) -> None:
    told: list[LocationError] = []
    circuit = Circuit(web, told.append)
    events: list[Event] = []
    far = host("https://127.0.0.1:1/x", circuit, events)
    for number in range(50):
        with pytest.raises(BuilditError):
            far.pull(key(f"p{number}"), other)
    assert len(told) == 1
    assert "refused" in told[0].reason
    assert events == [], "it is told of once, by the circuit"
    assert circuit.broken is told[0]


def test_a_host_that_never_answers_costs_one_wait(
    tmp_path: Path, other: Store, impatient: WebTransport
) -> None:
    """A listener that takes no connection: the connect time is spent once, not twenty times."""
    import socket

    told: list[LocationError] = []
    circuit = Circuit(impatient, told.append)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(address)
        try:
            begun = time.monotonic()
            for number in range(20):
                with pytest.raises(BuilditError):
                    host(f"https://127.0.0.1:{address[1]}", circuit).pull(key(f"{number}"), other)
            assert time.monotonic() - begun < 20 * QUICK.connect / 2
        finally:
            for one in fillers:
                one.close()
    assert len(told) == 1


def test_a_host_in_trouble_is_left_alone_after_a_while(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport
) -> None:
    told: list[LocationError] = []
    (tmp_path / "site").mkdir()
    with nginx(tmp_path / "nginx", tmp_path / "site", made, "return 500;") as server:
        far = host(server.url, Circuit(web, told.append))
        for number in range(20):
            with pytest.raises(BuilditError):
                far.pull(key(f"p{number}"), other)
        assert len(server.requests()) <= 6
    assert len(told) == 1


def test_many_threads_share_connections(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport
) -> None:
    artifacts = [published(tmp_path / "site", f"p{n}") for n in range(24)]
    failures: list[BaseException] = []
    with nginx(tmp_path / "nginx", tmp_path / "site", made) as server:
        far = host(server.url, web)

        def pull(some: list[Artifact]) -> None:
            try:
                for artifact in some:
                    assert far.pull(artifact.key, other) == artifact
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        threads = [threading.Thread(target=pull, args=(artifacts[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert check_store(other).faults == ()


def test_nginx_is_what_serves(tmp_path: Path, made: Certificates) -> None:
    (tmp_path / "site").mkdir()
    with nginx(tmp_path / "nginx", tmp_path / "site", made) as server:
        assert isinstance(server, Nginx)
        assert server.requests() == []


def small_ones(site: Path, count: int) -> list[WantedBlob]:
    with Store.open(site) as store:
        digests = [store.put_bytes(b"blob %d" % number) for number in range(count)]
        return [WantedBlob(digest, store.size(digest), 100) for digest in digests]


@pytest.mark.parametrize("odd", ["none", "missing", "wrong", "closing", "encoded", "redirected"])
def test_many_small_blobs_come_over_one_connection(
    tmp_path: Path, made: Certificates, other: Store, web: WebTransport, odd: str
) -> None:
    """What is unusual is left to the general way, which says what is wrong."""
    site = tmp_path / "site"
    wants = small_ones(site, 150)
    digest = sorted(want.digest for want in wants)[70]
    blob = site / "blobs/sha256" / digest
    lines = {
        "closing": "keepalive_requests 40;",
        "encoded": "gzip on; gzip_types *; gzip_min_length 1;",
        "redirected": f"location = /blobs/sha256/{digest} {{ return 302 /x; }} "
        f"location = /x {{ alias {blob}; }}",
    }
    if odd == "missing":
        blob.unlink()
    if odd == "wrong":
        blob.chmod(0o644)
        blob.write_bytes(b"x" * blob.stat().st_size)
    with nginx(tmp_path / "nginx", site, made, lines.get(odd, "")) as server:
        far = host(server.url, web)
        if odd in ("missing", "wrong"):
            with pytest.raises(FetchError if odd == "missing" else IntegrityError) as caught:
                pull_blobs(far, wants, other)
            assert digest in str(caught.value.place)
            assert os.listdir(other.blobs) == []
            return
        assert pull_blobs(far, wants, other) == 150
        if odd == "none":
            assert len(server.requests()) == 150
    assert all(other.has(want.digest) for want in wants)
    assert check_store(other).faults == ()


def test_many_blobs_of_a_host_with_a_bad_certificate(
    tmp_path: Path, other: Store, web: WebTransport
) -> None:
    strange = certificates(tmp_path / "strange")
    wants = small_ones(tmp_path / "site", 30)
    with (
        nginx(tmp_path / "nginx", tmp_path / "site", strange) as server,
        pytest.raises(FetchError, match="TLS failed"),
    ):
        pull_blobs(host(server.url, web), wants, other)
    assert server.requests() == []
