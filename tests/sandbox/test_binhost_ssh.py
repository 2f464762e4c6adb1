"""Binhosts behind a real sshd: push, resume, interruptions, full disks, host keys, races."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.config import Ssh
from buildit.remote.binhost.binhost import Binhost, Push, Pushed
from buildit.remote.binhost.protocols import Outgoing
from buildit.remote.binhost.ssh import SshRemote
from buildit.remote.sftp.login import SftpTransport, Waits, connect
from buildit.remote.transport import LocationError, read_small, ssh_address
from buildit.store.artifacts import commit, lookup, statement_paths
from buildit.store.attest import parse_statement
from buildit.store.cas import Store
from buildit.store.upkeep import check_store
from buildit.trust.signers import Signer
from tests.hosts import BUILDER, FileBinhost, accept, readable, sign
from tests.servers import Sshd, keygen, sshd
from tests.unit.store.build import add_artifact

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(autouse=True)
def ssh(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDIT_SSH", server.program)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "other") as opened:
        yield opened


@pytest.fixture
def transport() -> Iterator[SftpTransport]:
    made = SftpTransport()
    yield made
    made.close()


def built(store: Store, name: str, layer: bytes = b"") -> Artifact:
    artifact = add_artifact(store, name, layer)
    commit(store, artifact, BUILDER, sign)
    return artifact


def push(
    server: Sshd,
    root: Path,
    store: Store,
    transport: SftpTransport,
    *artifacts: Artifact,
    token: str = "a" * 16,
    packed: bool = False,
) -> Pushed:
    account = ssh_address(server.url(root))
    far = remote(account, transport, token)
    work = Push(store, far, accept, signer=Signer(BUILDER, sign), compressed=packed)
    return work([artifact.key for artifact in artifacts])


def remote(account: Ssh, transport: SftpTransport, token: str) -> SshRemote:
    made = SshRemote(account, transport, token)
    made.prepare()
    return made


def host(server: Sshd, root: Path, transport: SftpTransport) -> Binhost:
    address = ssh_address(server.url(root))
    return Binhost("far", readable(address, transport), accept, (BUILDER,))


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "blobs/sha256").iterdir())


def whole(root: Path) -> bool:
    """Every blob has the bytes that its name promises."""
    return all(
        digest_bytes((root / "blobs/sha256" / name).read_bytes()) == name for name in names(root)
    )


def test_the_round_trip(
    server: Sshd, store: Store, other: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    artifacts = [built(store, name) for name in ("nginx", "zlib", "pcre2")]
    large = built(store, "large", os.urandom(20 << 20))
    far = tmp_path / "a place" / "it's"
    done = push(server, far, store, transport, *artifacts, large)
    assert (done.blobs, done.statements, done.differs) == (20, 4, ())
    again = push(server, far, store, transport, *artifacts, large)
    assert (again.blobs, again.statements, again.sent) == (0, 0, 0)
    assert whole(far)
    assert list((far / "tmp").iterdir()) == []
    for artifact in (*artifacts, large):
        assert host(server, far, transport).pull(artifact.key, other) == artifact
        assert lookup(other, artifact.key) == artifact
    assert check_store(other).faults == ()
    # what was pushed is a store, and a binhost for whoever sits beside it
    with Store.open(far) as there:
        assert check_store(there).faults == ()


def test_a_relative_place_is_below_the_login_directory(
    server: Sshd, store: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    name = f".buildit-test-{os.getpid()}"
    artifact = built(store, "nginx")
    account = ssh_address(f"127.0.0.1:{server.port}/{name}/deep")
    home = Path(os.path.expanduser("~")) / name
    try:
        there = remote(account, transport, "b" * 16)
        assert Push(store, there, accept)([artifact.key]).statements == 1
        assert len(names(home / "deep")) == 5
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_layers_travel_compressed_and_come_out_the_same(
    server: Sshd, store: Store, other: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    layer = b"".join(b"line %d of a layer that shrinks\n" % n for n in range(400_000))
    artifact = built(store, "text", layer)
    far = tmp_path / "far"
    done = push(server, far, store, transport, artifact, packed=True)
    assert done.sent < len(layer) / 4
    assert artifact.outputs[RUNTIME].diff_id not in names(far)
    pulled = host(server, far, transport).pull(artifact.key, other)
    assert pulled is not None
    output = pulled.outputs[RUNTIME]
    (form,) = output.encodings
    assert form.digest in names(far)
    assert (form.codec, output.diff_id) == ("zstd", artifact.outputs[RUNTIME].diff_id)
    assert other.read(output.diff_id) == layer
    again = push(server, far, store, transport, artifact, packed=True)
    assert (again.sent, again.differs) == (0, ())
    # what was pulled can be handed on, plain where the compressed form is not at hand
    assert push(server, tmp_path / "third", other, transport, pulled).differs == ()
    third = host(server, tmp_path / "third", transport)
    with Store.open(tmp_path / "last") as last:
        assert third.pull(artifact.key, last) == pulled


@pytest.mark.parametrize("damage", ["flipped", "bomb", "truncated"])
def test_a_compressed_layer_is_verified_twice(
    server: Sshd, store: Store, other: Store, transport: SftpTransport, tmp_path: Path, damage: str
) -> None:
    artifact = built(store, "text", b"a layer\n" * 100_000)
    far = tmp_path / "far"
    push(server, far, store, transport, artifact, packed=True)
    small = min(far.glob("blobs/sha256/*"), key=lambda p: p.read_bytes()[:4] != b"\x28\xb5\x2f\xfd")
    data = small.read_bytes()
    zeros = subprocess.run(["zstd", "-c"], input=bytes(64 << 20), capture_output=True, check=True)
    small.unlink()
    small.write_bytes(
        {
            "flipped": bytes([*data[:-1], data[-1] ^ 1]),
            "bomb": zeros.stdout,
            "truncated": data[:-1],
        }[damage]
    )
    with pytest.raises(IntegrityError):
        host(server, far, transport).pull(artifact.key, other)
    assert os.listdir(other.blobs) == []


def test_two_publishers_at_once(server: Sshd, store: Store, other: Store, tmp_path: Path) -> None:
    """The same builds, and one whose outputs differ: nothing is lost, the difference is told."""
    same = [(built(store, f"p{n}"), built(other, f"p{n}")) for n in range(30)]
    mine, theirs = built(store, "odd", b"one"), built(other, "odd", b"two")
    results: dict[str, Pushed] = {}
    far = tmp_path / "far"

    def work(name: str, source: Store, artifacts: list[Artifact]) -> None:
        way = SftpTransport()
        try:
            results[name] = push(server, far, source, way, *artifacts, token=name * 16)
        finally:
            way.close()

    threads = [
        threading.Thread(target=work, args=("a", store, [*(a for a, _ in same), mine])),
        threading.Thread(target=work, args=("b", other, [*(b for _, b in same), theirs])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(one.differs) for one in results.values()) == 1
    assert len(list(statement_paths(far, mine.key))) == 2
    assert whole(far)
    assert list((far / "tmp").iterdir()) == []
    near = FileBinhost(far, accept)
    with Store.open(tmp_path / "third") as third:
        for artifact, _ in same:
            assert near.pull(artifact.key, third) == artifact
        assert near.pull(mine.key, third) in (mine, theirs)


def test_a_hundred_keys_with_two_outputs_each(
    server: Sshd, store: Store, other: Store, tmp_path: Path
) -> None:
    """Both statements are kept, each with its own signature, and the second one is told of."""
    mine = [built(store, f"p{n}", b"one %d" % n) for n in range(100)]
    theirs = [built(other, f"p{n}", b"two %d" % n) for n in range(100)]
    results: dict[str, Pushed] = {}
    far = tmp_path / "far"
    begin = threading.Barrier(2)

    def work(name: str, source: Store, artifacts: list[Artifact]) -> None:
        with closing(SftpTransport()) as way:
            begin.wait()
            results[name] = push(server, far, source, way, *artifacts, token=name * 16)

    threads = [
        threading.Thread(target=work, args=("a", store, mine)),
        threading.Thread(target=work, args=("b", other, theirs)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    differing = [path for one in results.values() for path in one.differs]
    assert len(set(differing)) == 100, "one of the two was told of each"
    for pair in zip(mine, theirs, strict=True):
        paths = list(statement_paths(far, pair[0].key))
        found = [parse_statement(path.read_bytes(), pair[0].key).artifact for path in paths]
        assert sorted(found, key=str) == sorted(pair, key=str)
        for path in paths:
            assert path.with_name(f"{path.name}.sig").read_bytes() == sign(path.read_bytes())
    assert whole(far)
    assert list((far / "tmp").iterdir()) == []


def test_sshd_killed_in_mid_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty times: never a partial object under its final name, and in the end all is there."""
    far = tmp_path / "far"
    with sshd(tmp_path / "ssh") as server, Store.open(tmp_path / "store") as store:
        monkeypatch.setenv("BUILDIT_SSH", server.program)
        artifacts = [built(store, f"p{n}", os.urandom(n * 40_000 + 1)) for n in range(40)]
        artifacts.append(built(store, "large", os.urandom(24 << 20)))
        begun = time.monotonic()
        way = SftpTransport()
        push(server, tmp_path / "measured", store, way, *artifacts)
        way.close()
        takes = time.monotonic() - begun
        failed = 0
        for turn in range(50):
            way = SftpTransport()
            timer = threading.Timer(takes * (0.1 + turn / 100), server.kill_sessions)
            timer.start()
            try:
                push(server, far, store, way, *artifacts)
            except FetchError as error:
                failed += bool(error.hint)
            finally:
                timer.cancel()
                way.close()
            assert not (far / "blobs/sha256").exists() or whole(far), turn
            for path in far.glob("k/*/*/*.json"):
                assert path.with_name(f"{path.name}.sig").exists()
            if turn % 5 == 4:
                shutil.rmtree(far, ignore_errors=True)
        assert failed >= 25, failed
        way = SftpTransport()
        push(server, far, store, way, *artifacts)
        for artifact in artifacts:
            with Store.open(tmp_path / "second") as second:
                assert FileBinhost(far, accept).pull(artifact.key, second) == artifact
        assert list((far / "tmp").iterdir()) == []
        way.close()


