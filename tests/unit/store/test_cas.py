from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildit.digest import Digest, digest_bytes
from buildit.errors import IntegrityError, StoreError
from buildit.store.blobs import FSYNC_AT_MOST
from buildit.store.cas import Store
from buildit.store.disk import Disk, Faults
from tests.scale import examples
from tests.unit.store.build import leftovers

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_blobs_are_read_only_named_by_digest_and_private(store: Store) -> None:
    old = os.umask(0o077)
    try:
        digest = store.put_bytes(b"hello")
    finally:
        os.umask(old)
    assert digest == digest_bytes(b"hello")
    status = store.path(digest).stat()
    assert stat.S_IMODE(status.st_mode) == 0o444
    assert status.st_nlink == 1
    assert store.read(digest) == b"hello"
    assert store.size(digest) == 5
    store.close()
    assert leftovers(store.root) == []


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=300), max_size=5))
def test_what_goes_in_comes_out(store: Store, chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    with store.ingest() as sink:
        for chunk in chunks:
            assert sink.write(chunk) == len(chunk)
        digest = sink.commit(digest_bytes(whole))
    with store.checked(digest) as stream:
        assert stream.read() == whole
    assert sorted(os.listdir(store.blobs)).count(digest) == 1


def test_wrong_bytes_never_get_a_name(store: Store) -> None:
    wanted = digest_bytes(b"right")
    with store.ingest() as sink:
        sink.write(b"wrong")
        with pytest.raises(IntegrityError, match=digest_bytes(b"wrong")) as caught:
            sink.commit(wanted)
    assert caught.value.place == f"sha256:{wanted}"
    assert os.listdir(store.blobs) == []
    assert os.listdir(store.root / "tmp") == []


def test_an_uncommitted_sink_leaves_nothing(store: Store) -> None:
    with store.ingest() as sink:
        sink.write(b"half")
    assert os.listdir(store.root / "tmp") == os.listdir(store.blobs) == []


@pytest.mark.parametrize("count", [1, FSYNC_AT_MOST, FSYNC_AT_MOST + 5])
def test_a_batch_becomes_visible_at_its_end(store: Store, count: int) -> None:
    with store.batch() as batch:
        digests = [batch.put_bytes(b"%d" % number) for number in range(count)]
        assert not any(map(store.has, digests))
    assert [store.read(digest) for digest in digests] == [b"%d" % n for n in range(count)]
    assert os.listdir(store.root / "tmp") == []


def test_a_batch_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_batch(store)
    assert os.listdir(store.root / "tmp") == os.listdir(store.blobs) == []


def test_the_same_blob_twice_in_a_batch(store: Store) -> None:
    with store.batch() as batch:
        assert batch.put_bytes(b"same") == batch.put_bytes(b"same")
    assert len(os.listdir(store.blobs)) == 1


def test_an_existing_equal_blob_is_kept(store: Store) -> None:
    digest = store.put_bytes(b"kept")
    inode = store.path(digest).stat().st_ino
    os.utime(store.path(digest), (1, 1))
    store.put_bytes(b"kept")
    with store.ingest() as sink:
        sink.write(b"kept")
        sink.commit()
    assert store.path(digest).stat().st_ino == inode
    assert store.path(digest).stat().st_mtime > 1, "its age starts anew, for the collector"


@pytest.mark.parametrize("put_again", ["put_bytes", "ingest"])
def test_putting_heals_a_corrupt_blob(store: Store, put_again: str) -> None:
    digest = store.put_bytes(b"right")
    corrupt(store, digest, b"wrong")
    if put_again == "put_bytes":
        store.put_bytes(b"right")
    else:
        with store.ingest() as sink:
            sink.write(b"right")
            sink.commit()
    assert store.read(digest) == b"right"
    assert len(os.listdir(store.root / "corrupt")) == 1


@pytest.mark.parametrize("content", [b"", b"righ", b"wrong", b"right\0"])
def test_corrupt_bytes_are_never_served_and_set_aside(store: Store, content: bytes) -> None:
    digest = store.put_bytes(b"right")
    corrupt(store, digest, content)
    with pytest.raises(IntegrityError, match="set aside"):
        store.read(digest)
    assert not store.has(digest)
    assert [name.partition(".")[0] for name in os.listdir(store.root / "corrupt")] == [digest]


def test_a_missing_blob_is_named(store: Store) -> None:
    digest = Digest("0" * 64)
    assert not store.has(digest)
    with pytest.raises(StoreError) as caught:
        store.open_blob(digest)
    assert caught.value.place == f"sha256:{digest}"
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["directory", "symlink", "fifo"])
def test_what_is_no_regular_file_is_no_blob(store: Store, kind: str) -> None:
    digest = digest_bytes(b"x")
    path = store.path(digest)
    if kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)
    assert not store.has(digest)


@pytest.mark.parametrize("effect", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("step", ["create", "write", "sync", "publish"])
@pytest.mark.parametrize("count", [1, FSYNC_AT_MOST + 1])
def test_a_failing_disk_leaves_nothing(tmp_path: Path, step: str, effect: str, count: int) -> None:
    root = Store.open(tmp_path / "store").root
    store = Store(root, Disk(Faults(f"blob-{step}", 1, effect)))
    with pytest.raises(StoreError) as caught:
        put_batch(store, count)
    assert os.strerror(getattr(errno, effect)) in caught.value.message
    assert caught.value.hint
    assert os.listdir(store.blobs) == os.listdir(root / "tmp") == []
    assert store.read(store.put_bytes(b"0")) == b"0", "the next one works"


def test_no_file_descriptor_is_left_open(store: Store) -> None:
    store.lease()
    before = len(os.listdir("/proc/self/fd"))
    store.put_bytes(b"1")
    with store.batch() as batch:
        for number in range(FSYNC_AT_MOST + 3):
            batch.put_bytes(b"%d" % number)
    with pytest.raises(IntegrityError), store.ingest() as sink:
        sink.commit(Digest("0" * 64))
    with pytest.raises(KeyboardInterrupt):
        interrupted_batch(store)
    assert len(os.listdir("/proc/self/fd")) == before


def put_batch(store: Store, count: int) -> None:
    with store.batch() as batch:
        for number in range(count):
            batch.put_bytes(b"%d" % number)


def interrupted_batch(store: Store) -> None:
    with store.batch() as batch:
        batch.put_bytes(b"lost")
        raise KeyboardInterrupt


def corrupt(store: Store, digest: Digest, content: bytes) -> None:
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)
