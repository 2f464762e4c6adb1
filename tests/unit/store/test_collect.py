from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import StoreError
from buildit.model.artifact import RUNTIME
from buildit.store.artifacts import commit, lookup
from buildit.store.cas import Store
from buildit.store.names import FailedBuild, find_failure, keep_failure, named
from buildit.store.upkeep import Garbage, add_root, check_store, collect, garbage, roots
from tests.unit.store.build import add_artifact, key, leftovers

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store")
    for name in ("www-servers/nginx", "sys-libs/zlib"):
        commit(store, add_artifact(store, name))
    store.put_bytes(b"stray")
    store.close()  # its lease would keep all this
    return store


def test_without_roots_everything_goes(store: Store) -> None:
    found = garbage(store)
    assert len(found.keys) == 2
    assert len(found.blobs) == 11
    assert found.size == sum(path.stat().st_size for path in store.blobs.iterdir())
    assert len(os.listdir(store.blobs)) == 11, "asking changes nothing"
    assert collect(store) == found
    assert os.listdir(store.blobs) == os.listdir(store.root / "k") == []
    assert named(store) == ()
    assert collect(store) == Garbage()
    store.close()
    assert leftovers(store.root) == []


def test_a_root_keeps_all_that_its_keys_need(store: Store, tmp_path: Path) -> None:
    lock = tmp_path / "buildit.lock"
    lock.touch()
    add_root(store, lock, [key("www-servers/nginx")])
    store.close()
    found = collect(store)
    assert found.keys == (key("sys-libs/zlib"),)
    artifact = lookup(store, key("www-servers/nginx"))
    assert artifact is not None
    assert len(os.listdir(store.blobs)) == 5, "layer, contents, record, log and source"
    assert [entry.name for entry in named(store)] == ["www-servers/nginx"]
    lock.unlink()
    assert roots(store) == ()
    assert len(collect(store).roots) == 1
    assert os.listdir(store.root / "roots") == os.listdir(store.blobs) == []


def test_a_root_is_replaced_by_its_anchor(store: Store, tmp_path: Path) -> None:
    image = tmp_path / os.fsdecode(b"im\xffage")
    image.touch()
    add_root(store, image, ["a"])
    add_root(store, image, ["b"])
    (root,) = roots(store)
    assert root.names == {"b"}
    assert root.anchor == image


def test_digests_can_be_kept_by_name(store: Store) -> None:
    stray = digest_bytes(b"stray")
    collect(store, keep=[stray])
    assert os.listdir(store.blobs) == [stray]


def test_what_another_process_made_or_pinned_stays(store: Store) -> None:
    other = Store.open(store.root)
    other.pin([key("sys-libs/zlib")])
    fresh = add_artifact(other, "fresh")  # not committed yet
    collect(store)
    assert lookup(store, key("sys-libs/zlib")) is not None
    assert lookup(store, key("www-servers/nginx")) is None
    commit(other, fresh)
    assert lookup(store, fresh.key) == fresh
    collect(store)
    assert lookup(store, fresh.key) == fresh
    other.close()
    collect(store)
    assert os.listdir(store.blobs) == []


def test_an_old_blob_that_a_process_wants_anew_stays(store: Store) -> None:
    old = digest_bytes(b"stray")
    os.utime(store.path(old), (1, 1))
    other = Store.open(store.root)
    other.put_bytes(b"stray")
    os.utime(store.path(old), (1, 1))  # not its age alone keeps it
    collect(store)
    assert store.has(old)
    other.close()


def test_what_is_younger_than_a_lease_stays_even_without_a_pin(store: Store) -> None:
    time.sleep(0.02)  # beyond one tick of the kernel's file times
    other = Store.open(store.root)
    other.lease()
    path = store.path(digest_bytes(b"by hand"))
    path.write_bytes(b"by hand")
    collect(store)
    assert os.listdir(store.blobs) == [path.name]
    other.close()


def test_the_future_is_never_collected(store: Store) -> None:
    stray = digest_bytes(b"stray")
    os.utime(store.path(stray), (time.time() + 1e8, time.time() + 1e8))
    collect(store)
    assert os.listdir(store.blobs) == [stray]


def test_an_unreadable_root_stops_everything(store: Store) -> None:
    (store.root / "roots" / "x.json").write_bytes(b"{")
    for attempt in (garbage, collect):
        with pytest.raises(StoreError, match="nothing is collected"):
            attempt(store)
    assert len(os.listdir(store.blobs)) == 11


def test_trees_failures_and_corrupt_objects_go(store: Store, tmp_path: Path) -> None:
    store.named_tree("toolchain", lambda path: (path / "closed").mkdir(mode=0))
    store.named_tree("kept", lambda _: None)
    log = tmp_path / "log"
    log.touch()
    keep_failure(store, FailedBuild(key("x"), "x", "1", "compile", "exit 2", log, None))
    keep_failure(store, FailedBuild(key("y"), "y", "1", "compile", "exit 2", log, None))
    store.set_aside(digest_bytes(b"stray"))
    store.close()
    found = collect(store, keep=["kept", key("y")])
    assert [path.name for path in found.trees] == ["toolchain"]
    assert sorted(os.listdir(store.root / "trees")) == ["kept", "kept.ok", "kept.seal"]
    assert find_failure(store, key("x")) is None
    assert find_failure(store, key("y")) is not None
    assert os.listdir(store.root / "corrupt") == []


def test_collecting_half_leaves_a_miss_never_a_broken_promise(store: Store) -> None:
    artifact = lookup(store, key("sys-libs/zlib"))
    assert artifact is not None
    store.path(artifact.outputs[RUNTIME].diff_id).unlink()
    assert lookup(store, artifact.key) is None
    (fault,) = check_store(store).faults
    assert "is missing" in fault.reason