def test_an_upload_goes_on_where_it_ended(
    server: Sshd, store: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    layer = os.urandom(30 << 20)
    artifact = built(store, "large", layer)
    far = tmp_path / "far"
    account = ssh_address(server.url(far))
    publisher = remote(account, transport, "c" * 16)
    diff_id = artifact.outputs[RUNTIME].diff_id
    temporary = far / Path(publisher.temporary(f"blobs/sha256/{diff_id}")).relative_to(far)
    temporary.write_bytes(layer[: 20 << 20])
    inode = temporary.stat().st_ino
    push(server, far, store, transport, artifact, token="c" * 16)
    final = far / "blobs/sha256" / diff_id
    assert (final.stat().st_ino, final.read_bytes()) == (inode, layer)
    # what lies there proves nothing: wrong bytes are written over
    final.unlink()
    temporary.write_bytes(layer[: 5 << 20] + bytes(9 << 20))
    push(server, far, store, transport, artifact, token="c" * 16)
    assert final.read_bytes() == layer


def test_a_download_goes_on_where_it_ended(
    server: Sshd, store: Store, other: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    layer = os.urandom(30 << 20)
    artifact = built(store, "large", layer)
    far = tmp_path / "far"
    push(server, far, store, transport, artifact)
    part = other.cache("partial") / artifact.outputs[RUNTIME].diff_id
    part.write_bytes(layer[: 20 << 20])
    inode = part.stat().st_ino
    assert host(server, far, transport).pull(artifact.key, other) == artifact
    assert other.path(artifact.outputs[RUNTIME].diff_id).stat().st_ino == inode
    assert check_store(other).faults == ()


def test_a_blob_of_another_size_is_sent_again(
    server: Sshd, store: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    artifact = built(store, "nginx")
    far = tmp_path / "far"
    push(server, far, store, transport, artifact)
    layer = far / "blobs/sha256" / artifact.outputs[RUNTIME].diff_id
    layer.write_bytes(b"")
    done = push(server, far, store, transport, artifact)
    assert done.blobs == 1
    assert whole(far)


def test_a_push_that_was_cut_short_before_its_signature_is_mended(
    server: Sshd, store: Store, other: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    artifact = built(store, "nginx")
    far = tmp_path / "far"
    push(server, far, store, transport, artifact)
    (statement,) = statement_paths(far, artifact.key)
    beside = statement.with_name(f"{statement.name}.sig")
    for wrong in (b"signed something else", None):
        beside.unlink()
        if wrong is not None:
            beside.write_bytes(wrong)
        with pytest.raises(IntegrityError):
            host(server, far, transport).pull(artifact.key, other)
        push(server, far, store, transport, artifact)
        assert beside.read_bytes() == sign(statement.read_bytes())
    # and a signature that was left without its statement is replaced
    statement.unlink()
    beside.write_bytes(b"of another statement")
    push(server, far, store, transport, artifact)
    assert host(server, far, transport).pull(artifact.key, other) == artifact


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_remote_disk(
    server: Sshd, store: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", far], check=True)
    try:
        small = built(store, "small")
        push(server, far, store, transport, small)
        large = built(store, "large", os.urandom(5 << 20))
        many = [built(store, f"p{n}", os.urandom(60_000)) for n in range(40)]
        for artifacts in ([large], many):
            with pytest.raises(FetchError, match="disk of the server is full") as caught:
                push(server, far, store, transport, *artifacts)
            assert caught.value.hint is not None
            assert "make room" in caught.value.hint
            assert whole(far)
            assert list((far / "tmp").iterdir()) == []
        with Store.open(tmp_path / "second") as second:
            assert FileBinhost(far, accept).pull(small.key, second) == small
    finally:
        subprocess.run(["umount", far], check=True)


def outgoing(content: bytes) -> Outgoing:
    return Outgoing(digest_bytes(content), len(content), lambda: BytesIO(content))


def test_more_small_blobs_than_a_server_may_have_open(
    server: Sshd, store: Store, transport: SftpTransport, tmp_path: Path
) -> None:
    """Most servers let a process have 1024 files open."""
    assert server.process is not None
    before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        publisher = remote(ssh_address(server.url(tmp_path)), transport, "a" * 16)
        publisher.put([outgoing(b"%d" % n) for n in range(2500)], lambda _sent, _of: None)
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
    assert len(names(tmp_path)) == 2500
    assert whole(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_place_at_all(server: Sshd, store: Store, transport: SftpTransport) -> None:
    with pytest.raises(FetchError, match=r"refuses|cannot be made") as caught:
        push(server, Path("/proc/nowhere"), store, transport, built(store, "nginx"))
    assert caught.value.hint


# -- who is at the other end


def shown(key: Path) -> str:
    """The fingerprint of a key, as people compare it."""
    argv = ["ssh-keygen", "-lf", f"{key}.pub"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def test_an_unknown_host_key(server: Sshd, tmp_path: Path, transport: SftpTransport) -> None:
    server.known_hosts.write_text("")
    try:
        with pytest.raises(LocationError, match="not known") as caught:
            read_small(transport, server.url(tmp_path / "x"), 10)
    finally:
        server.know()
    assert shown(server.host_key) in caught.value.message
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> ~/.ssh/known_hosts" in str(caught.value.hint)
    assert "ssh_host_ed25519_key.pub" in str(caught.value.hint)
    assert caught.value.unreachable


def test_a_changed_host_key(server: Sshd, tmp_path: Path, transport: SftpTransport) -> None:
    stranger = keygen(tmp_path / "stranger")
    kind, key = Path(f"{stranger}.pub").read_text().split()[:2]
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    try:
        with pytest.raises(LocationError, match="has changed") as caught:
            read_small(transport, server.url(tmp_path / "x"), 10)
    finally:
        server.know()
    assert shown(server.host_key) in caught.value.message
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}' && ssh-keyscan" in str(caught.value.hint)


def test_a_login_that_is_refused(server: Sshd, tmp_path: Path, transport: SftpTransport) -> None:
    allowed = server.root / "authorized_keys"
    before = allowed.read_text()
    allowed.write_text("")
    try:
        with pytest.raises(LocationError, match="refuses the login") as caught:
            read_small(transport, server.url(tmp_path / "x"), 10)
    finally:
        allowed.write_text(before)
    assert f"ssh -p {server.port} 127.0.0.1" in str(caught.value.hint)


def test_nobody_listens(tmp_path: Path, server: Sshd, transport: SftpTransport) -> None:
    with pytest.raises(LocationError, match="Connection refused") as caught:
        read_small(transport, f"ssh://127.0.0.1:1/{tmp_path}", 10)
    assert caught.value.unreachable


SERVERS = {
    "noise": ("/bin/sh -c 'echo Welcome to this machine; exec {sftp}'", "prints text before SFTP"),
    "hung": ("/bin/sleep 1000", "no answer for"),
    "gone": ("/bin/false", "connection was lost"),
    "zeros": ("/bin/cat /dev/zero", "does not speak SFTP"),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_servers_that_do_not_speak_sftp(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, message = SERVERS[kind]
    script = tmp_path / "subsystem"
    script.write_text(f"#!/bin/sh\n{command.format(sftp='/usr/lib/openssh/sftp-server')}\n")
    script.chmod(0o755)
    with sshd(tmp_path / "ssh", str(script)) as odd:
        monkeypatch.setenv("BUILDIT_SSH", odd.program)
        account = ssh_address(odd.url(tmp_path))
        begun = time.monotonic()
        with pytest.raises(LocationError, match=message) as caught:
            connect(account, Waits(first=2.0 if kind == "hung" else 30.0))
        assert caught.value.unreachable
        assert time.monotonic() - begun < 60


TALKERS = {
    "chatter": ("while :; do echo still there >&2; sleep 0.1; done", "no answer for 1 sec"),
    "flood": ("yes some text >&2", "no answer for 1 sec"),
    "no end": ("yes some text >&2 & exec >&-; exec sleep 1000", "connection was lost"),
    "left behind": ("timeout 60 yes some text >&2 & exit 255", "ssh: some text$|was lost"),
}


def alive(group: int) -> list[str]:
    """What runs in a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if state != "Z" and int(its_group) == group:
                found.append(path.parent.name)
    return found


@pytest.mark.parametrize("kind", TALKERS)
def test_an_ssh_that_only_talks(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A banner, a ProxyCommand: what comes on stderr is no answer, and nothing stays behind."""
    command, message = TALKERS[kind]
    script = tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{command}\n")
    script.chmod(0o755)
    monkeypatch.setenv("BUILDIT_SSH", str(script))
    begun = time.monotonic()
    with pytest.raises(LocationError, match=message):
        connect(ssh_address("h.example/x"), Waits(first=1.0 if "no answer" in message else 30.0))
    assert time.monotonic() - begun < 25
    while kind != "left behind" and alive(int((tmp_path / "pid").read_text())):
        assert time.monotonic() - begun < 60
        time.sleep(0.05)


def test_a_missing_client(tmp_path: Path, server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDIT_SSH", "/nonexistent/ssh")
    with pytest.raises(LocationError, match="cannot be started") as caught:
        connect(ssh_address(server.url(tmp_path)))
    assert "openssh-client" in str(caught.value.hint)


# -- paramiko, where there is no ssh


@pytest.fixture
def paramiko_home(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("paramiko")
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    shutil.copy(server.user_key, home / ".ssh/id_ed25519")
    shutil.copy(server.known_hosts, home / ".ssh/known_hosts")
    monkeypatch.delenv("BUILDIT_SSH")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    return home


def test_paramiko_takes_the_place_of_ssh(
    server: Sshd,
    store: Store,
    other: Store,
    transport: SftpTransport,
    tmp_path: Path,
    paramiko_home: Path,
) -> None:
    artifact = built(store, "nginx", os.urandom(3 << 20))
    far = tmp_path / "far"
    push(server, far, store, transport, artifact)
    assert host(server, far, transport).pull(artifact.key, other) == artifact
    assert whole(far)


@pytest.mark.parametrize("known", ["", "stranger"])
def test_paramiko_knows_the_host_or_refuses(
    server: Sshd, tmp_path: Path, paramiko_home: Path, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if known:
        kind, key = Path(f"{keygen(tmp_path / 'k')}.pub").read_text().split()[:2]
        text = f"[127.0.0.1]:{server.port} {kind} {key}\n"
    shown = subprocess.run(
        ["ssh-keygen", "-lf", f"{server.host_key}.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    (paramiko_home / ".ssh/known_hosts").write_text(text)
    with pytest.raises(LocationError, match="changed" if known else "not known") as caught:
        connect(replace(ssh_address(server.url(tmp_path)), user=""))
    assert shown in caught.value.message


NO_KEYS = b"\xff\xfe\nhost ssh-ed25519 !!!\nhost ssh-rsa AAAA\n@cert-authority * ssh-ed25519 A\n"


def test_paramiko_reads_known_hosts_as_ssh_does(
    server: Sshd, tmp_path: Path, paramiko_home: Path
) -> None:
    """Lines that say nothing are passed over, marks are never taken for a name."""
    known = paramiko_home / ".ssh/known_hosts"
    line = server.known_hosts.read_bytes()
    account = ssh_address(server.url(tmp_path))
    known.write_bytes(NO_KEYS + line)
    connect(account).close()
    refused = {
        b"@revoked " + line + line: "is revoked",
        line + b"@revoked * " + line.split(b" ", 1)[1]: "is revoked",
        b"@cert-authority " + line: "is not known",
        b"#" + line: "is not known",
    }
    for text, reason in refused.items():
        known.write_bytes(text)
        with pytest.raises(LocationError, match=reason):
            connect(account)
    known.write_bytes(line)
    (paramiko_home / ".ssh/id_rsa").write_bytes(b"\xff\xfe no key")
    (paramiko_home / ".ssh/id_ed25519").unlink()
    with pytest.raises(LocationError, match=r"ssh: |refuses the login"):
        connect(account)


def test_errors_are_of_our_tree() -> None:
    assert issubclass(LocationError, BuilditError)
