from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from buildit.digest import Digest, digest_bytes
from buildit.store.artifacts import commit, lookup, statement_paths
from buildit.store.cas import Store
from buildit.store.upkeep import Remedy, check_store
from tests.unit.store.build import add_artifact

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_a_sound_store_has_no_faults(store: Store) -> None:
    commit(store, add_artifact(store, "nginx"))
    store.named_tree("toolchain", lambda _: None)
    report = check_store(store)
    assert report.faults == ()
    assert (report.blobs, report.statements) == (5, 1)
    assert report.size == sum(path.stat().st_size for path in store.blobs.iterdir())


def test_every_flipped_bit_is_found_and_healed(store: Store) -> None:
    """THREATS N6 in small: one bit of every object, all found in one run, all rebuilt the same."""
    contents = [b"object %d" % number * 3 for number in range(100)]
    with store.batch() as batch:
        digests = [batch.put_bytes(content) for content in contents]
    chance = random.Random(6)
    for digest in digests:
        path = store.path(digest)
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(0o444)
    report = check_store(store)
    assert {fault.path for fault in report.faults} == {f"blobs/sha256/{d}" for d in digests}
    assert {fault.remedy for fault in report.faults[:4]} >= {Remedy.SET_ASIDE}
    assert os.listdir(store.blobs) == []
    assert len(os.listdir(store.root / "corrupt")) == 100
    assert [store.put_bytes(content) for content in contents] == digests
    assert check_store(store).faults == ()


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "bad name"])
def test_what_is_no_object_is_set_aside(store: Store, kind: str) -> None:
    path = store.path(digest_bytes(b"x"))
    if kind == "symlink":
        path.symlink_to("/etc/passwd")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = store.path(Digest("README"))
        path.touch()
    (fault,) = check_store(store).faults
    assert fault.remedy is Remedy.SET_ASIDE
    assert not os.path.lexists(path)


def test_modes_are_repaired_and_hard_links_named(store: Store, tmp_path: Path) -> None:
    first, second = store.put_bytes(b"first"), store.put_bytes(b"second")
    store.path(first).chmod(0o666)
    os.link(store.path(second), tmp_path / "link")
    faults = {fault.path: fault for fault in check_store(store).faults}
    assert faults[f"blobs/sha256/{first}"].remedy is Remedy.REPAIRED
    assert "2 hard links" in faults[f"blobs/sha256/{second}"].reason
    assert [fault.path for fault in check_store(store).faults] == [f"blobs/sha256/{second}"]


def test_statements_are_read_and_all_listed(store: Store) -> None:
    artifacts = [add_artifact(store, name) for name in ("a", "b", "c", "d")]
    paths: list[Path] = []
    for artifact in artifacts:
        commit(store, artifact)
        paths += statement_paths(store.root, artifact.key)
    for path in paths[:3]:
        path.chmod(0o644)
    paths[0].write_bytes(b"")
    paths[0].with_name("local.json.sig").write_bytes(b"x")
    paths[1].write_bytes(paths[1].read_bytes() + b"\n")
    paths[2].rename(paths[2].with_name("notes.txt"))
    paths[3].with_name(f"{'0' * 64}.json.sig").touch()
    report = check_store(store)
    assert len(report.faults) == 5
    assert {fault.remedy for fault in report.faults} == {Remedy.SET_ASIDE, Remedy.REPAIRED}
    assert check_store(store).faults == ()
    for artifact in artifacts[:3]:
        assert lookup(store, artifact.key) is None
        commit(store, artifact)
        assert lookup(store, artifact.key) == artifact


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_the_layout_is_repaired(store: Store, name: str, content: bytes | None) -> None:
    path = store.root / name
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    (fault,) = check_store(store).faults
    assert (fault.path, fault.remedy) == (name, Remedy.REPAIRED)
    assert path.read_bytes() == before
    assert check_store(store).faults == ()


@pytest.mark.parametrize("name", ["trees", "corrupt", "logs", "roots", "n", "k", "blobs/sha256"])
def test_a_lost_directory_comes_back(store: Store, name: str) -> None:
    (store.root / name).rmdir()
    assert [fault.path for fault in check_store(store).faults] == [name]
    assert (store.root / name).is_dir()


def test_a_partial_tree_goes(store: Store) -> None:
    (store.root / "trees" / "half").mkdir()
    (store.root / "trees" / "lost.ok").write_bytes(b"x")
    store.named_tree("whole", lambda _: None)
    assert {fault.path for fault in check_store(store).faults} == {"trees/half", "trees/lost.ok"}
    assert sorted(os.listdir(store.root / "trees")) == ["whole", "whole.ok", "whole.seal"]
