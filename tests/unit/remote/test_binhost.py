from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import FetchError, IntegrityError, UsageError
from buildit.events import Event, Notice
from buildit.model.artifact import RUNTIME, Artifact, Encoding
from buildit.remote.binhost.binhost import Binhost
from buildit.remote.binhost.protocols import SIGNATURE_LIMIT, WantedBlob
from buildit.remote.transport import LocalTransport
from buildit.store.artifacts import commit, lookup, signature_path, statement_paths
from buildit.store.cas import Store
from buildit.store.upkeep import check_store
from tests.hosts import BUILDER, FileBinhost, accept, pull_blobs, readable, sign
from tests.unit.store.build import add_artifact, leftovers

pytestmark = pytest.mark.unit


def accept_all(content: bytes, signature: bytes | None, builder: str) -> None:
    """The policy of one's own unsigned directory."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "other")


@pytest.fixture
def binhost(tmp_path: Path) -> FileBinhost:
    return FileBinhost(tmp_path / "binhost", accept)


def pushed(store: Store, binhost: FileBinhost) -> Artifact:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact, BUILDER, sign)
    binhost.push(artifact.key, store)
    return artifact


def test_a_second_store_takes_everything(store: Store, other: Store, binhost: FileBinhost) -> None:
    artifact = pushed(store, binhost)
    assert binhost.pull(artifact.key, other) == artifact
    assert lookup(other, artifact.key) == artifact
    (path,) = statement_paths(other.root, artifact.key)
    assert signature_path(path).read_bytes() == sign(path.read_bytes())
    assert artifact.log is not None
    assert other.read(artifact.log).startswith(b"log of nginx")
    source = artifact.materials[0][1]
    assert not other.has(source), "sources come only when they are asked for"
    assert binhost.pull_blob(source, other, 1000)
    assert other.read(source) == b"source of nginx"
    assert not binhost.pull_blob(digest_bytes(b"unknown"), other, 1000)
    assert check_store(other).faults == ()
    assert leftovers(binhost.root) == []


def test_pushing_again_adds_nothing(store: Store, binhost: FileBinhost) -> None:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact, BUILDER, sign)
    assert binhost.push(artifact.key, store).blobs == 5
    assert binhost.push(artifact.key, store).blobs == 0
    assert check_store(Store.open(binhost.root)).faults == ()


def test_a_binhost_without_the_key_is_a_miss(other: Store, binhost: FileBinhost) -> None:
    assert binhost.pull(add_artifact(other, "nginx").key, other) is None
    assert not binhost.root.exists(), "asking creates nothing"


def test_a_binhost_can_be_read_only(store: Store, other: Store, binhost: FileBinhost) -> None:
    artifact = pushed(store, binhost)
    before = sorted(path for path in binhost.root.rglob("*"))
    for path in before:
        if path.is_dir():
            path.chmod(0o555)
    assert binhost.pull(artifact.key, other) == artifact
    assert sorted(path for path in binhost.root.rglob("*")) == before


def test_unsigned_builds_pass_only_where_asked(store: Store, other: Store, tmp_path: Path) -> None:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact)
    strict = FileBinhost(tmp_path / "binhost", accept_all)
    lax = FileBinhost(tmp_path / "binhost", accept_all, unsigned=True)
    with pytest.raises(UsageError, match="not signed") as caught:
        strict.push(artifact.key, store)
    assert caught.value.hint is not None
    assert "signing-key" in caught.value.hint
    assert not strict.root.exists()
    lax.push(artifact.key, store)
    with pytest.raises(IntegrityError, match="not signed"):
        strict.pull(artifact.key, other)
    assert lookup(other, artifact.key) is None
    assert lax.pull(artifact.key, other) == artifact


def test_the_policy_comes_before_any_other_byte(
    store: Store, other: Store, binhost: FileBinhost
) -> None:
    artifact = pushed(store, binhost)
    (path,) = statement_paths(binhost.root, artifact.key)
    signature_path(path).unlink()
    with pytest.raises(IntegrityError, match="not trusted"):
        binhost.pull(artifact.key, other)
    assert os.listdir(other.blobs) == []


def flip(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flip,
    "truncated": lambda content: content[:-1],
    "empty": lambda _: b"",
    "oversized": lambda content: content + b"x" * 5000,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("what", ["layer", "contents", "record", "log", "statement", "signature"])
def test_wrong_bytes_are_refused_and_never_kept(
    store: Store, other: Store, binhost: FileBinhost, what: str, damage: str
) -> None:
    artifact = pushed(store, binhost)
    output = artifact.outputs[RUNTIME]
    assert artifact.log is not None
    (statement,) = statement_paths(binhost.root, artifact.key)
    blobs = binhost.root / "blobs/sha256"
    path = {
        "layer": blobs / output.diff_id,
        "contents": blobs / output.contents,
        "record": blobs / artifact.record,
        "log": blobs / artifact.log,
        "statement": statement,
        "signature": signature_path(statement),
    }[what]
    content = DAMAGE[damage](path.read_bytes())
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        binhost.pull(artifact.key, other)
    if what in ("layer", "contents", "record", "log"):
        assert caught.value.place == str(path)
    assert lookup(other, artifact.key) is None
    assert os.listdir(other.blobs) == [], "one bad blob, nothing kept"
    assert check_store(other).faults == ()


@pytest.mark.parametrize("kind", ["gone", "directory", "symlink", "fifo"])
def test_what_is_no_blob_is_refused_at_once(
    store: Store, other: Store, binhost: FileBinhost, kind: str
) -> None:
    artifact = pushed(store, binhost)
    path = binhost.root / "blobs/sha256" / artifact.outputs[RUNTIME].diff_id
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to(store.path(artifact.outputs[RUNTIME].diff_id))
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises((FetchError, IntegrityError)) as caught:
        binhost.pull(artifact.key, other)
    assert caught.value.place == str(path)
    assert lookup(other, artifact.key) is None


def test_an_endless_source_stops_at_its_limit(store: Store, other: Store, tmp_path: Path) -> None:
    binhost = FileBinhost(tmp_path / "binhost", accept)
    digest = digest_bytes(b"promised")
    blobs = binhost.root / "blobs/sha256"
    blobs.mkdir(parents=True)
    with (blobs / digest).open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="more than the 1000"):
        binhost.pull_blob(digest, other, 1000)
    assert os.listdir(other.blobs) == os.listdir(other.root / "tmp") == []


def test_an_oversized_signature_is_refused(
    store: Store, other: Store, binhost: FileBinhost
) -> None:
    artifact = pushed(store, binhost)
    (statement,) = statement_paths(binhost.root, artifact.key)
    signature_path(statement).unlink()
    signature_path(statement).write_bytes(b"x" * (SIGNATURE_LIMIT + 1))
    with pytest.raises(IntegrityError, match="more than"):
        binhost.pull(artifact.key, other)


def test_another_key_under_this_keys_name_is_refused(
    store: Store, other: Store, binhost: FileBinhost
) -> None:
    artifact = pushed(store, binhost)
    victim = add_artifact(store, "zlib")
    there = binhost.root / "k" / victim.key[:2] / victim.key
    there.parent.mkdir(exist_ok=True)
    (binhost.root / "k" / artifact.key[:2] / artifact.key).rename(there)
    with pytest.raises(IntegrityError, match="speaks of key"):
        binhost.pull(victim.key, other)


def test_one_good_builder_is_enough(store: Store, other: Store, tmp_path: Path) -> None:
    events: list[Event] = []
    binhost = FileBinhost(tmp_path / "binhost", accept, report=events.append)
    artifact = pushed(store, binhost)
    (statement,) = statement_paths(binhost.root, artifact.key)
    statement.with_name(f"{'00' * 32}.json").write_bytes(b"{}")
    assert binhost.pull(artifact.key, other) == artifact
    assert [type(event) for event in events] == [Notice]


def test_a_second_statement_by_one_builder_is_kept_beside(
    store: Store, other: Store, binhost: FileBinhost
) -> None:
    first = pushed(store, binhost)
    second = add_artifact(other, "nginx", b"another layer")
    commit(other, second, BUILDER, sign)
    result = binhost.push(second.key, other)
    assert len(result.differs) == 1
    assert len(list(statement_paths(binhost.root, first.key))) == 2
    third = Store.open(other.root.parent / "third")
    assert binhost.pull(first.key, third) == first, "the first stays the first"


def test_a_corrupt_local_blob_is_not_pushed(store: Store, binhost: FileBinhost) -> None:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact, BUILDER, sign)
    layer = store.path(artifact.outputs[RUNTIME].diff_id)
    content = flip(layer.read_bytes())
    layer.chmod(0o644)
    layer.write_bytes(content)
    with pytest.raises(IntegrityError, match="corrupt"):
        binhost.push(artifact.key, store)
    assert list(statement_paths(binhost.root, artifact.key)) == []
    with pytest.raises(UsageError, match="nothing to push"):
        binhost.push(artifact.key, store)


def test_a_compressed_form_that_wants_much_memory_is_refused(other: Store, tmp_path: Path) -> None:
    """Several layers are unpacked at a time: none may ask for 64 MiB."""
    zstd = pytest.importorskip("backports.zstd")
    plain = bytes(range(256)) * 1024
    options = {zstd.CompressionParameter.window_log: 26}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(plain) + compressor.flush()
    with Store.open(tmp_path / "site") as site:
        form = Encoding("zstd", site.put_bytes(packed), len(packed))
    far = Binhost("far", readable(str(tmp_path / "site"), LocalTransport()), accept)
    digest = digest_bytes(plain)
    wanted = WantedBlob(digest, len(plain), len(plain), forms=(form,))
    with pytest.raises(IntegrityError, match="memory"):
        pull_blobs(far, (wanted,), other)
    assert not other.has(digest)
